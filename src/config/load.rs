//! From a name and overrides to a checked configuration.
//!
//! Three layers, the later wins: a preset (the quick-start unless another is named), the keys of a file, the
//! `--set` overrides. Each value's origin is kept until the end, so that a mistake names the line that made it.

use super::schema::{self, Kind, meant, nearest};
use super::*;
use crate::backend::SecondMoment;
use crate::error::{ConfigError, Place, Problem, Problems, number};
use crate::model::Scheme;
use crate::optim::{Rule, StateConfig};
use std::collections::BTreeMap;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

impl Config {
    /// Reads and checks a configuration.
    ///
    /// `source` is a preset's name or the path of a TOML file; nothing means the quick-start. A file may name its
    /// base with `preset = "60m"` before its first table. Each of `sets` is `table.key=value`; the value is read as
    /// TOML, and as a plain text if it is none. Paths are relative to the current folder, not to the file.
    ///
    /// Some defaults follow what is given: the length of a run is given by `train.steps`, `train.epochs` or
    /// `train.tokens`, and without `train.warmup` the warm-up keeps the preset's share of the steps; with `model.heads` but no `model.kv_heads` every head has keys and values of its own.
    ///
    /// # Errors
    /// A source that does not exist or is not TOML, or all mistakes in keys and values at once.
    pub fn load(source: Option<&str>, sets: &[String]) -> Result<Config, ConfigError> {
        Self::load_over(Config::default(), source, sets)
    }

    /// Reads and checks the text of a TOML file, of which messages say that it is `path`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        Draft::parse(Config::default(), path, text)?.finish()
    }

    /// [`Config::load`] over another base than the quick-start: keys that neither the file nor an override names are
    /// those of `base`. A preset, named as the source or in the file, still is a base of its own.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_over(base: Config, source: Option<&str>, sets: &[String]) -> Result<Config, ConfigError> {
        Draft::open(base, source)?.with(sets).finish()
    }

    /// [`Config::load_over`] for a run that fine-tunes: a rule that is named brings its rate of fine-tuning, unless a preset
    /// is the base.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_tuning(base: Config, source: Option<&str>, sets: &[String]) -> Result<Config, ConfigError> {
        let mut draft = Draft::open(base.clone(), source)?.with(sets);
        draft.tunes = draft.base == base;
        draft.finish()
    }
}

/// A configuration on its way: values known to have the right kind, their origins, and the mistakes so far.
struct Draft {
    /// The base's name.
    preset: &'static str,
    base: Config,
    /// Whether rules have their rates of fine-tuning.
    tunes: bool,
    values: toml::Table,
    origins: BTreeMap<String, Place>,
    problems: Vec<Problem>,
    keys: Vec<(String, Kind)>,
    tables: Vec<&'static str>,
}

impl Draft {
    fn new(preset: &'static str, base: Config) -> Self {
        let keys = schema::keys();
        let tables = schema::tables(&keys);
        let keys: Vec<_> = keys.iter().map(|key| (format!("{}.{}", key.table, key.name), key.kind)).collect();
        let origins = match preset {
            "quickstart" => BTreeMap::new(),
            name => keys.iter().map(|(key, _)| (key.clone(), Place::Preset(name))).collect(),
        };
        let values = toml::Table::try_from(&base).expect("presets are representable in TOML");
        Draft { preset, base, tunes: false, values, origins, problems: Vec::new(), keys, tables }
    }

