//! Plans of lives: drawn from a seed, and shrunk where one fails.

use tetrad::quant::philox;

/// What is done to a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Flip,
    Cut,
    Empty,
    Zeros,
    Delete,
}

/// A setting that differs from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    MicroBatch,
    Recompute,
    Cadence,
    /// Of another run.
    Seed,
    Sequence,
    Storage,
}

/// One event of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Begins, or goes on from the newest sound checkpoint, with so many threads.
    Start {
        threads: usize,
    },
    /// Takes steps, saving by cadence.
    Train {
        steps: u64,
    },
    /// Saves and ends, as a signal makes it.
    Stop,
    /// Ends without a word.
    Kill,
    /// Ends within a save, of which a share reached the disk.
    KillInSave {
        percent: u64,
    },
    Damage {
        newest: bool,
        how: Damage,
        at: u64,
    },
    Prune {
        keep: usize,
    },
    Export,
    DropCache,
    Move,
    Change(Change),
}

/// The plan of a seed.
pub fn draw(seed: u64) -> Vec<Verb> {
    let mut count = 0;
    let mut next = |below: u64| {
        count += 1;
        u64::from(philox([seed as u32, (seed >> 32) as u32, count, 0], [0x11fe, 0x5eed])[0]) % below
    };
    let verbs = 4 + next(16);
    let mut plan = vec![Verb::Start { threads: 1 }];
    for _ in 0..verbs {
        plan.push(match next(24) {
            0..=4 => Verb::Start { threads: 1 + next(3) as usize },
            5..=10 => Verb::Train { steps: 1 + next(4) },
            11 | 12 => Verb::Stop,
            13 => Verb::Kill,
            14 => Verb::KillInSave { percent: next(101) },
            15..=17 => {
                let how = [Damage::Flip, Damage::Cut, Damage::Empty, Damage::Zeros, Damage::Delete][next(5) as usize];
                Verb::Damage { newest: next(3) > 0, how, at: next(1 << 20) }
            }
            18 => Verb::Prune { keep: 1 + next(3) as usize },
            19 | 20 => Verb::Export,
            21 => Verb::DropCache,
            22 => Verb::Move,
            _ => {
                let all = [
                    Change::MicroBatch,
                    Change::Recompute,
                    Change::Cadence,
                    Change::Seed,
                    Change::Sequence,
                    Change::Storage,
                ];
                Verb::Change(all[next(6) as usize])
            }
        });
    }
    plan
}

/// A plan that still fails, of which nothing can be left out.
pub fn shrink(plan: &[Verb], fails: impl Fn(&[Verb]) -> bool) -> Vec<Verb> {
    let mut plan = plan.to_vec();
    let mut size = plan.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < plan.len() {
            let mut less = plan.clone();
            less.drain(at..(at + size).min(plan.len()));
            match fails(&less) {
                true => plan = less,
                false => at += size,
            }
        }
        size = if size == 1 && plan.len() > 1 && shrinks(&plan, &fails) { 1 } else { size / 2 };
    }
    plan
}

fn shrinks(plan: &[Verb], fails: &impl Fn(&[Verb]) -> bool) -> bool {
    (0..plan.len()).any(|at| fails(&[&plan[..at], &plan[at + 1..]].concat()))
}
