//! Where ranks meet that have no MPI in common.

use super::Launcher;
use crate::error::{RanksError, ReplaceError};
use crate::store::{create_folder, replace, ticks};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

/// Between two looks for a file.
const PAUSE: Duration = Duration::from_millis(100);

/// An address, as NCCL reads it; set by the user it comes before all others.
pub const ADDRESS: &str = "NCCL_COMM_ID";

/// How ranks learn what they meet by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// Rank 0 listens at this address, which all know.
    Address(String),
    /// By keys in the store that torchrun's agent holds at this address. The store outlives a restart of its processes
    /// ([`spread`](super::spread)).
    Store {
        /// Host and port.
        address: String,
        /// What keys begin with.
        keys: String,
    },
    /// By a file of this name in the folder of the run, which all see. The name is another one each time that they are started.
    File(String),
}

/// How ranks meet that `launcher` started and MPI does not connect, by what the variables of the environment, looked up by
/// `variable`, say.
///
/// # Errors
/// If there is no address.
pub fn meeting(launcher: Launcher, variable: impl Fn(&str) -> Option<String>) -> Result<Meeting, RanksError> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(address) = set(ADDRESS) {
        return Ok(Meeting::Address(address));
    }
    if launcher == Launcher::Slurm {
        let part = |name| set(name).unwrap_or_default();
        let [job, step, restart] = ["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"].map(part);
        return Ok(Meeting::File(format!(".meeting-{job}-{step}-{restart}")));
    }
    let lacks = |variable| RanksError::Variable {
        launcher: launcher.name(),
        variable,
        found: String::new(),
        allowed: "must say where rank 0 is",
    };
    let host = set("MASTER_ADDR").ok_or_else(|| lacks("MASTER_ADDR"))?;
    let port = set("MASTER_PORT").ok_or_else(|| lacks("MASTER_PORT"))?;
    let address = match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    Ok(match set("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        true => {
            let run = set("TORCHELASTIC_RUN_ID").unwrap_or_default();
            Meeting::Store { address, keys: format!("tetrad/{run}") }
        }
        false => Meeting::Address(address),
    })
}

/// Leaves `value` for the other ranks at `path`, whose folder is made if it is missing.
///
/// # Errors
/// Those of the file system.
pub fn leave(path: &Path, value: &[u8]) -> Result<(), RanksError> {
    let said = |error: &dyn std::fmt::Display| RanksError::MeetingFile { path: path.into(), said: error.to_string() };
    create_folder(path.parent().unwrap_or(Path::new("."))).map_err(|error| said(&error))?;
    replace(path, value.len() as u64, |out| out.write_all(value)).map_err(|error| match error {
        ReplaceError::Store(error) => said(&error),
        ReplaceError::Write(error) => said(&error),
    })
}

/// Fills `value` with what rank 0 leaves at `path`, once it is there.
///
/// # Errors
/// If it is not there within `limit`, or has another length.
pub fn find(path: &Path, value: &mut [u8], limit: Option<Duration>) -> Result<(), RanksError> {
    let begun = ticks();
    let found = loop {
        match std::fs::read(path) {
            Ok(found) => break found,
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(RanksError::MeetingFile { path: path.into(), said: error.to_string() });
            }
            Err(_) if limit.is_some_and(|limit| ticks().saturating_sub(begun) >= limit) => {
                let seconds = limit.unwrap_or_default().as_secs();
                return Err(RanksError::NoMeeting { path: path.into(), seconds });
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    };
    if found.len() != value.len() {
        let said = format!("{} bytes, {} were expected", found.len(), value.len());
        return Err(RanksError::MeetingFile { path: path.into(), said });
    }
    value.copy_from_slice(&found);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Meeting, RanksError> {
        meeting(Launcher::Torchrun, |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn an_agent_has_a_store_and_others_an_address() {
        let place = [("MASTER_ADDR", "host"), ("MASTER_PORT", "29500")];
        assert_eq!(of(&place), Ok(Meeting::Address("host:29500".into())));
        let agent = [("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RUN_ID", "a")];
        let store = Meeting::Store { address: "host:29500".into(), keys: "tetrad/a".into() };
        assert_eq!(of(&[&place[..], &agent].concat()), Ok(store));
        let no_agent = [("TORCHELASTIC_USE_AGENT_STORE", "False")];
        assert_eq!(of(&[&place[..], &no_agent].concat()), Ok(Meeting::Address("host:29500".into())));
        let named = [("NCCL_COMM_ID", "10.0.0.1:7")];
        assert_eq!(of(&[&place[..], &agent, &named].concat()), Ok(Meeting::Address("10.0.0.1:7".into())));
        let six = [("MASTER_ADDR", "::1"), ("MASTER_PORT", "5")];
        assert_eq!(of(&six), Ok(Meeting::Address("[::1]:5".into())));
        let said = of(&[("MASTER_ADDR", "host")]).unwrap_err().to_string();
        assert_eq!(said, "MASTER_PORT= of torchrun: must say where rank 0 is");
    }

    #[test]
    fn a_step_of_slurm_meets_by_a_file_of_its_own() {
        let of = |restart: &'static str| {
            let variables = [("SLURM_JOB_ID", "7"), ("SLURM_STEP_ID", "0"), ("SLURM_RESTART_COUNT", restart)];
            let value =
                move |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
            meeting(Launcher::Slurm, value)
        };
        assert_eq!(of(""), Ok(Meeting::File(".meeting-7-0-".into())));
        assert_ne!(of("1"), of(""));
    }

    #[test]
    fn what_is_left_is_found_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let mut value = [0; 3];
        let none = find(&path, &mut value, Some(Duration::ZERO)).unwrap_err().to_string();
        assert!(none.ends_with("a/b, by which ranks meet: rank 0 left nothing there for 0 s"), "{none}");
        std::thread::scope(|scope| {
            let late = scope.spawn(|| find(&path, &mut value, None));
            leave(&path, &[1, 2, 3]).unwrap();
            late.join().unwrap().unwrap();
        });
        assert_eq!(value, [1, 2, 3]);
        let short = find(&path, &mut [0; 2], None).unwrap_err().to_string();
        assert!(short.ends_with(": 3 bytes, 2 were expected"), "{short}");
    }
}
