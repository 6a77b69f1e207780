//! Which rank a process is, by the variables of whatever started it.

use crate::error::RanksError;

/// What starts several processes of one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// Hydra, the `mpiexec` of MPICH and of Intel MPI.
    Hydra,
    /// Slurm's `srun`.
    Slurm,
    /// PyTorch's `torchrun`, or what sets its variables.
    Torchrun,
}

/// Its variables: rank and size, of all and on this machine.
struct Variables {
    launcher: Launcher,
    rank: &'static str,
    size: &'static str,
    local_rank: &'static str,
    local_size: &'static str,
    /// Must be there too: the other names are common words.
    beside: Option<&'static str>,
}

const MPI: [Variables; 2] = [
    Variables {
        launcher: Launcher::OpenMpi,
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
        beside: None,
    },
    Variables {
        launcher: Launcher::Hydra,
        rank: "PMI_RANK",
        size: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        local_size: "MPI_LOCALNRANKS",
        beside: None,
    },
];

const TORCHRUN: Variables = Variables {
    launcher: Launcher::Torchrun,
    rank: "RANK",
    size: "WORLD_SIZE",
    local_rank: "LOCAL_RANK",
    local_size: "LOCAL_WORLD_SIZE",
    beside: Some("MASTER_ADDR"),
};

/// `SLURM_NTASKS` is there in a batch script too, which is one process; only a step's count says that there are several.
const SLURM: Variables = Variables {
    launcher: Launcher::Slurm,
    rank: "SLURM_PROCID",
    size: "SLURM_STEP_NUM_TASKS",
    local_rank: "SLURM_LOCALID",
    local_size: "SLURM_STEP_TASKS_PER_NODE",
    beside: None,
};

impl Launcher {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenMpi => "Open MPI's mpirun",
            Self::Hydra => "Hydra (mpiexec of MPICH or Intel MPI)",
            Self::Slurm => "srun",
            Self::Torchrun => "torchrun",
        }
    }
}

/// How a process was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// By what.
    pub launcher: Launcher,
    /// Number of this process.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// Number of this process among those on this machine; its number among all, if that is unknown.
    pub local_rank: usize,
    /// How many of them are on this machine; all, if that is unknown. Where torchrun's variables leave both out, as those of a
    /// Kubernetes job of one process for each machine do, it is the only one.
    pub local_size: usize,
}

