//! Bytes of rank 0 for all ranks, by a store of keys that outlives them: what those of an earlier attempt have left in it must not
//! be taken for theirs. No number of the attempt tells them apart, for where torchrun starts ranks again on several machines its
//! agents count that differently. So every rank says under its number who it is, and gets an answer of its own; rank 0 goes on
//! answering until each has said that it has this attempt's value.

use crate::error::RanksError;
use crate::store::{ticks, time};
use std::time::Duration;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Between two looks of rank 0.
const PAUSE: Duration = Duration::from_millis(20);

/// A store of keys that all ranks reach.
pub trait Keys {
    /// Gives `key` a value.
    ///
    /// # Errors
    /// If the store is gone.
    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), RanksError>;

    /// Whether `key` has a value.
    ///
    /// # Errors
    /// If the store is gone.
    fn has(&mut self, key: &str) -> Result<bool, RanksError>;

    /// Fills `value` with that of `key`, once somebody has given it one.
    ///
    /// # Errors
    /// If it is not there in time, has another length, or the store is gone.
    fn get(&mut self, key: &str, value: &mut [u8]) -> Result<(), RanksError>;
}

/// Who this process is: another number each time.
fn name() -> [u8; 16] {
    let unlike =
        [time().as_nanos(), ticks().as_nanos(), u128::from(std::process::id()), thread()].map(u128::to_le_bytes);
    xxh3_128(&unlike.concat()).to_le_bytes()
}

/// Ranks may be threads too.
fn thread() -> u128 {
    u128::from(xxh3_64(format!("{:?}", std::thread::current().id()).as_bytes()))
}

/// Fills `value` of every rank of `size` with rank 0's, which is another one each time. `keys` is what keys begin with: the same
/// for all, and no other run's. Rank 0 waits for the others no longer than `limit`; nothing: without end.
///
/// # Errors
/// As those of [`Keys`], and if a rank does not come.
pub fn spread(
    store: &mut dyn Keys,
    keys: &str,
    (rank, size): (usize, usize),
    value: &mut [u8],
    limit: Option<Duration>,
) -> Result<(), RanksError> {
    if rank == 0 {
        return answer(store, keys, size, value, limit);
    }
    let own = name();
    store.set(&here(keys, rank), &own)?;
    store.get(&answered(keys, &own), value)?;
    store.set(&met(keys, value, rank), &[1])
}

/// Rank 0's side.
fn answer(
    store: &mut dyn Keys,
    keys: &str,
    size: usize,
    value: &[u8],
    limit: Option<Duration>,
) -> Result<(), RanksError> {
    let begun = ticks();
    let mut away: Vec<usize> = (1..size).collect();
    loop {
        let mut still = Vec::with_capacity(away.len());
        for &rank in &away {
            if store.has(&met(keys, value, rank))? {
                continue;
            }
            still.push(rank);
            // Who has been here last may be of an earlier attempt, whom this answer does no harm.
            if store.has(&here(keys, rank))? {
                let mut name = [0; 16];
                store.get(&here(keys, rank), &mut name)?;
                store.set(&answered(keys, &name), value)?;
            }
        }
        away = still;
        if away.is_empty() {
            return Ok(());
        }
        if let Some(limit) = limit.filter(|limit| ticks().saturating_sub(begun) >= *limit) {
            return Err(RanksError::Absent { ranks: away, seconds: limit.as_secs() });
        }
        std::thread::sleep(PAUSE);
    }
}

fn here(keys: &str, rank: usize) -> String {
    format!("{keys}/here/{rank}")
}

fn answered(keys: &str, name: &[u8; 16]) -> String {
    format!("{keys}/for/{:032x}", u128::from_le_bytes(*name))
}

fn met(keys: &str, value: &[u8], rank: usize) -> String {
    format!("{keys}/met/{:032x}/{rank}", xxh3_128(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::{Arc, Condvar, Mutex};

    #[derive(Default)]
    struct Shared {
        values: Mutex<HashMap<String, Vec<u8>>>,
        changed: Condvar,
    }

    /// A store in memory, which hangs up on a client after some calls.
    #[derive(Clone)]
    struct Memory {
        shared: Arc<Shared>,
        calls: usize,
        limit: Option<Duration>,
    }

    impl Memory {
        fn call(&mut self) -> Result<(), RanksError> {
            self.calls = self.calls.checked_sub(1).ok_or(RanksError::Lost { rank: 9 })?;
            Ok(())
        }
    }

    impl Keys for Memory {
        fn set(&mut self, key: &str, value: &[u8]) -> Result<(), RanksError> {
            self.call()?;
            self.shared.values.lock().unwrap().insert(key.into(), value.into());
            self.shared.changed.notify_all();
            Ok(())
        }

        fn has(&mut self, key: &str) -> Result<bool, RanksError> {
            self.call()?;
            Ok(self.shared.values.lock().unwrap().contains_key(key))
        }

        fn get(&mut self, key: &str, value: &mut [u8]) -> Result<(), RanksError> {
            self.call()?;
            let values = self.shared.values.lock().unwrap();
            // Nobody who is to get something gives up.
            let limit = self.limit.unwrap_or(Duration::MAX);
            let missing = |values: &mut HashMap<_, _>| !values.contains_key(key);
            let (values, waited) = self.shared.changed.wait_timeout_while(values, limit, missing).unwrap();
            if waited.timed_out() {
                return Err(RanksError::Timeout { call: "the store", seconds: limit.as_secs() });
            }
            value.copy_from_slice(&values[key]);
            Ok(())
        }
    }

    const ALL: usize = usize::MAX;

    /// What each of three ranks gets in an attempt; rank r makes no more than `calls[r]` calls.
    fn attempt(store: &Memory, number: u8, calls: [usize; 3]) -> Vec<Result<[u8; 4], RanksError>> {
        let limit = if calls == [ALL; 3] { None } else { Some(Duration::from_millis(200)) };
        std::thread::scope(|scope| {
            let start = |rank: usize| {
                let mut store = Memory { calls: calls[rank], limit, ..store.clone() };
                scope.spawn(move || {
                    let mut value = if rank == 0 { [number; 4] } else { [0; 4] };
                    spread(&mut store, "run", (rank, 3), &mut value, limit).map(|()| value)
                })
            };
            let ranks = [0, 1, 2].map(start);
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn whatever_an_attempt_left_the_next_gets_its_own_value() {
        // Ranks that come apart at each of their calls, before and after they have met.
        for lost in [[ALL, 0, ALL], [ALL, 1, ALL], [ALL, 2, ALL], [1, ALL, ALL], [5, ALL, ALL], [ALL; 3]] {
            let store = Memory { shared: Arc::default(), calls: 0, limit: None };
            let first = attempt(&store, 1, lost);
            assert_eq!(first.iter().all(Result::is_ok), lost == [ALL; 3], "{lost:?}: {first:?}");
            let second = attempt(&store, 2, [ALL; 3]);
            assert!(second.iter().all(|value| *value == Ok([2; 4])), "{lost:?}: {second:?}");
        }
    }

    #[test]
    fn who_does_not_come_is_named() {
        let mut store = Memory { shared: Arc::default(), calls: ALL, limit: None };
        let alone = spread(&mut store, "run", (0, 3), &mut [1], Some(Duration::ZERO)).unwrap_err();
        assert_eq!(alone.to_string(), "ranks [1, 2] did not come within 0 s");
    }
}