    fn open(base: Config, source: Option<&str>) -> Result<Self, ConfigError> {
        let Some(source) = source else { return Ok(Draft::new("quickstart", base)) };
        if let Some((name, base)) = preset(source) {
            return Ok(Draft::new(name, base));
        }
        let path = Path::new(source);
        match std::fs::read_to_string(path) {
            Ok(text) => Draft::parse(base, path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(ConfigError::NoSuchSource {
                name: source.into(),
                hint: did_you_mean(nearest(source, PRESETS)),
                presets: PRESETS.join(", "),
            }),
            Err(source) => Err(ConfigError::Read { path: path.into(), source }),
        }
    }

    fn parse(default: Config, path: &Path, text: &str) -> Result<Self, ConfigError> {
        let document = DeTable::parse(text).map_err(|error| syntax(path, text, &error))?;
        let document = document.into_inner();
        let place = |at: usize| Place::File(path.into(), line_and_column(text, at).0);
        let named = document.get("preset").map(|value| (plain(value.get_ref()), place(value.span().start)));
        let base = named.as_ref().and_then(|(value, _)| preset(value.as_str()?));
        let (name, base_config) = base.clone().unwrap_or(("quickstart", default));
        let mut draft = Draft::new(name, base_config);
        if let (Some((value, place)), None) = (named, base) {
            let hint = did_you_mean(value.as_str().and_then(|name| nearest(name, PRESETS)));
            let reason = format!("no preset of that name{hint}; presets are {}", PRESETS.join(", "));
            draft.problems.push(Problem {
                key: "preset".into(),
                found: Some(value.to_string()),
                place: Some(place),
                reason,
            });
        }
        for (table, value) in in_order(&document) {
            let here = place(table.span().start);
            match (table.get_ref().as_ref(), value.get_ref()) {
                ("preset", _) => {}
                (table, DeValue::Table(entries)) if draft.tables.contains(&table) => {
                    for (key, value) in in_order(entries) {
                        let full = format!("{table}.{}", key.get_ref());
                        draft.put(&full, plain(value.get_ref()), place(key.span().start));
                    }
                }
                (table, value) => draft.stray(table, &plain(value), here),
            }
        }
        Ok(draft)
    }

    fn with(mut self, sets: &[String]) -> Self {
        sets.iter().for_each(|set| self.set(set));
        self
    }

    /// One `--set`.
    fn set(&mut self, argument: &str) {
        let Some((key, text)) = argument.split_once('=') else {
            let reason = "an override is written table.key=value, such as train.steps=100".into();
            self.problems.push(Problem { key: argument.into(), found: None, place: Some(Place::Override), reason });
            return;
        };
        let (key, text) = (key.trim(), text.trim());
        if key == "preset" {
            let reason =
                "a preset is the base of a configuration, not an override; name it in place of the file".into();
            self.problems.push(Problem { key: key.into(), found: None, place: Some(Place::Override), reason });
            return;
        }
        let kind = self.keys.iter().find(|(known, _)| known == key).map(|(_, kind)| *kind);
        self.put(key, override_value(text, kind), Place::Override);
    }

    fn put(&mut self, key: &str, value: toml::Value, place: Place) {
        let Some((_, kind)) = self.keys.iter().find(|(known, _)| known == key) else {
            let hint = did_you_mean(meant(key, self.keys.iter().map(|(key, _)| key.as_str())));
            let reason = format!("no such key{hint}");
            self.problems.push(Problem { key: key.into(), found: None, place: Some(place), reason });
            return;
        };
        let value = kind.spelled(value);
        if kind.admits(&value) {
            self.origins.insert(key.into(), place);
            let (table, name) = key.split_once('.').expect("every key of the schema has a table");
            self.values[table].as_table_mut().expect("every table is present").insert(name.into(), value);
        } else {
            let hint = match (kind, value.as_str()) {
                (Kind::Word(words), Some(word)) => did_you_mean(nearest(word, words.iter().copied())),
                (Kind::Tables(tables), _) => tables.stray(&value).map_or_else(String::new, |(stray, known)| {
                    let known: Vec<&str> = known.iter().map(String::as_str).collect();
                    format!("; no key of theirs is {stray:?}{}", did_you_mean(nearest(&stray, known)))
                }),
                _ => String::new(),
            };
            let reason = format!("must be {kind}{hint}");
            self.problems.push(Problem { key: key.into(), found: Some(value.to_string()), place: Some(place), reason });
        }
    }

    /// A name at the top of a file that is not a table of the configuration.
    fn stray(&mut self, name: &str, value: &toml::Value, place: Place) {
        let reason = if self.tables.contains(&name) {
            format!("is a table; write [{name}] on a line of its own and its keys below")
        } else if value.is_table() {
            format!(
                "no such table{}; tables are {}",
                did_you_mean(nearest(name, self.tables.iter().copied())),
                self.tables.join(", ")
            )
        } else {
            let hint = did_you_mean(meant(name, self.keys.iter().map(|(key, _)| key.as_str())));
            format!("no such key outside a table{hint}; only `preset` stands there")
        };
        let key = if value.is_table() { format!("[{name}]") } else { name.into() };
        self.problems.push(Problem { key, found: None, place: Some(place), reason });
    }

    /// A rule that is named brings its published numbers for the model of the preset, for all keys that are not given; and
    /// if it needs each element's own second moment, which compact presets do not store, four bits for each.
    fn take_numbers_of_the_rule(&mut self) {
        let name = self.values["optimizer"]["name"].clone();
        let Ok(rule) = name.try_into::<Rule>() else { return };
        if rule == self.base.optimizer.name {
            return;
        }
        let base = OptimizerConfig { name: rule, ..self.base.optimizer.clone() };
        let published = match self.tunes {
            false => base.published(self.preset),
            // The base's rate is one of fine-tuning already.
            true => OptimizerConfig { lr: OptimizerConfig::default().lr, ..base }.published(self.preset).for_tuning(),
        };
        let published = toml::Table::try_from(published).expect("numbers are plain values");
        let table = self.values["optimizer"].as_table_mut().expect("every table is present");
        let given = |key: &str| matches!(self.origins.get(key), Some(Place::File(..) | Place::Override));
        table.retain(|key, _| given(&format!("optimizer.{key}")));
        for (key, value) in published {
            table.entry(key).or_insert(value);
        }
        let shared = self.base.storage.v.per_element().is_none();
        if rule.info().own_v && shared && !given("storage.v") {
            let plain = toml::Value::try_from(SecondMoment::Int4).expect("a word is a plain value");
            self.values["storage"].as_table_mut().expect("every table is present").insert("v".into(), plain);
        }
    }

    /// Forms of moments that the rule has none of.
    fn unread_moments(&self, config: &Config) -> Problems {
        let (rule, state, usual) = (&config.optimizer, config.storage.state(), StorageConfig::default().state());
        let mut problems = Problems::default();
        let word = |value: serde_json::Result<String>| value.expect("a word is JSON");
        let title = rule.name.info().title;
        let read = rule.tells_apart(state, StateConfig { m: usual.m, ..state });
        let reason = format_args!("is the form of first moments, and {title} stores none in it; remove the key");
        problems.need(state.m == usual.m || read, "storage.m", word(serde_json::to_string(&state.m)), reason);
        // Compact presets share second moments whatever the rule, and so say the configurations of their runs.
        let of_preset = state.v == SecondMoment::Factored && self.rank("storage.v") < 2;
        let read = rule.tells_apart(state, StateConfig { v: usual.v, ..state });
        let reason = format_args!("is the form of second moments, and {title} stores none in it; remove the key");
        let sound = state.v == usual.v || of_preset || read;
        problems.need(sound, "storage.v", word(serde_json::to_string(&state.v)), reason);
        problems
    }

    /// How weighty the place of a value is: an override wins over a file, and that over the base.
    fn rank(&self, key: &str) -> u8 {
        match self.origins.get(key) {
            Some(Place::Override | Place::Option(_)) => 2,
            Some(Place::File(..)) => 1,
            Some(Place::Preset(_)) | None => 0,
        }
    }

    /// Of keys of `[train]` that say the same in different ways, the weightiest; the others are taken back. A key other than
    /// the first says nothing if it is 0. Two of one weight stay, to be refused.
    fn choose(&mut self, keys: &[&str]) {
        let weight = |draft: &Self, i: usize| {
            let value =
                draft.values["train"].get(keys[i]).and_then(|v| v.as_float().or(v.as_integer().map(|n| n as f64)));
            let positive = value.is_some_and(|value| value > 0.0);
            let rank = if positive || i == 0 { draft.rank(&format!("train.{}", keys[i])) } else { 0 };
            (rank, positive)
        };
        let most = (0..keys.len()).map(|i| weight(self, i)).max().unwrap_or_default();
        for (i, key) in keys.iter().enumerate().filter(|_| most.0 > 0) {
            if weight(self, i) < most {
                let table = self.values["train"].as_table_mut().expect("every table is present");
                table.insert((*key).into(), toml::Value::Integer(0));
                self.origins.remove(&format!("train.{key}"));
            }
        }
    }

    /// The warm-up that is given, or else the base's share of the steps, if those are given.
    fn settle_warmup(&self, train: &mut TrainConfig) {
        let given = |key: &str| self.rank(key) > 0;
        let base = &self.base.train;
        let length = ["train.steps", "train.epochs", "train.tokens"].into_iter().any(given);
        match (given("train.warmup"), given("train.warmup_share")) {
            (true, _) => return,
            (false, true) => {}
            (false, false) if !length => return,
            (false, false) if train.steps > 0 && base.steps > 0 => {
                let share = u128::from(train.steps) * u128::from(base.warmup);
                train.warmup = (share / u128::from(base.steps)) as u64;
                return;
            }
            (false, false) if base.warmup_share > 0.0 => train.warmup_share = base.warmup_share,
            (false, false) => train.warmup_share = base.warmup as f64 / base.steps.max(1) as f64,
        }
        train.warmup = 0;
        train.settle_warmup();
    }

    fn finish(mut self) -> Result<Config, ConfigError> {
        self.choose(&["steps", "epochs", "tokens"]);
        self.choose(&["warmup", "warmup_share"]);
        let given = |key: &str| matches!(self.origins.get(key), Some(Place::File(..) | Place::Override));
        let twice = given("train.warmup") && given("train.warmup_share");
        let unshared_heads = given("model.heads") && !given("model.kv_heads");
        self.take_numbers_of_the_rule();
        let mut config: Config = match self.values.clone().try_into() {
            Ok(config) => config,
            Err(error) => {
                // Kinds were checked one by one, so only a number beyond its type can still be refused here.
                let reason = one_line(error.message());
                self.problems.push(Problem { key: "configuration".into(), found: None, place: None, reason });
                return Err(ConfigError::Invalid(self.problems));
            }
        };
        if twice {
            let reason = "says how long the warm-up is, and so does train.warmup; keep one of them".into();
            let found = Some(number(config.train.warmup_share));
            self.problems.push(Problem { key: "train.warmup_share".into(), found, place: None, reason });
        }
        self.settle_warmup(&mut config.train);
        // A model that a run starts from may have offsets where the run stores none.
        if self.rank("storage.scheme") == 0 && !config.storage.takes_offsets(config.model.tied) {
            config.storage.scheme = Scheme::Symmetric;
        }
        if unshared_heads {
            config.model.kv_heads = config.model.heads;
        }
        // A value that was refused still has its default here, and judging others by it would mislead.
        if self.problems.is_empty() {
            self.problems = validate::problems(&config);
            if self.problems.is_empty() {
                self.problems = self.unread_moments(&config).0;
                // Whoever takes the tasks away for once means to leave the rest alone.
                if self.rank("continual.task") == 0 {
                    self.problems.extend(config.continual.unread().0);
                }
            }
            for problem in &mut self.problems {
                problem.place = self.origins.get(&problem.key).cloned();
            }
        }
        if self.problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(self.problems)) }
    }
}

