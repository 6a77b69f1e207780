//! Where the library may lie that a launcher belongs to.

use super::VARIABLE;
use crate::ranks::Launcher;
use std::path::{Path, PathBuf};

/// Names of Open MPI's library, 4 and 5 alike.
const OPEN_MPI: &[&str] = &["libmpi.so.40"];
/// Names of the MPICH family's: its own, Debian's, and that of MPI 5's interface.
const MPICH: &[&str] = &["libmpi.so.12", "libmpich.so.12", "libmpi_abi.so.1"];

/// Variables that name the folder of an installation.
const HOMES: [&str; 3] = ["MPI_HOME", "I_MPI_ROOT", "CRAY_MPICH_DIR"];

/// Below such a folder, and beside a launcher's own.
const FOLDERS: [&str; 3] = ["lib", "lib/release", "lib64"];

/// Names of files, the likeliest first.
fn names(launcher: Launcher) -> Vec<&'static str> {
    match launcher {
        Launcher::OpenMpi => [OPEN_MPI, &["libmpi_abi.so.1"]].concat(),
        Launcher::Hydra => MPICH.to_vec(),
        Launcher::Slurm | Launcher::Torchrun => [OPEN_MPI, MPICH].concat(),
    }
}

/// Files to try in turn: what the user names, alone; else what exists beside the launcher and in the folders of variables,
/// and last a bare name, for which the system's loader searches.
pub(super) fn candidates(launcher: Launcher) -> Vec<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        return vec![named.into()];
    }
    let homes = HOMES.iter().filter_map(std::env::var_os).map(PathBuf::from);
    let found = beside_parent().into_iter().chain(homes).flat_map(|home| below(&home, launcher));
    found.chain(names(launcher).into_iter().map(PathBuf::from)).collect()
}

/// The installation of the process that started this one: `mpirun` itself, or its proxy on this machine.
fn beside_parent() -> Option<PathBuf> {
    let parent = std::fs::read_link(format!("/proc/{}/exe", std::os::unix::process::parent_id())).ok()?;
    Some(parent.parent()?.parent()?.into())
}

/// The libraries that lie in an installation.
fn below(home: &Path, launcher: Launcher) -> Vec<PathBuf> {
    // The loader knows the system's own folders, and which of several versions there is the usual one.
    if home == Path::new("/usr") || home == Path::new("/") {
        return Vec::new();
    }
    let of_folder = |folder| names(launcher).into_iter().map(move |name| home.join(folder).join(name));
    FOLDERS.iter().flat_map(of_folder).filter(|path| path.is_file()).collect()
}

/// The search in words.
pub(super) fn searched(launcher: Launcher) -> String {
    match std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        Some(named) => format!("{} ({VARIABLE})", named.to_string_lossy()),
        None => format!(
            "{} beside the launcher, in lib below {}, and where the system's loader looks",
            names(launcher).join(", "),
            HOMES.map(|home| format!("${home}")).join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_of_an_installation_is_found_in_its_folders() {
        let home = tempfile::tempdir().unwrap();
        for name in ["lib/libmpi.so.40", "lib/release/libmpi.so.12", "lib/libmpi_abi.so.1"] {
            let path = home.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let found = |launcher| -> Vec<String> {
            let names = below(home.path(), launcher);
            names.iter().map(|path| path.strip_prefix(home.path()).unwrap().display().to_string()).collect()
        };
        assert_eq!(found(Launcher::OpenMpi), ["lib/libmpi.so.40", "lib/libmpi_abi.so.1"]);
        assert_eq!(found(Launcher::Hydra), ["lib/libmpi_abi.so.1", "lib/release/libmpi.so.12"]);
        assert_eq!(below(Path::new("/usr"), Launcher::Hydra), Vec::<PathBuf>::new(), "the loader's");
    }
}
