//! The resolved configuration as text: what a run directory keeps, and what `--dry-run` prints.

use super::*;

impl Config {
    /// The whole configuration as TOML, every key with its value; loading it gives the same configuration.
    ///
    /// # Panics
    /// If a whole number exceeds `i64::MAX`, TOML's largest, which [`Config::validate`] refuses.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a validated configuration is representable in TOML")
    }
}
