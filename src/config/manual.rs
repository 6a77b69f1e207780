//! What every key means: the commented configuration that the program carries, and what is read off it.

use super::schema::{self, Kind};
use super::*;
use crate::error::number;
use serde_json::{Value, json};

/// Every key of the quick-start with its meaning.
const TEXT: &str = include_str!("../../assets/config.toml");

/// One key of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// `train.steps`
    pub key: String,
    /// Its meaning, on one line.
    pub meaning: String,
    /// What it may hold, in words: "a whole number, 0 or more".
    pub kind: String,
    /// Its value in the quick-start, as TOML; nothing if it has none.
    pub default: Option<String>,
}

/// A line of the commented configuration.
enum Line<'a> {
    Comment(&'a str),
    Table(&'a str),
    /// A key of the table that was named last, absent from the quick-start if it is commented out.
    Key(&'a str),
    Other,
}

fn line(text: &str) -> Line<'_> {
    let name = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let plain = text.strip_prefix("# ").unwrap_or(text);
    match (plain.split_once(" = "), text.strip_prefix("# ")) {
        (Some((key, _)), _) if name(key) => Line::Key(key),
        (_, Some(comment)) => Line::Comment(comment),
        _ => match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(table) => Line::Table(table),
            None => Line::Other,
        },
    }
}

/// The key that is probably meant by a name that no key has, as other programs call it or nearly spelled so.
pub fn key_meant(name: &str) -> Option<KeyInfo> {
    let mut keys = manual();
    let meant = schema::meant(name, keys.iter().map(|info| info.key.as_str()))?.to_owned();
    keys.retain(|info| info.key == meant);
    keys.pop()
}

/// Every key, in the order of the commented configuration.
pub fn manual() -> Vec<KeyInfo> {
    let kinds = schema::keys();
    let (mut found, mut table, mut comment) = (Vec::new(), "", Vec::new());
    for text in TEXT.lines() {
        match line(text) {
            Line::Comment(words) => comment.push(words),
            Line::Table(name) => table = name,
            Line::Key(name) => {
                let kind = kinds.iter().find(|key| (key.table, key.name) == (table, name));
                found.extend(kind.map(|key| KeyInfo {
                    key: format!("{table}.{name}"),
                    meaning: comment.join(" "),
                    kind: key.kind.to_string(),
                    default: text.split_once(" = ").filter(|_| !text.starts_with('#')).map(|(_, value)| value.into()),
                }));
            }
            Line::Other => {}
        }
        if !matches!(line(text), Line::Comment(_)) {
            comment.clear();
        }
    }
    found
}

impl Config {
    /// The whole configuration as TOML, each key below its meaning; loading it gives the same configuration.
    ///
    /// # Panics
    /// As [`Config::to_toml`].
    pub fn to_commented_toml(&self) -> String {
        let mut values = toml::Table::try_from(self).expect("a validated configuration is representable in TOML");
        let (mut out, mut table) = (String::new(), "");
        for text in TEXT.lines() {
            if let Line::Table(name) = line(text) {
                rest(&mut out, &mut values, table);
                table = name;
            }
            let value = match line(text) {
                Line::Key(key) => values.get_mut(table).and_then(toml::Value::as_table_mut).and_then(|t| t.remove(key)),
                _ => None,
            };
            match (line(text), value) {
                // As people write them: 1e-8 where TOML's writer has many zeros.
                (Line::Key(key), Some(toml::Value::Float(value))) => out += &format!("{key} = {}\n", number(value)),
                (Line::Key(key), Some(value)) => out += &format!("{key} = {value}\n"),
                _ => out += &format!("{text}\n"),
            }
        }
        rest(&mut out, &mut values, table);
        out
    }
}

/// Keys of a table that the commented configuration does not write as `key = value`.
fn rest(out: &mut String, values: &mut toml::Table, table: &str) {
    let Some(toml::Value::Table(left)) = values.remove(table) else { return };
    for (key, value) in left {
        out.push_str(&format!("{key} = {value}\n\n"));
    }
}

/// A JSON schema of configuration files, for editors.
pub fn json_schema() -> Value {
    let defaults = serde_json::to_value(Config::default()).expect("a configuration is plain values");
    let manual = manual();
    let mut tables = serde_json::Map::new();
    let preset = json!({ "description": "The configuration that the others are changes of.", "enum": PRESETS });
    tables.insert("preset".into(), preset);
    for schema::Key { table, name, kind } in schema::keys() {
        let mut key = allowed(kind);
        let full = format!("{table}.{name}");
        if let Some(info) = manual.iter().find(|info| info.key == full) {
            key["description"] = info.meaning.clone().into();
        }
        if let Some(default) = defaults[table].get(name) {
            key["default"] = default.clone();
        }
        let empty = || json!({ "type": "object", "additionalProperties": false, "properties": {} });
        tables.entry(table).or_insert_with(empty)["properties"][name] = key;
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A configuration of tetrad",
        "type": "object",
        "additionalProperties": false,
        "properties": tables,
    })
}

fn allowed(kind: Kind) -> Value {
    match kind {
        Kind::Whole => json!({ "type": "integer", "minimum": 0 }),
        Kind::Number => json!({ "type": "number" }),
        Kind::Switch => json!({ "type": "boolean" }),
        Kind::Text => json!({ "type": "string" }),
        Kind::List => schema::texts(),
        Kind::Tables(tables) => tables.schema(),
        Kind::Word(words) => json!({ "enum": words }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_meaning_and_every_meaning_a_key() {
        let manual = manual();
        // Sources are tables of their own in the text.
        let keys = schema::keys().into_iter().filter(|key| !matches!(key.kind, Kind::Tables(_)));
        let keys: Vec<_> = keys.map(|key| format!("{}.{}", key.table, key.name)).collect();
        for key in &keys {
            let info = manual.iter().find(|info| info.key == *key).unwrap_or_else(|| panic!("{key} is not explained"));
            assert!(info.meaning.len() > 3, "{key}: {:?}", info.meaning);
        }
        assert_eq!(manual.len(), keys.len());
    }

    #[test]
    fn the_commented_configuration_is_the_configuration() {
        for name in PRESETS {
            let mut config = Config::preset(name).unwrap();
            config.model.head_dim = Some(64);
            let text = config.to_commented_toml();
            assert_eq!(toml::from_str::<Config>(&text).unwrap(), config, "{name}");
            assert!(text.lines().filter(|line| line.starts_with('#')).count() > 60);
        }
        let sources = "[data]\nsource = [{ files = [\"a.txt\"], weight = 0.7 }]\n";
        let config: Config = toml::from_str(sources).unwrap();
        assert_eq!(toml::from_str::<Config>(&config.to_commented_toml()).unwrap(), config);
        let text = Config::default().to_commented_toml();
        let differ: Vec<_> = text.lines().zip(TEXT.lines()).filter(|(found, given)| found != given).collect();
        assert_eq!(differ, [], "the defaults are those of the text");
        assert_eq!(text.len(), TEXT.len());
    }

    #[test]
    fn the_schema_knows_every_key_with_its_default() {
        let schema = json_schema();
        let tables = &schema["properties"];
        assert_eq!(tables["train"]["properties"]["steps"]["default"], 400);
        assert_eq!(tables["optimizer"]["properties"]["name"]["enum"][0], "stable-spam");
        assert_eq!(tables["preset"]["enum"][1], "60m");
        for key in schema::keys() {
            assert!(tables[key.table]["properties"][key.name].is_object(), "{}.{}", key.table, key.name);
        }
    }
}
