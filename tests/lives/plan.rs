//! Plans of lives: drawn from a seed, and shrunk where one fails.

use super::machine::Fate;
use super::process::Kind;
use rustix::io::Errno;
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
    /// Weights live in a file.
    Offload,
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
    /// Goes on with the run that its folder names, or the configuration in it.
    StartFolder {
        record: bool,
        threads: usize,
    },
    /// Goes on from a checkpoint by its name: of the last, or of one before it.
    StartNamed {
        back: usize,
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
    /// The process ends, or its disk fails, so many operations on files later.
    Meet {
        after: usize,
        fate: Fate,
    },
    /// The machine loses its power so many operations on files later, of which any part that is not synced reached the disk.
    PowerLoss {
        after: usize,
        choices: u32,
    },
    Damage {
        newest: bool,
        how: Damage,
        at: u64,
    },
    /// A line of metrics that was not written to its end.
    TornMetrics,
    /// A bit of the prepared tokens.
    DamageCache {
        at: u64,
    },
    DropCache,
    Prune {
        keep: usize,
    },
    Export,
    /// Compares the first checkpoint with the last, and each with itself.
    Diff,
    Move,
    Change(Change),
}

/// Numbers that follow from a seed.
pub struct Draw {
    seed: u64,
    count: u32,
}

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self { seed, count: 0 }
    }

    /// A number below `below`.
    pub fn next(&mut self, below: u64) -> u64 {
        self.count += 1;
        u64::from(philox([self.seed as u32, (self.seed >> 32) as u32, self.count, 0], [0x11fe, 0x5eed])[0]) % below
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.next(all.len() as u64) as usize]
    }
}

/// The kind of run and the plan of a seed.
pub fn draw(seed: u64) -> (Kind, Vec<Verb>) {
    let mut draw = Draw::new(seed);
    let kind = if draw.next(4) == 0 { Kind::Watched } else { Kind::Plain };
    let verbs = 4 + draw.next(16);
    let mut plan = vec![Verb::Start { threads: 1 }];
    for _ in 0..verbs {
        plan.push(verb(&mut draw));
    }
    (kind, plan)
}

fn verb(draw: &mut Draw) -> Verb {
    match draw.next(31) {
        0..=3 => Verb::Start { threads: 1 + draw.next(3) as usize },
        4 | 5 => Verb::StartFolder { record: draw.next(2) == 0, threads: 1 + draw.next(3) as usize },
        6 => Verb::StartNamed { back: draw.next(3) as usize, threads: 1 + draw.next(3) as usize },
        7..=12 => Verb::Train { steps: 1 + draw.next(4) },
        13 => Verb::Stop,
        14 => Verb::Kill,
        15 => Verb::Meet { after: draw.next(60) as usize, fate: Fate::Killed { percent: draw.next(101) } },
        16 => {
            let error = draw.of(&[Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO]);
            Verb::Meet { after: draw.next(60) as usize, fate: Fate::Refused(error.raw_os_error()) }
        }
        17 | 18 => Verb::PowerLoss { after: draw.next(60) as usize, choices: draw.next(1 << 32) as u32 },
        19..=21 => {
            let how = draw.of(&[Damage::Flip, Damage::Cut, Damage::Empty, Damage::Zeros, Damage::Delete]);
            Verb::Damage { newest: draw.next(3) > 0, how, at: draw.next(1 << 20) }
        }
        22 => Verb::TornMetrics,
        23 => Verb::DamageCache { at: draw.next(1 << 20) },
        24 => Verb::DropCache,
        25 => Verb::Prune { keep: 1 + draw.next(3) as usize },
        26 => Verb::Export,
        27 => Verb::Move,
        28 => Verb::Diff,
        _ => {
            use Change as C;
            Verb::Change(draw.of(&[
                C::MicroBatch,
                C::Recompute,
                C::Cadence,
                C::Cadence,
                C::Offload,
                C::Seed,
                C::Sequence,
                C::Storage,
            ]))
        }
    }
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
