//! Keys of a configuration on the command line.

use tetrad::error::{ConfigError, Place};

/// `--set` and its short forms, which `train` and `plan` share.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Overrides {
    /// Override a key, as in `--set train.steps=100`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Text to train on: a file or a pattern; may be repeated. Short for `--set data.train=...`.
    #[arg(long, value_name = "FILE")]
    data: Vec<String>,
    /// Peak learning rate. Short for `--set optimizer.lr=...`.
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    lr: Option<String>,
    /// Optimizer steps. Short for `--set train.steps=...`.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    steps: Option<String>,
    /// Passes over the training text, in place of a number of steps. Short for `--set train.epochs=...`.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    epochs: Option<String>,
    /// Sequences per step. Short for `--set train.batch=...`.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    batch: Option<String>,
}

impl Overrides {
    /// All of them as `KEY=VALUE`; `--set` wins over the short forms.
    pub(super) fn all(&self) -> Vec<String> {
        let short = self.short().into_iter().filter_map(|(key, _, value)| Some(format!("{key}={}", value?)));
        data(&self.data).into_iter().chain(short).chain(self.sets.iter().cloned()).collect()
    }

    /// Keys and the options that are short for them, with what was given.
    fn short(&self) -> [(&'static str, &'static str, Option<&str>); 4] {
        [
            ("optimizer.lr", "--lr", self.lr.as_deref()),
            ("train.steps", "--steps", self.steps.as_deref()),
            ("train.epochs", "--epochs", self.epochs.as_deref()),
            ("train.batch", "--batch", self.batch.as_deref()),
        ]
    }

    /// An error of a configuration with the options that were typed, where it names the overrides that they are short for.
    pub(super) fn named(&self, error: ConfigError) -> ConfigError {
        let given =
            self.short().into_iter().filter(|(.., value)| value.is_some()).map(|(key, option, _)| (key, option));
        let data = (!self.data.is_empty()).then_some(("data.train", "--data"));
        named(error, given.chain(data), &self.sets)
    }
}

/// An error with options in place of the overrides that they are short for, unless one of `sets` came after them.
pub(super) fn named(
    mut error: ConfigError,
    options: impl Iterator<Item = (&'static str, &'static str)>,
    sets: &[String],
) -> ConfigError {
    let is_set = |key: &str| sets.iter().any(|set| set.split('=').next().is_some_and(|set| set.trim() == key));
    if let ConfigError::Invalid(problems) = &mut error {
        for (key, option) in options.filter(|(key, _)| !is_set(key)) {
            let of_option =
                problems.iter_mut().filter(|found| found.key == key && found.place == Some(Place::Override));
            of_option.for_each(|problem| problem.place = Some(Place::Option(option)));
        }
    }
    error
}

/// The override that `--data` is short for.
pub(super) fn data(files: &[String]) -> Option<String> {
    (!files.is_empty()).then(|| format!("data.train={}", toml::Value::from(files.to_vec())))
}
