//! The named configurations: the quick-start and the six sizes of the Stable-SPAM paper (arXiv 2502.17055), each also
//! with the most compact optimizer state that costs no measurable loss.

use super::*;
use crate::backend::SecondMoment;

/// Names that `Config::preset` knows; `compact` is the quick-start's compact form.
pub const PRESETS: [&str; 14] = [
    "quickstart",
    "60m",
    "130m",
    "350m",
    "1b",
    "3b",
    "7b",
    "compact",
    "60m-compact",
    "130m-compact",
    "350m-compact",
    "1b-compact",
    "3b-compact",
    "7b-compact",
];

/// One row of the paper's table of sizes: name, hidden, intermediate, heads, layers, peak learning rate.
///
/// The rates of 60m to 1b are the paper's; those of 3b and 7b continue their trend and are not published.
type Size = (&'static str, usize, usize, usize, usize, f64);

const SIZES: [Size; 6] = [
    ("60m", 512, 1376, 8, 8, 1e-3),
    ("130m", 768, 2048, 12, 12, 1e-3),
    ("350m", 1024, 2736, 16, 24, 4e-4),
    ("1b", 2048, 5461, 32, 24, 2e-4),
    ("3b", 2560, 6848, 32, 32, 1.5e-4),
    ("7b", 4096, 11008, 32, 32, 1e-4),
];

impl Config {
    /// The preset of that name (one of [`PRESETS`]), or nothing.
    ///
    /// The sizes `60m` to `7b` have a vocabulary of 32 000, so they want a `tokenizer.file` and `data.train`. Their batch
    /// is 16 sequences; the paper's 512 are `--set train.batch=512`, of which a block takes as many at once as fit.
    pub fn preset(name: &str) -> Option<Config> {
        match name {
            "quickstart" => Some(Config::default()),
            "compact" => Some(compact(Config::default(), name)),
            _ => match name.strip_suffix("-compact") {
                Some(size) => Self::size(size).map(|config| compact(config, name)),
                None => Self::size(name),
            },
        }
    }

    fn size(name: &str) -> Option<Config> {
        SIZES.iter().find(|size| size.0 == name).map(sized)
    }
}

/// The same with the most compact state: see RATIONALE.md for what it costs.
fn compact(config: Config, name: &str) -> Config {
    Config {
        storage: StorageConfig { v: SecondMoment::Factored, ..config.storage },
        run: RunConfig { dir: format!("runs/{name}").into(), ..config.run },
        ..config
    }
}

fn sized(&(name, hidden, intermediate, heads, layers, lr): &Size) -> Config {
    let quickstart = Config::default();
    Config {
        model: ModelConfig {
            hidden,
            intermediate,
            layers,
            heads,
            kv_heads: heads,
            vocab: 32_000,
            context: 256,
            ..quickstart.model
        },
        optimizer: OptimizerConfig { lr, ..quickstart.optimizer },
        train: TrainConfig {
            steps: 20_000,
            batch: 16,
            sequence: 256,
            warmup: 2000,
            eval_every: 1000,
            eval_sequences: 512,
            checkpoint_every: 1000,
            ..quickstart.train
        },
        run: RunConfig { dir: format!("runs/{name}").into(), ..quickstart.run },
        ..quickstart
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_are_the_published_ones() {
        let published =
            [("60m", "58.07"), ("130m", "134.1"), ("350m", "368.0"), ("1b", "1339"), ("3b", "2686"), ("7b", "6738")];
        for (name, millions) in published {
            let parameters = Config::preset(name).unwrap().model.parameters() as f64 / 1e6;
            let digits = millions.split('.').nth(1).map_or(0, str::len);
            assert_eq!(format!("{parameters:.digits$}"), millions, "{name}");
        }
    }

    #[test]
    fn every_preset_exists_and_is_valid() {
        for name in PRESETS {
            let config = Config::preset(name).unwrap();
            assert_eq!(config.validate().map_err(|e| e.to_string()), Ok(()), "{name}");
        }
        for name in ["61m", "quickstart-compact", "-compact", "60m-compact-compact"] {
            assert_eq!(Config::preset(name), None, "{name}");
        }
    }

    #[test]
    fn a_compact_preset_differs_in_state_and_folder_only() {
        for (name, plain) in [("compact", "quickstart"), ("7b-compact", "7b")] {
            let mut config = Config::preset(name).unwrap();
            assert!(config.storage.v.per_element().is_none());
            assert_eq!(config.run.dir, std::path::Path::new("runs").join(name));
            let plain = Config::preset(plain).unwrap();
            (config.storage.v, config.run.dir) = (plain.storage.v, plain.run.dir.clone());
            assert_eq!(config, plain);
        }
    }

    #[test]
    fn warm_up_of_every_preset_is_a_tenth_of_its_steps() {
        for name in PRESETS {
            let train = Config::preset(name).unwrap().train;
            assert_eq!(train.warmup * 10, train.steps, "{name}");
        }
    }
}
