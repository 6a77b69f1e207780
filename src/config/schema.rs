//! Which keys exist and what each may hold.
//!
//! Nothing is listed twice: names and kinds are read off the serialized defaults, the words of an enum off its
//! `Deserialize` implementation. A key added to a table is known here by itself.

use super::*;
use crate::backend::{Moment, Scheme, SecondMoment};
use crate::data::{Overlong, Packing, SourceConfig};
use crate::model::{ActivationQuant, GradientBuffer, KeptActivations, Residence, RopeScaling, TableStorage, Weights};
use crate::optim::{EmbeddingUpdate, Rule, Schedule, Variant};
use serde::de::{self, Deserializer, Visitor};
use std::fmt;

/// What a key may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Whole,
    Number,
    Switch,
    Text,
    List,
    Sources,
    Word(&'static [&'static str]),
}

impl Kind {
    /// Whether `value` has this kind. Whole numbers stand for numbers, never the other way round.
    pub(super) fn admits(self, value: &toml::Value) -> bool {
        match (self, value) {
            (Kind::Whole, toml::Value::Integer(i)) => *i >= 0,
            (Kind::Number, toml::Value::Integer(_) | toml::Value::Float(_)) => true,
            (Kind::Switch, toml::Value::Boolean(_)) => true,
            (Kind::Text, toml::Value::String(_)) => true,
            (Kind::List, toml::Value::Array(items)) => items.iter().all(toml::Value::is_str),
            (Kind::Sources, toml::Value::Array(items)) => {
                items.iter().all(|item| item.clone().try_into::<SourceConfig>().is_ok())
            }
            (Kind::Word(words), toml::Value::String(word)) => words.contains(&word.as_str()),
            _ => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Whole => f.write_str("a whole number, 0 or more"),
            Kind::Number => f.write_str("a number"),
            Kind::Switch => f.write_str("true or false"),
            Kind::Text => f.write_str("a text in quotes"),
            Kind::List => f.write_str("a list of texts, such as [\"a.txt\", \"b/*.jsonl\"]"),
            Kind::Sources => f.write_str("tables of files and a weight, such as { files = [\"a.txt\"], weight = 0.7 }"),
            Kind::Word(words) => {
                let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
                write!(f, "one of {}", quoted.join(", "))
            }
        }
    }
}

/// Every key as (table, name, kind), in the order of the tables.
pub(super) fn keys() -> Vec<(String, String, Kind)> {
    let mut defaults = Config::default();
    // Keys that are not written where they have their defaults: given other values to be seen.
    defaults.tokenizer.file = Some("tokenizer.json".into());
    let data = &mut defaults.data;
    (data.packing, data.overlong, data.chat_template) = (Packing::Concat, Overlong::Skip, Some("chat.jinja".into()));
    data.source = vec![SourceConfig { files: Vec::new(), weight: 1.0 }];
    let model = &mut defaults.model;
    (model.head_dim, model.qkv_bias, model.qk_norm) = (Some(64), true, true);
    (model.rope_scaling, model.rope_factor, model.rope_original_context) = (RopeScaling::Llama3, 8.0, 1);
    (model.rope_low, model.rope_high) = (2.0, 8.0);
    let optimizer = &mut defaults.optimizer;
    (optimizer.embedding, optimizer.momentum) = (EmbeddingUpdate::Sparse, 0.9);
    (optimizer.nesterov, optimizer.adam_lr) = (true, 1e-2);
    let defaults = toml::Table::try_from(defaults).expect("the defaults are representable in TOML");
    let mut keys = Vec::new();
    for table in TABLES {
        let values = defaults[table].as_table().expect("every table of the configuration is a struct");
        keys.extend(values.iter().map(|(name, value)| (table.to_string(), name.clone(), kind(table, name, value))));
    }
    keys
}

/// The tables, in the order in which they are read and written.
pub(super) const TABLES: [&str; 8] =
    ["model", "data", "tokenizer", "storage", "activations", "optimizer", "train", "run"];

fn kind(table: &str, name: &str, default: &toml::Value) -> Kind {
    match default {
        toml::Value::Integer(_) => Kind::Whole,
        toml::Value::Float(_) => Kind::Number,
        toml::Value::Boolean(_) => Kind::Switch,
        toml::Value::Array(_) if name == "source" => Kind::Sources,
        toml::Value::Array(_) => Kind::List,
        _ => words(table, name).map_or(Kind::Text, Kind::Word),
    }
}

