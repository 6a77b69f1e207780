//! Ranks on threads of one process. Calls that do not match are errors, not a wait for ever: with that, hundreds of runs
//! of several ranks can be tested in one process.

use super::Ranks;
use crate::error::RanksError;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// One of several ranks on threads of this process; dropped before [`Ranks::finish`] it is gone, and those that wait for
/// it are told.
#[derive(Debug)]
pub struct InProcess {
    rank: usize,
    world: Arc<World>,
}

#[derive(Debug)]
struct World {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Messages from each rank to each, `from * size + to`.
    queues: Vec<VecDeque<Message>>,
    /// Whom each rank waits for.
    waits: Vec<Option<usize>>,
    gone: Vec<bool>,
    aborted: bool,
}

#[derive(Debug)]
struct Message {
    call: &'static str,
    bytes: Vec<u8>,
}

/// Ranks 0 to `size - 1`.
pub fn in_process(size: usize) -> Vec<InProcess> {
    let state = State {
        queues: (0..size * size).map(|_| VecDeque::new()).collect(),
        waits: vec![None; size],
        gone: vec![false; size],
        aborted: false,
    };
    let world = Arc::new(World { size, state: Mutex::new(state), changed: Condvar::new() });
    (0..size).map(|rank| InProcess { rank, world: world.clone() }).collect()
}

impl World {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked had pushed or popped a message, or not.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether nobody who still is there can go on.
    fn is_stuck(&self) -> bool {
        let size = self.waits.len();
        let stuck = |rank: usize| {
            self.gone[rank] || self.waits[rank].is_some_and(|from| self.queues[from * size + rank].is_empty())
        };
        (0..size).all(stuck)
    }
}

impl InProcess {
    fn push(&self, call: &'static str, bytes: &[u8], to: usize) -> Result<(), RanksError> {
        let mut state = self.world.lock();
        if state.gone[to] || state.aborted {
            return Err(RanksError::Lost { rank: to });
        }
        state.queues[self.rank * self.world.size + to].push_back(Message { call, bytes: bytes.to_vec() });
        self.world.changed.notify_all();
        Ok(())
    }

    fn pop(&self, call: &'static str, bytes: &mut [u8], from: usize) -> Result<(), RanksError> {
        let (size, mut state) = (self.world.size, self.world.lock());
        let message = loop {
            if let Some(message) = state.queues[from * size + self.rank].pop_front() {
                break message;
            }
            if state.gone[from] || state.aborted {
                return Err(RanksError::Lost { rank: from });
            }
            state.waits[self.rank] = Some(from);
            if state.is_stuck() {
                state.aborted = true;
                self.world.changed.notify_all();
                return Err(RanksError::Stuck);
            }
            state = self.world.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waits[self.rank] = None;
        };
        if message.call != call || message.bytes.len() != bytes.len() {
            let (expected, found) = (bytes.len(), message.bytes.len());
            return Err(RanksError::Mismatch { call, expected, other: message.call, found, rank: from });
        }
        bytes.copy_from_slice(&message.bytes);
        Ok(())
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let own = self.rank;
        (0..self.world.size).filter(move |&rank| rank != own)
    }
}

impl Ranks for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.world.size
    }

    fn describe(&self) -> String {
        "threads of one process".into()
    }

    fn send(&self, bytes: &[u8], to: usize) -> Result<(), RanksError> {
        self.push("send", bytes, to)
    }

    fn recv(&self, bytes: &mut [u8], from: usize) -> Result<(), RanksError> {
        self.pop("send", bytes, from)
    }

    fn share(&self, bytes: &mut [u8], from: usize) -> Result<(), RanksError> {
        match from == self.rank {
            true => self.others().try_for_each(|to| self.push("share", bytes, to)),
            false => self.pop("share", bytes, from),
        }
    }

    fn gather(&self, own: &[u8], all: &mut [u8]) -> Result<(), RanksError> {
        assert_eq!(all.len(), own.len() * self.world.size, "room for all ranks");
        self.others().try_for_each(|to| self.push("gather", own, to))?;
        for (rank, part) in all.chunks_exact_mut(own.len().max(1)).enumerate() {
            if rank == self.rank {
                part.copy_from_slice(own);
            } else {
                self.pop("gather", part, rank)?;
            }
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), RanksError> {
        let mut all = vec![0; self.world.size];
        self.gather(&[1], &mut all)
    }

    fn abort(&self, _: u8) {
        self.world.lock().aborted = true;
        self.world.changed.notify_all();
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.world.lock().gone[self.rank] = true;
        self.world.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `work` gives on each of `size` ranks.
    fn on_each<T: Send>(size: usize, work: impl Fn(&dyn Ranks) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let ranks = in_process(size);
            let work = &work;
            let threads: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || work(&rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn bytes_go_to_whom_they_are_sent() {
        let found = on_each(3, |ranks| {
            let (rank, size) = (ranks.rank(), ranks.size());
            let mut sum = [0u8; 2];
            if rank > 0 {
                ranks.recv(&mut sum, rank - 1).unwrap();
            }
            sum[1] += rank as u8 + 1;
            if rank + 1 < size {
                ranks.send(&sum, rank + 1).unwrap();
            }
            ranks.share(&mut sum, size - 1).unwrap();
            let mut all = [0; 6];
            ranks.gather(&[rank as u8, 9], &mut all).unwrap();
            ranks.finish().unwrap();
            (sum, all)
        });
        assert_eq!(found, vec![([0, 6], [0, 9, 1, 9, 2, 9]); 3]);
    }

    #[test]
    fn calls_that_do_not_match_are_errors() {
        let circle = on_each(2, |ranks| ranks.recv(&mut [0], 1 - ranks.rank()));
        assert!(circle.contains(&Err(RanksError::Stuck)), "{circle:?}");
        let lengths = on_each(2, |ranks| match ranks.rank() {
            0 => ranks.send(&[1, 2], 1),
            _ => ranks.recv(&mut [0], 0),
        });
        let mismatch = RanksError::Mismatch { call: "send", expected: 1, other: "send", found: 2, rank: 0 };
        assert_eq!(lengths[1], Err(mismatch));
        let calls = on_each(2, |ranks| match ranks.rank() {
            0 => ranks.share(&mut [1], 0),
            _ => ranks.recv(&mut [0], 0),
        });
        assert!(matches!(calls[1], Err(RanksError::Mismatch { other: "share", .. })), "{calls:?}");
    }

    #[test]
    fn who_waits_for_a_rank_that_is_gone_is_told() {
        let found = on_each(3, |ranks| match ranks.rank() {
            1 => Ok(()),
            rank => ranks.recv(&mut [0], 1).map_err(|error| (rank, error)),
        });
        assert_eq!(found[0], Err((0, RanksError::Lost { rank: 1 })));
        assert_eq!(found[2], Err((2, RanksError::Lost { rank: 1 })));
    }
}
