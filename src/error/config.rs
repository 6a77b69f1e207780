//! Errors of a configuration, found before anything is read or computed.

use std::fmt;
use std::path::PathBuf;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The configuration's name is neither a preset nor a file.
    #[error("{name}: no such file, and no preset of that name{hint}; presets are {presets}")]
    NoSuchSource {
        /// What was asked for.
        name: String,
        /// The nearest preset as " (did you mean `60m`?)", or nothing.
        hint: String,
        /// All presets, separated by commas.
        presets: String,
    },
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}, line {line}, column {column}: not valid TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// The parser's reason, on one line.
        message: String,
    },
    /// All invalid keys and values, in the order of the tables.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
}

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The full key: `train.steps`.
    pub key: String,
    /// The value found, as TOML; absent if the key itself is the mistake.
    pub found: Option<String>,
    /// Where the value was set; absent if it is a default.
    pub place: Option<Place>,
    /// What is allowed, and what to do next.
    pub reason: String,
}

/// Mistakes in some settings, gathered by the checks of the room that owns them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Notes a problem unless `ok`; `reason` says what is allowed and what to do next.
    pub fn need(&mut self, ok: bool, key: &str, found: impl fmt::Display, reason: impl fmt::Display) {
        if !ok {
            let (key, found) = (key.to_owned(), Some(found.to_string()));
            self.0.push(Problem { key, found, place: None, reason: reason.to_string() });
        }
    }

    /// `found` is in `least ..= most`.
    pub fn within(&mut self, key: &str, found: usize, least: usize, most: usize) {
        self.need((least..=most).contains(&found), key, found, format_args!("must be {least} to {most}"));
    }

    /// `found` is in [0, 1): how much of a running mean is kept.
    pub fn decay(&mut self, key: &str, found: f64) {
        let reason = "must be at least 0 and below 1: it is the share of a running mean that is kept";
        self.need((0.0..1.0).contains(&found), key, number(found), reason);
    }

    /// `found` is in (0, most].
    pub fn positive(&mut self, key: &str, found: f64, most: f64, unit: &str) {
        let reason = format_args!("must be above 0 and at most {most}{unit}");
        self.need(found > 0.0 && found <= most, key, number(found), reason);
    }
}

/// A number as it is written in a configuration: `nan`, `inf`, `-0.5`, `1e-9`.
pub fn number(value: f64) -> String {
    format!("{value:?}").replace("NaN", "nan")
}

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a configuration file, at a line counted from 1.
    File(PathBuf, usize),
    /// By a `--set` override.
    Override,
    /// By an option of a command that is short for an override.
    Option(&'static str),
    /// By a preset.
    Preset(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path, line) => write!(f, "{}, line {line}", path.display()),
            Place::Override => f.write_str("--set"),
            Place::Option(name) => f.write_str(name),
            Place::Preset(name) => write!(f, "preset {name}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(found) = &self.found {
            write!(f, " = {found}")?;
        }
        if let Some(place) = &self.place {
            write!(f, " ({place})")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// One problem is one sentence; several are listed one per line after their count.
fn list(problems: &[Problem]) -> String {
    match problems {
        [one] => one.to_string(),
        all => {
            let lines: String = all.iter().map(|problem| format!("\n  {problem}")).collect();
            format!("{} mistakes in the configuration:{lines}", all.len())
        }
    }
}
