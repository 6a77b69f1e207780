//! Several processes that train one model: who they are, and how bytes travel between them. What is moved here is moved
//! as it is; nothing is added up, and no model is known.
//!
//! Every rank makes the same calls in the same order. [`Alone`] is a run of one process, [`in_process`] has ranks on
//! threads of one process, and [`mpi`] those that `mpirun` or `srun` started. Devices of ranks may reach each other by
//! themselves; how they learn where, if there is no MPI to say it, is here too ([`Meeting`]).

mod config;
mod handshake;
mod launch;
mod meet;
pub mod mpi;
mod store;
mod threads;

pub use config::RanksConfig;
pub use handshake::{Keys, spread};
pub use launch::{Launch, Launcher, launch};
pub use meet::{ADDRESS, Meeting, find, leave, meeting};
pub use store::KeyStore;
pub use threads::{InProcess, in_process};

use crate::error::RanksError;
use std::ops::Range;
use std::time::Duration;

/// The ranks of a run, seen by one of them.
///
/// # Errors
/// All calls fail if a peer is gone, does not answer in time, or made another call. After that no call but
/// [`Ranks::abort`] is of use.
pub trait Ranks: Send + Sync {
    /// Number of this rank, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// What carries the bytes, for the first lines of a run.
    fn describe(&self) -> String;

    /// Sends `bytes` to rank `to`, which receives as many. It may return before they arrived, or wait for that.
    fn send(&self, bytes: &[u8], to: usize) -> Result<(), RanksError>;

    /// Fills `bytes` with what rank `from` sends.
    fn recv(&self, bytes: &mut [u8], from: usize) -> Result<(), RanksError>;

    /// Gives all ranks the bytes that rank `from` has.
    fn share(&self, bytes: &mut [u8], from: usize) -> Result<(), RanksError>;

    /// Fills `all` with every rank's `own`, in the order of the ranks.
    ///
    /// # Panics
    /// If `all` is not as long as `own` of every rank together.
    fn gather(&self, own: &[u8], all: &mut [u8]) -> Result<(), RanksError>;

    /// How long a call waits for a peer from now on; nothing: as long as it takes. Without effect where calls that cannot end
    /// are found otherwise.
    fn wait_at_most(&self, limit: Option<Duration>) {
        let _ = limit;
    }

    /// Waits for all ranks, and takes leave of them.
    fn finish(&self) -> Result<(), RanksError>;

    /// Ends all ranks, with an exit status of `code` where they are processes; returns where they are not.
    fn abort(&self, code: u8);
}

/// One number of each rank, in their order; `all` is as long as there are ranks, with any content.
///
/// # Errors
/// As [`Ranks::gather`].
pub fn agree(ranks: &dyn Ranks, own: u64, all: &mut [u64]) -> Result<(), RanksError> {
    use zerocopy::IntoBytes;
    ranks.gather(own.as_bytes(), all.as_mut_bytes())
}

/// The rows of a batch that are rank `rank`'s of `size`: neighbours, in the order of the ranks.
pub fn rows(batch: usize, rank: usize, size: usize) -> Range<usize> {
    batch * rank / size..batch * (rank + 1) / size
}

/// A run of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn describe(&self) -> String {
        "one process".into()
    }

    fn send(&self, _: &[u8], to: usize) -> Result<(), RanksError> {
        Err(RanksError::Lost { rank: to })
    }

    fn recv(&self, _: &mut [u8], from: usize) -> Result<(), RanksError> {
        Err(RanksError::Lost { rank: from })
    }

    fn share(&self, _: &mut [u8], from: usize) -> Result<(), RanksError> {
        if from == 0 { Ok(()) } else { Err(RanksError::Lost { rank: from }) }
    }

    fn gather(&self, own: &[u8], all: &mut [u8]) -> Result<(), RanksError> {
        all.copy_from_slice(own);
        Ok(())
    }

    fn finish(&self) -> Result<(), RanksError> {
        Ok(())
    }

    fn abort(&self, _: u8) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_dealt_in_order_and_none_twice() {
        for batch in 0..20 {
            for size in 1..8 {
                let all: Vec<usize> = (0..size).flat_map(|rank| rows(batch, rank, size)).collect();
                assert!(all.into_iter().eq(0..batch), "{batch} rows of {size} ranks");
                let longest = (0..size).map(|rank| rows(batch, rank, size).len()).max();
                assert_eq!(longest, Some(batch.div_ceil(size)));
            }
        }
    }
}
