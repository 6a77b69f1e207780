//! Where ranks meet that have no MPI in common.

use crate::error::RanksError;

/// An address, as NCCL reads it; set by the user it comes before all others.
pub const ADDRESS: &str = "NCCL_COMM_ID";

/// How ranks learn what they meet by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// Rank 0 listens at this address, which all know.
    Address(String),
    /// By a key in the store that torchrun's agent holds at this address. The store outlives a restart of its processes, so
    /// the key is another for each.
    Store {
        /// Host and port.
        address: String,
        /// The key.
        key: String,
    },
}

/// What the variables of the environment, looked up by `variable`, say about ranks that torchrun started, or what sets its
/// variables.
///
/// # Errors
/// If there is no address.
pub fn meeting(variable: impl Fn(&str) -> Option<String>) -> Result<Meeting, RanksError> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(address) = set(ADDRESS) {
        return Ok(Meeting::Address(address));
    }
    let lacks = |variable| RanksError::Variable {
        launcher: "torchrun",
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
            let [run, restart] =
                ["TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"].map(|name| set(name).unwrap_or_default());
            Meeting::Store { address, key: format!("tetrad/{run}/{restart}/id") }
        }
        false => Meeting::Address(address),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Meeting, RanksError> {
        meeting(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn an_agent_has_a_store_and_others_an_address() {
        let place = [("MASTER_ADDR", "host"), ("MASTER_PORT", "29500")];
        assert_eq!(of(&place), Ok(Meeting::Address("host:29500".into())));
        let agent = [
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("TORCHELASTIC_RUN_ID", "a"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
        ];
        let store = Meeting::Store { address: "host:29500".into(), key: "tetrad/a/2/id".into() };
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
}
