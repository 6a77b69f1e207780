//! How much ranks exchange.

use crate::backend::Precision;
use crate::config::Config;
use crate::model::{Model, READ_PLANES};

/// Bytes that one of several ranks exchanges in a step, beside some numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchanged {
    /// Of gradients, that it sends: in a chain each as often as it is sent on, a tied table's goes round twice. Where they are no
    /// chains a rank sends its part of all that others update; this is the mean of all ranks.
    pub sent: u64,
    /// Of updated weights, that all of them have together and give to all.
    pub shared: u64,
}

impl Exchanged {
    /// What `config` and the model that was placed for it lead to.
    pub fn of(model: &Model, config: &Config) -> Self {
        Self { sent: sent(model, config), shared: shared(model) }
    }
}

fn sent(model: &Model, config: &Config) -> u64 {
    let trained = model.specs.iter().filter(|spec| spec.trainable);
    let all: u64 = trained.map(|spec| 4 * spec.shape.len() as u64).sum();
    let table = if model.acts.grads.logits.is_none() { 0 } else { model.acts.grads.embedding.bytes as u64 };
    let once = match (config.train.reproducible, config.train.reduce_dtype) {
        (true, _) => all + table,
        (false, dtype) => {
            let others = all - all / config.run.ranks.max(1) as u64;
            if dtype == Precision::Bf16 { others / 2 } else { others }
        }
    };
    once * if config.optimizer.grad_clip > 0.0 { 2 } else { 1 }
}

/// What products read of all that is trained.
fn shared(model: &Model) -> u64 {
    let trained = model.specs.iter().zip(&model.stored).filter(|(spec, _)| spec.trainable);
    let planes = trained.flat_map(|(_, param)| READ_PLANES.map(|plane| param.weight.span(plane)));
    planes.map(|span| span.bytes as u64).sum()
}
