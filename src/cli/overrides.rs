//! Keys of a configuration on the command line.

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
        let short = [
            ("optimizer.lr", &self.lr),
            ("train.steps", &self.steps),
            ("train.epochs", &self.epochs),
            ("train.batch", &self.batch),
        ];
        let short = short.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)));
        data(&self.data).into_iter().chain(short).chain(self.sets.iter().cloned()).collect()
    }
}

/// The override that `--data` is short for.
pub(super) fn data(files: &[String]) -> Option<String> {
    (!files.is_empty()).then(|| format!("data.train={}", toml::Value::from(files.to_vec())))
}
