//! Which checkpoint of a run can be gone on from.

use super::load::Checkpoint;
use super::runs::list;
use crate::error::{CheckpointError, StoreError};
use crate::store::rename;
use std::path::{Path, PathBuf};

/// The newest sound checkpoint of a run.
pub struct Newest {
    /// Opened, and every plane verified.
    pub checkpoint: Checkpoint,
    /// Later ones that are damaged, the latest first, and what is wrong with them.
    pub damaged: Vec<(PathBuf, CheckpointError)>,
}

impl Newest {
    /// Checks that no later checkpoint of `dir` is left that the next resumption would take for the newest of this run, and
    /// that pruning would keep in the place of its own. Damaged ones do not count.
    ///
    /// # Errors
    /// [`CheckpointError::NotLast`].
    pub fn check_last(&mut self, dir: &Path) -> Result<(), CheckpointError> {
        let (step, path) = (self.checkpoint.meta.counters.step, self.checkpoint.path().to_path_buf());
        for (later, other) in list(dir)?.into_iter().rev().take_while(|(later, _)| *later > step) {
            if self.damaged.iter().any(|(known, _)| *known == other) {
                continue;
            }
            match Checkpoint::open_sound(&other) {
                Err(error) if error.is_damage() => self.damaged.push((other, error)),
                _ => return Err(CheckpointError::NotLast { path, step, dir: dir.into(), later }),
            }
        }
        Ok(())
    }

    /// Gives the damaged checkpoints other names, under which no run takes them for its own; those, each with what is wrong.
    ///
    /// # Errors
    /// If one cannot be renamed.
    pub fn set_aside(&self) -> Result<Vec<(PathBuf, &CheckpointError)>, StoreError> {
        self.damaged.iter().map(|(path, error)| Ok((set_aside(path)?, error))).collect()
    }
}

/// The newest checkpoint of a run directory that is sound; nothing if there is none at all.
///
/// # Errors
/// [`CheckpointError::AllDamaged`], or a file or directory that cannot be read.
pub fn newest_sound(dir: &Path) -> Result<Option<Newest>, CheckpointError> {
    let mut damaged = Vec::new();
    for (_, path) in list(dir)?.into_iter().rev() {
        match Checkpoint::open_sound(&path) {
            Ok(checkpoint) => return Ok(Some(Newest { checkpoint, damaged })),
            Err(error) if error.is_damage() => damaged.push((path, error)),
            Err(error) => return Err(error),
        }
    }
    if damaged.is_empty() {
        return Ok(None);
    }
    let newest = Box::new(damaged.swap_remove(0).1);
    Err(CheckpointError::AllDamaged { newest, others: damaged.len() })
}

/// Gives a damaged checkpoint another name, under which no run takes it for its own, and returns that.
///
/// # Errors
/// If it cannot be renamed.
pub fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let mut name = path.to_path_buf().into_os_string();
    name.push(".damaged");
    rename(path, Path::new(&name)).map_err(|e| StoreError::io(path, "rename it", e))?;
    Ok(name.into())
}