/// The words that an enum's key may hold.
fn words(table: &str, name: &str) -> Option<&'static [&'static str]> {
    Some(match (table, name) {
        ("data", "packing") => variants::<Packing>(),
        ("data", "overlong") => variants::<Overlong>(),
        ("model", "rope_scaling") => variants::<RopeScaling>(),
        ("storage", "weights") => variants::<Weights>(),
        ("storage", "embedding" | "head") => variants::<TableStorage>(),
        ("storage", "scheme") => variants::<Scheme>(),
        ("storage", "m") => variants::<Moment>(),
        ("storage", "v") => variants::<SecondMoment>(),
        ("activations", "quant") => variants::<ActivationQuant>(),
        ("optimizer", "name") => variants::<Rule>(),
        ("optimizer", "variant") => variants::<Variant>(),
        ("optimizer", "embedding") => variants::<EmbeddingUpdate>(),
        ("train", "schedule") => variants::<Schedule>(),
        ("run", "activations") => variants::<KeptActivations>(),
        ("run", "gradient") => variants::<GradientBuffer>(),
        ("run", "weights" | "state") => variants::<Residence>(),
        _ => return None,
    })
}

/// The names under which an enum's variants are read.
fn variants<T: de::DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // The probe always answers with an error; what it saw on the way is the result.
    let _ = T::deserialize(Probe(&mut names));
    names
}

/// A deserializer that holds nothing and only notes which enum it was asked for.
struct Probe<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = de::value::Error;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = variants;
        Err(de::Error::custom("a probe holds nothing"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("a probe holds nothing"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// Keys of earlier versions, and what they are called now.
const RENAMED: [(&str, &str); 2] = [("data.samples", "data.packing"), ("data.long", "data.overlong")];

/// The name that a key of an earlier version has now.
pub(super) fn renamed(key: &str) -> Option<&'static str> {
    RENAMED.iter().find(|(former, _)| *former == key).map(|(_, now)| *now)
}

/// The nearest of `known` to `word`, if it is near enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let score =
        |k: &str| strsim::jaro_winkler(word, k).max(strsim::jaro_winkler(word, k.rsplit('.').next().unwrap_or(k)));
    known
        .into_iter()
        .map(|k| (score(k), k))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enum_key_without_its_words_would_accept_any_text() {
        for (table, name, kind) in keys() {
            if kind != Kind::Text {
                continue;
            }
            let mut config = toml::Table::new();
            config.insert(table.clone(), toml::Table::from_iter([(name.clone(), "no-such-word".into())]).into());
            assert!(config.try_into::<Config>().is_ok(), "{table}.{name} is an enum without words in schema.rs");
        }
    }

    #[test]
    fn every_word_listed_is_read_by_serde_and_spelled_as_written() {
        let Kind::Word(words) = kind("storage", "weights", &"int4".into()) else { panic!("storage.weights has words") };
        assert_eq!(words, ["int4", "int4-simulated", "bf16", "f32"]);
    }

    #[test]
    fn no_table_is_forgotten() {
        let config = toml::Table::try_from(Config::default()).unwrap();
        assert_eq!(config.keys().cloned().collect::<Vec<_>>(), {
            let mut sorted = TABLES.map(String::from).to_vec();
            sorted.sort();
            sorted
        });
    }

    #[test]
    fn a_key_is_renamed_to_one_that_there_is() {
        let keys: Vec<String> = keys().into_iter().map(|(table, name, _)| format!("{table}.{name}")).collect();
        for (former, now) in RENAMED {
            assert!(keys.iter().any(|key| key == now) && keys.iter().all(|key| key != former), "{former}: {now}");
            assert_eq!(renamed(former), Some(now));
        }
    }

    #[test]
    fn a_bare_name_finds_its_full_key() {
        assert_eq!(nearest("steps", ["train.steps", "train.batch"]), Some("train.steps"));
        assert_eq!(nearest("model.hiden", ["model.hidden", "model.heads"]), Some("model.hidden"));
        assert_eq!(nearest("zzz", ["model.hidden"]), None);
    }
}
