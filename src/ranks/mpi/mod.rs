//! Ranks by MPI: the library that the launcher belongs to is found and opened at run time, so that building and starting
//! need none. Three binary interfaces serve all that are in use: that of MPICH and its family (Intel MPI, Cray, MVAPICH),
//! that of Open MPI, and the standard one of MPI 5.

mod calls;
mod find;
mod world;

use super::{Launch, Ranks};
use crate::error::RanksError;
use std::sync::Arc;

/// Names the library's file; it comes before all others.
pub const VARIABLE: &str = "TETRAD_MPI_LIBRARY";

/// Opens the library of `launched` and joins its ranks. Called once a process, from the thread that later
/// [finishes](Ranks::finish).
///
/// # Errors
/// If there is no library, or if it does not see the ranks that the launcher started: then the processes would each train
/// by themselves, into one folder.
pub fn open(launched: &Launch) -> Result<Arc<dyn Ranks>, RanksError> {
    let launcher = launched.launcher.name();
    let mut refused = String::new();
    for path in find::candidates(launched.launcher) {
        match calls::load(&path) {
            Ok(library) => return world::join(library, path, launched),
            // The system's search does not say where it looked, so there is no file to report.
            Err(_) if path.is_relative() => {}
            Err(reason) => refused += &format!("; {}: {reason}", path.display()),
        }
    }
    Err(RanksError::Library { launcher, size: launched.size, searched: find::searched(launched.launcher), refused })
}