/// Entries in the order of the text, in which mistakes are reported; the parser sorts them by name.
fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<(&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn preset(name: &str) -> Option<(&'static str, Config)> {
    let name = PRESETS.into_iter().find(|known| *known == name)?;
    Some((name, Config::preset(name)?))
}

/// The value of an override: TOML, or else the text as it stands. A key that holds text takes `123` as text too,
/// and a key that holds a list takes one text as a list of one.
fn override_value(text: &str, kind: Option<Kind>) -> toml::Value {
    let parsed = text.parse::<toml::Value>().unwrap_or_else(|_| text.into());
    match kind {
        Some(Kind::Text | Kind::Word(_)) if !parsed.is_str() => text.into(),
        Some(Kind::List) if parsed.is_str() => vec![parsed].into(),
        _ => parsed,
    }
}

/// A parsed value without its places in the text.
fn plain(value: &DeValue<'_>) -> toml::Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Boolean(switch) => (*switch).into(),
        DeValue::Datetime(moment) => (*moment).into(),
        DeValue::Array(items) => items.iter().map(|item| plain(item.get_ref())).collect::<Vec<_>>().into(),
        DeValue::Table(entries) => {
            let entries = entries.iter().map(|(key, value)| (key.get_ref().to_string(), plain(value.get_ref())));
            toml::Value::Table(entries.collect())
        }
        // A number beyond 64 bits becomes a text, which no numeric key admits, so it is refused with its digits.
        DeValue::Integer(digits) => {
            i64::from_str_radix(digits.as_str(), digits.radix()).map_or_else(|_| digits.as_str().into(), Into::into)
        }
        DeValue::Float(digits) => {
            digits.as_str().parse::<f64>().map_or_else(|_| digits.as_str().into(), toml::Value::Float)
        }
    }
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let (line, column) = line_and_column(text, error.span().map_or(0, |span| span.start));
    ConfigError::Syntax { path: path.into(), line, column, message: one_line(error.message()) }
}

/// Line and column of a byte, counted from 1. Bytes are counted, since a parser's place may be inside a character.
fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let starts_character = |byte: &&u8| **byte & 0xc0 != 0x80;
    (before.iter().filter(|byte| **byte == b'\n').count() + 1, line.iter().filter(starts_character).count() + 1)
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn did_you_mean(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_any_byte_changed_never_panics() {
        let text = include_str!("../../assets/config.toml");
        let (mut accepted, mut refused) = (0, 0);
        for at in (0..text.len()).step_by(2) {
            let mut broken = text.as_bytes().to_vec();
            broken[at] = b"=[\"9\n.-#"[at / 2 % 8];
            let broken = String::from_utf8(broken).expect("both the file and the changes are ASCII");
            match Draft::parse(Config::default(), Path::new("run.toml"), &broken).and_then(Draft::finish) {
                Ok(_) => accepted += 1,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
        assert!(accepted > 500 && refused > 500, "{accepted} accepted, {refused} refused");
    }

    #[test]
    fn columns_are_counted_in_characters() {
        assert_eq!(line_and_column("a\n\u{e9}\u{e9} x", 2 + 5), (2, 4));
        assert_eq!(line_and_column("a", 99), (1, 2));
    }
}
