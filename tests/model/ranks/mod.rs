//! Several ranks: the bytes of one process, whatever their number, and however each computes its rows.

mod bytes;
mod divided;
mod lost;
mod run;
mod saving;
mod volume;
mod watched;

use crate::harness::state::{joined, whole_state};
use std::ops::Range;
use std::sync::Arc;
use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::checkpoint::Checkpoint;
use tetrad::config::Config;
use tetrad::ranks::{Alone, Ranks, in_process};
use tetrad::train::{FrozenBase, Trainer};

const BATCH: usize = 5;
const SEQUENCE: usize = 24;

/// Loss, gradient norm and factor of clipping of a step, as bits.
type Steps = Vec<[u64; 3]>;

/// What a rank ends with: its steps, and every byte of its weights and of the state that it holds, by planes.
type End = (Steps, Vec<Vec<u8>>);

/// How many bytes a rank holds.
fn held(end: &End) -> usize {
    end.1.iter().map(Vec::len).sum()
}

/// What makes a variant of the configuration.
type Edit = fn(&mut Config);

fn config() -> Config {
    let mut config = Config::default();
    let model = &mut config.model;
    (model.hidden, model.intermediate, model.layers, model.heads, model.kv_heads) = (48, 88, 2, 4, 2);
    (config.train.batch, config.train.sequence, config.train.warmup) = (BATCH, SEQUENCE, 2);
    config.storage.group = 32;
    config
}

/// A run from `first` on, or from a checkpoint.
struct Life<'a> {
    config: &'a Config,
    base: Option<&'a Checkpoint>,
    from: Option<&'a Checkpoint>,
    steps: Range<u32>,
}

impl Life<'_> {
    fn new(config: &Config) -> Life<'_> {
        Life { config, base: None, from: None, steps: 0..3 }
    }

    fn trainer(&self, ranks: Arc<dyn Ranks>, threads: usize) -> Trainer {
        let mut config = self.config.clone();
        config.run.ranks = ranks.size();
        let base: Option<FrozenBase> = self.base.map(|base| base.base().unwrap());
        let cpu = Cpu::with_threads(Isa::best(), threads);
        let mut trainer = Trainer::with_ranks(&config, base, ranks, Box::new(cpu)).unwrap();
        trainer.initialize();
        if let Some(from) = self.from {
            from.restore(&mut trainer, "text").unwrap();
        }
        trainer
    }

    /// One rank's part.
    fn live(&self, trainer: &mut Trainer) -> Steps {
        let (rows, sequence) = (trainer.rows(), self.config.train.sequence);
        let tokens = self.config.train.batch * sequence;
        let part = |all: &[u32]| all[rows.start * sequence..rows.end * sequence].to_vec();
        let step = |number: u32| {
            let text: Vec<u32> = (0..=tokens as u32).map(|i| (i * i + number * 31) % 256).collect();
            let mut targets = text[1..].to_vec();
            // What is not learned is not counted, and not alike on all ranks.
            targets[..7].fill(tetrad::data::IGNORE);
            // Two samples in each row of packed data, not of the same length in every row.
            let start = |t: usize| if t % sequence < 9 + t / sequence { 0 } else { 9 + t / sequence };
            let starts: Vec<u32> = (0..tokens).map(|t| start(t) as u32).collect();
            let starts = if self.config.data.shares_rows { part(&starts) } else { Vec::new() };
            let report = trainer.step_segments(&part(&text[..tokens]), &part(&targets), &starts);
            trainer.status().unwrap();
            [report.loss, report.grad_norm, report.clip_factor.unwrap_or(1.0)].map(f64::to_bits)
        };
        self.steps.clone().map(step).collect()
    }

    /// What one process ends with.
    fn alone(&self) -> End {
        let mut trainer = self.trainer(Arc::new(Alone), 2);
        (self.live(&mut trainer), whole_state(&trainer))
    }

    /// What each of `size` ranks ends with; they show their trainers to `last`.
    fn on_ranks(&self, size: usize, last: &(dyn Fn(&Trainer) + Sync)) -> Vec<End> {
        on_each(size, |ranks| {
            let rank = ranks.rank();
            let mut trainer = self.trainer(ranks, 1 + rank % 2);
            let steps = self.live(&mut trainer);
            last(&trainer);
            trainer.ranks().finish().unwrap();
            (steps, whole_state(&trainer))
        })
    }

    /// One process and every number of ranks.
    fn check(&self, sizes: &[usize], what: &str) {
        let expected = self.alone();
        let start = whole_state(&Life { from: self.from, steps: 0..0, ..*self }.trainer(Arc::new(Alone), 1));
        assert!(start != expected.1, "{what}: the steps moved nothing");
        for &size in sizes {
            let found = joined(self.on_ranks(size, &|_| {}));
            assert_eq!(found.0, expected.0, "{what}: losses and norms of {size} ranks");
            assert!(found.1 == expected.1, "{what}: the bytes of {size} ranks");
        }
    }
}

/// What `work` gives on each of `size` ranks.
fn on_each<T: Send>(size: usize, work: impl Fn(Arc<dyn Ranks>) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let ranks = in_process(size).into_iter();
        let threads: Vec<_> = ranks.map(|rank| scope.spawn(move || work(Arc::new(rank)))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
