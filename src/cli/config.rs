//! `tetrad config`: prints configurations and what their keys mean.

use super::output::{escape, json, print};
use super::{CliResult, Failure};
use std::collections::HashSet;
use std::path::Path;
use std::process::ExitCode;
use tetrad::config::{Config, KeyInfo, PRESETS, RECORD, json_schema, key_meant, manual};
use tetrad::error::ConfigError;

/// Print a configuration with the meaning of every key, or explain keys.
///
/// The output is a configuration file: `tetrad config 60m > my.toml`, then `tetrad train my.toml`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A preset, a TOML file or the folder of a run, whose whole configuration is printed; or a key (`train.steps`) or a table (`train`), which
    /// is explained. The quick-start by default.
    what: Option<String>,
    /// Override a key: `--set optimizer.lr=1e-3`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Print a JSON schema of configuration files, for editors.
    #[arg(long, conflicts_with_all = ["what", "sets"])]
    schema: bool,
}

/// Runs `tetrad config`.
///
/// # Errors
/// A configuration that cannot be used, or a name that is neither a configuration nor a key.
pub fn run(args: Args) -> CliResult {
    if args.schema {
        print(|out| json(out, &json_schema()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let what = args.what.as_deref().map(of_folder);
    let explained = what.as_deref().map(explained).unwrap_or_default();
    let text = match (explained.as_slice(), &what) {
        ([], what) => match (Config::load(what.as_deref(), &args.sets), what.as_deref().and_then(key_meant)) {
            (Ok(config), _) => config.to_commented_toml(),
            (Err(ConfigError::NoSuchSource { hint, .. }), Some(key)) if hint.is_empty() => {
                eprintln!(
                    "note: {} is no key; this one is probably meant",
                    escape(what.as_deref().unwrap_or_default())
                );
                explain(&[key], &args.sets)?
            }
            (Err(error), _) => return Err(error.into()),
        },
        (keys, _) => explain(keys, &args.sets)?,
    };
    print(|out| write!(out, "{text}"))?;
    Ok(ExitCode::SUCCESS)
}

/// The record of a run, if it is the run's folder that is named.
fn of_folder(what: &str) -> String {
    let record = Path::new(what).join(RECORD);
    if record.is_file() { record.to_string_lossy().into_owned() } else { what.into() }
}

/// The keys that a name means: one by its full or its last name, or all of a table. None for a preset or a file.
fn explained(name: &str) -> Vec<KeyInfo> {
    if PRESETS.contains(&name) || Path::new(name).exists() {
        return Vec::new();
    }
    let mut keys = manual();
    keys.retain(|info| {
        let (table, key) = info.key.split_once('.').unwrap_or_default();
        [info.key.as_str(), table, key].contains(&name)
    });
    keys
}

/// Each key with its meaning, what it may hold, and its value in the quick-start and where a preset has another.
fn explain(keys: &[KeyInfo], sets: &[String]) -> Result<String, Failure> {
    let default = flat(&Config::load(None, sets)?);
    let presets: Vec<_> =
        PRESETS.iter().skip(1).filter_map(|name| Some((*name, flat(&Config::preset(name)?)))).collect();
    let mut text = String::new();
    for KeyInfo { key, meaning, kind, default: written } in keys {
        let value = |config: &toml::Table| {
            let (table, key) = key.split_once('.')?;
            Some(config.get(table)?.get(key)?.to_string())
        };
        // Keys that older files do not have are left out of a configuration where they have their default.
        let usual = value(&default).or_else(|| written.clone());
        let others: Vec<_> = presets
            .iter()
            .filter_map(|(name, config)| Some((*name, value(config)?)))
            .filter(|(_, value)| Some(value) != usual.as_ref())
            .collect();
        text += &format!(
            "{key}\n    {meaning}\n    {kind}; {}\n",
            match &usual {
                Some(value) => format!("{value} by default"),
                None => "absent by default".into(),
            }
        );
        if !others.is_empty() {
            text += &format!("    presets: {}\n", by_value(&others));
        }
    }
    Ok(text)
}

/// Presets by the value that they have; a size's compact form is not named where it has the value of the size.
fn by_value(presets: &[(&str, String)]) -> String {
    let mut values: Vec<&str> = presets.iter().map(|(_, value)| value.as_str()).collect();
    let mut seen = HashSet::new();
    values.retain(|value| seen.insert(*value));
    let alike = |name: &str, value: &str| {
        let size = name.strip_suffix("-compact");
        size.is_some_and(|size| presets.iter().any(|(other, found)| *other == size && found == value))
    };
    let shared = presets.iter().any(|(name, value)| alike(name, value));
    let told = values.into_iter().map(|value| {
        let with = presets.iter().filter(|(name, found)| found == value && !alike(name, value));
        format!("{value} ({})", with.map(|(name, _)| *name).collect::<Vec<_>>().join(", "))
    });
    let told = told.collect::<Vec<_>>().join(", ");
    if shared { format!("{told}; those sizes' compact forms likewise") } else { told }
}

fn flat(config: &Config) -> toml::Table {
    toml::from_str(&config.to_toml()).expect("what was written can be read")
}

#[cfg(test)]
mod tests {
    use super::by_value;

    #[test]
    fn presets_are_gathered_by_their_values() {
        let all = |found: &[(&'static str, &str)]| {
            by_value(&found.iter().map(|(name, value)| (*name, value.to_string())).collect::<Vec<_>>())
        };
        assert_eq!(all(&[("60m", "1"), ("7b", "2"), ("130m", "1")]), "1 (60m, 130m), 2 (7b)");
        let compact = all(&[("60m", "1"), ("7b", "2"), ("60m-compact", "1"), ("7b-compact", "2")]);
        assert_eq!(compact, "1 (60m), 2 (7b); those sizes' compact forms likewise");
        let differing = all(&[("60m", "1"), ("compact", "3"), ("60m-compact", "3")]);
        assert_eq!(differing, "1 (60m), 3 (compact, 60m-compact)");
    }
}
