//! Every mistake that can be seen without reading data, found before step 0 and all at once: each room checks its own
//! settings, and here they are asked one after the other.

use super::*;
use crate::error::{ConfigError, Problem, Problems};
use crate::optim::OptimizerContext;

impl Config {
    /// Checks a configuration that did not come from [`Config::load`] (which checks by itself).
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every mistake.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let problems = problems(self);
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(problems)) }
    }
}

/// All mistakes, in the order of the tables.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let Config { model, data, tokenizer, storage, activations, optimizer, train, adapter, ranks, run, .. } = config;
    // A shape with a mistake has no matrices.
    let sound = model.problems().0.is_empty() && storage.problems(model.tied).0.is_empty();
    let side = sound.then(|| adapter.smallest_side(model, storage.group)).flatten();
    let smallest_side = side.unwrap_or(model.smallest_side());
    let context = OptimizerContext { smallest_side, ..storage.optimizer_context(model) };
    let own = [
        model.problems(),
        Problems(data.problems()),
        Problems(tokenizer.problems(model.vocab)),
        storage.problems(model.tied),
        activations.problems(storage),
        optimizer.problems(&context),
        optimizer.unread(),
        train.problems(model),
        train.unread(),
        adapter.problems(model),
        config.continual_problems(),
        ranks.problems(),
        run.problems(),
    ];
    own.into_iter().flat_map(|problems| problems.0).collect()
}
