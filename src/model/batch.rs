//! The shape of what a model computes at once.

/// What a batch is computed for, and so what it leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Losses; or a backward, unless it reads packed inputs, which only a step leaves.
    Score,
    /// Sampling: keys and values go to the caches, nothing is kept for backward.
    Sample,
    /// The step of this number: blocks' inputs are packed where backward reads them so.
    Step(u32),
}

/// Shape of a batch, or of a micro-batch of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// B
    pub sequences: usize,
    /// S: tokens per sequence.
    pub queries: usize,
    /// Position of the first token; not zero only for one sequence whose earlier keys are cached.
    pub start: usize,
    /// Tokens of a step's batch before these, which other ranks have: random numbers count from the first.
    pub before: usize,
    /// Of a micro-batch: tokens of the batch before it.
    pub from: usize,
    /// What it is for.
    pub purpose: Purpose,
}

impl Batch {
    /// Whole sequences, for their losses.
    pub fn whole(sequences: usize, queries: usize) -> Self {
        Self { sequences, queries, start: 0, before: 0, from: 0, purpose: Purpose::Score }
    }

    /// The batch of a training step.
    pub fn step(sequences: usize, queries: usize, step: u64) -> Self {
        Self { purpose: Purpose::Step(step as u32), ..Self::whole(sequences, queries) }
    }

    /// T
    pub fn tokens(&self) -> usize {
        self.sequences * self.queries
    }

    /// Micro-batches of whole sequences, of at most `tokens` tokens each unless one sequence is longer.
    pub(super) fn micro_batches(self, tokens: usize) -> impl Iterator<Item = Self> {
        let most = (tokens / self.queries).max(1);
        let of = move |first| Self { sequences: most.min(self.sequences - first), from: first * self.queries, ..self };
        (0..self.sequences).step_by(most).map(of)
    }

    /// Whether keys and values are those of the caches.
    pub(super) fn cached(&self) -> bool {
        self.purpose == Purpose::Sample
    }
}
