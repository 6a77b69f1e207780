//! What is probably a mistake in a run, said before step 0; and what is one.

use crate::cli::Failure;
use crate::cli::number::short;
use crate::cli::units::grouped;
use tetrad::config::{Config, TrainConfig};
use tetrad::data::Prepared;
use tetrad::optim::OptimizerConfig;
use tetrad::train::Samples;

/// How far above the usual a rate of fine-tuning is worth a word.
pub(super) const FAR: f64 = 10.0;

/// Everything that is worth a warning; `tunes`: the run starts from a model's weights.
pub(super) fn warnings(config: &Config, tunes: bool, data: &Prepared, samples: &Samples) -> Vec<String> {
    let texts = config.data.train.is_empty() && config.data.source.is_empty();
    [
        (tunes && texts)
            .then(|| "no text was named, so the bundled novels are trained on; name yours with --data FILE".into()),
        rate(config, tunes),
        batch(config, samples),
        vocabulary(config, data),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Refuses what looks at validations where there are none.
pub(super) fn check_watched(train: &TrainConfig) -> Result<(), Failure> {
    let found = match train {
        TrainConfig { patience, .. } if *patience > 0 => format!("train.patience = {patience}"),
        TrainConfig { keep_best: true, .. } => "train.keep_best = true".into(),
        _ => return Ok(()),
    };
    let hint = "hold some out (data.validation_fraction), name it (data.validation), or remove the key";
    Err(format!("{found}: looks at validations, and no text is held out for them; {hint}").into())
}

/// A step to stop at that does nothing to a run of so many steps, which goes on from one of them.
pub(super) fn stop_at(until: u64, from: Option<u64>, steps: u64) -> Option<String> {
    match from {
        _ if until > steps => Some(format!(
            "--stop-at {until}: the run ends before that, after step {steps} (train.steps); raise train.steps to train longer"
        )),
        Some(from) if until <= from && from < steps => Some(format!(
            "--stop-at {until}: the run goes on from step {from}, so nothing is trained; name a step of {} to {steps}",
            from + 1
        )),
        _ => None,
    }
}

/// A rate of pretraining destroys a model in a dozen steps, while the loss of its few samples falls; a higher one trains nothing.
fn rate(config: &Config, tunes: bool) -> Option<String> {
    let (lr, rule) = (config.optimizer.lr, OptimizerConfig::of(config.optimizer.name));
    // Adapters are trained at higher rates, and leave the model as it is.
    let (usual, kind, what) = match tunes && !config.adapter.is_some() {
        true => (
            rule.for_tuning().lr,
            "fine-tuning",
            "the model may forget what it knew, while the loss falls; compare it before and after with `tetrad eval` on ordinary text",
        ),
        false => (rule.lr, "training", "the loss may not fall; lower it, or compare a few rates with `tetrad sweep`"),
    };
    (lr >= FAR * usual).then(|| {
        let (times, lr, usual) = (lr / usual, short(lr), short(usual));
        format!("optimizer.lr = {lr} is {times:.0} times what is usual for {kind} with this rule ({usual}): {what}")
    })
}

fn batch(config: &Config, samples: &Samples) -> Option<String> {
    let rows = samples.train.rows();
    let batch = config.train.batch as u64;
    (batch > rows && !config.train.overfit).then(|| {
        let (times, half) = (batch as f64 / rows as f64, (rows / 2).max(1));
        format!(
            "train.batch = {batch} is larger than the data set, which has {} rows of {} tokens: every step sees each of them \
             {times:.1} times; set train.batch={half} or less",
            grouped(rows),
            config.train.sequence
        )
    })
}

/// Parameters of tokens that the tokenizer never makes are trained by nothing but weight decay.
fn vocabulary(config: &Config, data: &Prepared) -> Option<String> {
    let (vocab, reached) = (config.model.vocab as u64, data.tokenizer.vocab_size());
    // Tokens of a prepared file may be of a tokenizer that is not named.
    data.bytes_per_token?;
    (reached < vocab - vocab / 8 && !config.adapter.is_some()).then(|| {
        let tables = if config.model.tied { 1 } else { 2 };
        let lost = (vocab - reached) * config.model.hidden as u64 * tables;
        let total = config.model.parameters();
        let tokens = if data.tokenizer.json().is_none() { "one token per byte" } else { "the tokenizer's" };
        format!(
            "no text can reach {} of the {} tokens of model.vocab ({tokens}: {reached}): {} of {} parameters will not be \
             trained; name a tokenizer.file, or set model.vocab={reached}",
            grouped(vocab - reached),
            grouped(vocab),
            grouped(lost),
            grouped(total)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::stop_at;

    #[test]
    fn a_stop_that_does_nothing_is_told() {
        assert_eq!([1, 100].map(|until| stop_at(until, None, 100)), [None, None]);
        assert_eq!([21, 100].map(|until| stop_at(until, Some(20), 100)), [None, None]);
        assert!(stop_at(101, None, 100).unwrap().contains("ends before that, after step 100 (train.steps)"));
        assert!(
            stop_at(20, Some(20), 100)
                .unwrap()
                .contains("goes on from step 20, so nothing is trained; name a step of 21")
        );
        assert_eq!(stop_at(50, Some(100), 100), None, "that all steps are done is told anyway");
        assert_eq!(stop_at(0, None, 100), None, "a run that is only begun");
    }
}