/// What the variables of the environment, looked up by `variable`, say; nothing if there is one process.
///
/// # Errors
/// Variables that hold no numbers, and those of two launchers that disagree.
pub fn launch(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Launch>, RanksError> {
    let read = |of: &Variables| of.read(&variable);
    let mut found = Vec::new();
    for of in [&MPI[0], &MPI[1], &TORCHRUN] {
        found.extend(read(of)?);
    }
    // An MPI launcher inside of an allocation starts one process a machine by srun, and the ranks from there.
    if found.is_empty() {
        found.extend(read(&SLURM)?);
    }
    let Some(&first) = found.first() else { return Ok(None) };
    if let Some(second) = found.iter().find(|other| (other.rank, other.size) != (first.rank, first.size)) {
        let said = |launch: &Launch| (launch.launcher.name(), launch.rank, launch.size);
        return Err(RanksError::Launchers { first: said(&first), second: said(second) });
    }
    match first.size {
        1 => Ok(None),
        _ => Ok(Some(first)),
    }
}

impl Variables {
    fn read(&self, variable: &impl Fn(&str) -> Option<String>) -> Result<Option<Launch>, RanksError> {
        let launcher = self.launcher.name();
        let refuse = |variable, found: String, allowed| RanksError::Variable { launcher, variable, found, allowed };
        let number = |name: &'static str| match variable(name) {
            None => Ok(None),
            Some(text) => match text.trim().parse::<usize>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(refuse(name, text, "must be a whole number")),
            },
        };
        if self.beside.is_some_and(|name| variable(name).is_none()) {
            return Ok(None);
        }
        let (Some(rank), Some(size)) = (number(self.rank)?, number(self.size)?) else { return Ok(None) };
        if rank >= size {
            return Err(refuse(self.rank, rank.to_string(), "must be below the number of processes"));
        }
        // Slurm counts machine by machine: `4(x2),3`. The first is this one's unless machines differ.
        let local = variable(self.local_size).and_then(|text| {
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<usize>().ok()
        });
        let local_rank = number(self.local_rank)?;
        let lone = self.launcher == Launcher::Torchrun && local_rank.is_none();
        let local_size = local.filter(|&local| (1..=size).contains(&local)).unwrap_or(if lone { 1 } else { size });
        // Of machines that differ, Slurm's count is the first one's: a rank beyond it is not a mistake.
        let local_rank = local_rank.unwrap_or(if lone { 0 } else { rank });
        Ok(Some(Launch { launcher: self.launcher, rank, size, local_rank, local_size }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Launch>, RanksError> {
        launch(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn launchers_are_told_by_their_variables() {
        assert_eq!(of(&[]), Ok(None));
        let open_mpi = [
            ("OMPI_COMM_WORLD_RANK", "2"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ];
        let found = Launch { launcher: Launcher::OpenMpi, rank: 2, size: 4, local_rank: 0, local_size: 2 };
        assert_eq!(of(&open_mpi), Ok(Some(found)));
        let hydra = [("PMI_RANK", "0"), ("PMI_SIZE", "3")];
        let found = Launch { launcher: Launcher::Hydra, rank: 0, size: 3, local_rank: 0, local_size: 3 };
        assert_eq!(of(&hydra), Ok(Some(found)));
        let slurm = [
            ("SLURM_PROCID", "5"),
            ("SLURM_STEP_NUM_TASKS", "7"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_TASKS_PER_NODE", "4(x1),3"),
        ];
        let found = Launch { launcher: Launcher::Slurm, rank: 5, size: 7, local_rank: 1, local_size: 4 };
        assert_eq!(of(&slurm), Ok(Some(found)));
        let torchrun = [("RANK", "3"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "host")];
        let found = Launch { launcher: Launcher::Torchrun, rank: 3, size: 4, local_rank: 0, local_size: 1 };
        assert_eq!(of(&torchrun), Ok(Some(found)), "a process for each machine");
        let local = [("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")];
        let found = Launch { local_rank: 1, local_size: 2, ..found };
        assert_eq!(of(&[&torchrun[..], &local].concat()), Ok(Some(found)));
    }

    #[test]
    fn one_process_is_no_rank_whatever_started_it() {
        assert_eq!(of(&[("PMI_RANK", "0"), ("PMI_SIZE", "1")]), Ok(None));
        assert_eq!(of(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]), Ok(None), "a batch script");
        assert_eq!(of(&[("RANK", "1"), ("WORLD_SIZE", "2")]), Ok(None), "words that mean something else");
        assert_eq!(of(&[("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "a")]), Ok(None));
    }

    #[test]
    fn launchers_that_disagree_are_both_named() {
        let both = [("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "4")];
        let said = of(&both).unwrap_err().to_string();
        assert!(said.contains("Open MPI's mpirun say rank 1 of 4") && said.contains("Hydra"), "{said}");
        // srun starts Open MPI's own processes, one a machine.
        let inside = [
            ("SLURM_PROCID", "1"),
            ("SLURM_STEP_NUM_TASKS", "2"),
            ("OMPI_COMM_WORLD_RANK", "5"),
            ("OMPI_COMM_WORLD_SIZE", "8"),
        ];
        assert_eq!(of(&inside).unwrap().unwrap().rank, 5);
    }

    #[test]
    fn nonsense_is_refused() {
        let word = of(&[("PMI_RANK", "first"), ("PMI_SIZE", "2")]).unwrap_err().to_string();
        assert!(word.starts_with("PMI_RANK=first of Hydra"), "{word}");
        assert!(of(&[("PMI_RANK", "2"), ("PMI_SIZE", "2")]).is_err());
    }
}
