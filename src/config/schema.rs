//! Which keys exist and what each may hold.
//!
//! Nothing is listed twice: tables, keys, kinds and the words of enums are read off the `Deserialize` implementation of
//! [`Config`], which reads itself from a deserializer that has every field and notes what each is read as. A key added
//! to a table is known here by itself.

use super::*;
use crate::data::SourceConfig;
use serde::de::value::{Error, StrDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::json;
use std::fmt;

/// What a key may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Whole,
    Number,
    Switch,
    Text,
    List,
    /// Tables: what those of a list are in words, and whether a value is one of them.
    Tables(&'static TableKind),
    Word(&'static [&'static str]),
}

impl Kind {
    /// The value as it is written here: words of other programs' options have `_` where ours have `-`.
    pub(super) fn spelled(self, value: toml::Value) -> toml::Value {
        match (self, value) {
            (Kind::Word(words), toml::Value::String(word)) if !words.contains(&word.as_str()) => {
                let hyphens = word.replace('_', "-");
                toml::Value::String(if words.contains(&hyphens.as_str()) { hyphens } else { word })
            }
            (_, value) => value,
        }
    }

    /// Whether `value` has this kind. Whole numbers stand for numbers, never the other way round.
    pub(super) fn admits(self, value: &toml::Value) -> bool {
        match (self, value) {
            (Kind::Whole, toml::Value::Integer(i)) => *i >= 0,
            (Kind::Number, toml::Value::Integer(_) | toml::Value::Float(_)) => true,
            (Kind::Switch, toml::Value::Boolean(_)) => true,
            (Kind::Text, toml::Value::String(_)) => true,
            (Kind::List, toml::Value::Array(items)) => items.iter().all(toml::Value::is_str),
            (Kind::Tables(kind), toml::Value::Array(items)) => items.iter().all(|item| (kind.admits)(item)),
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
            Kind::List => f.write_str("a list of texts, such as [\"one\", \"two\"]"),
            Kind::Tables(kind) => f.write_str(kind.words),
            Kind::Word(words) => {
                let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
                write!(f, "one of {}", quoted.join(", "))
            }
        }
    }
}

/// The tables that a list may hold.
#[derive(Debug)]
pub(super) struct TableKind {
    /// The name of the type that reads them.
    name: &'static str,
    words: &'static str,
    admits: fn(&toml::Value) -> bool,
    schema: fn() -> serde_json::Value,
}

impl TableKind {
    /// Its JSON schema.
    pub(super) fn schema(&self) -> serde_json::Value {
        json!({ "type": "array", "items": (self.schema)() })
    }

    /// The first key of such tables that none of them has, and those that they may have.
    pub(super) fn stray(&self, value: &toml::Value) -> Option<(String, Vec<String>)> {
        let schema = (self.schema)();
        let known: Vec<String> = schema["properties"].as_object()?.keys().cloned().collect();
        let tables = value.as_array()?.iter().filter_map(toml::Value::as_table);
        let stray = tables.flat_map(toml::Table::keys).find(|key| !known.contains(key))?.clone();
        Some((stray, known))
    }
}

impl PartialEq for TableKind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for TableKind {}

/// The JSON schema of a list of texts.
pub(super) fn texts() -> serde_json::Value {
    json!({ "type": "array", "items": { "type": "string" } })
}

fn reads<T: serde::de::DeserializeOwned>(item: &toml::Value) -> bool {
    item.clone().try_into::<T>().is_ok()
}

/// The lists of tables that there are.
static TABLES: [TableKind; 2] = [
    TableKind {
        name: "SourceConfig",
        words: "tables of files and a weight, such as { files = [\"a.txt\"], weight = 0.7 }",
        admits: reads::<SourceConfig>,
        schema: || {
            let weight = json!({ "type": "number", "exclusiveMinimum": 0 });
            let properties = json!({ "files": texts(), "weight": weight });
            json!({ "type": "object", "additionalProperties": false, "required": ["files"], "properties": properties })
        },
    },
    TableKind {
        name: "TaskConfig",
        words: "tables of a name and files, such as { name = \"a\", train = [\"a.txt\"], steps = 300 }",
        admits: reads::<TaskConfig>,
        schema: || {
            let steps = json!({ "type": "integer", "minimum": 0 });
            let name = json!({ "type": "string" });
            let exact = json!({ "type": "boolean" });
            let properties = json!({
                "name": name, "train": texts(), "validation": texts(), "steps": steps, "choices": texts(), "exact": exact,
            });
            let required = ["name", "train"];
            json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
        },
    },
];

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub table: &'static str,
    /// The name within the table.
    pub name: &'static str,
    pub kind: Kind,
}

/// Every key, in the order in which tables and keys are declared.
pub(super) fn keys() -> Vec<Key> {
    let mut probe = Probe::default();
    // What was read is of no use: only what was asked for counts.
    let _: Config = Deserialize::deserialize(&mut probe).expect("the probe has every field");
    probe.keys
}

/// The tables of some keys, in their order.
pub(super) fn tables(keys: &[Key]) -> Vec<&'static str> {
    let mut tables: Vec<_> = keys.iter().map(|key| key.table).collect();
    tables.dedup();
    tables
}

/// Former names of keys and what they are called now, so that a suggestion is right where names are unlike.
const FORMER: [(&str, &str); 6] = [
    ("data.samples", "data.packing"),
    ("data.long", "data.overlong"),
    ("run.activations", "run.activation_checkpointing"),
    ("run.gradient", "run.grad_buffer"),
    ("run.weights", "offload.weights"),
    ("run.state", "offload.optimizer"),
];

/// What options are called by other programs, whatever stands before the last dot.
const ELSEWHERE: [(&str, &str); 43] = [
    ("learning_rate", "optimizer.lr"),
    ("max_lr", "optimizer.lr"),
    ("peak_lr", "optimizer.lr"),
    ("optim", "optimizer.name"),
    ("rule", "optimizer.name"),
    ("decay", "optimizer.weight_decay"),
    ("wd", "optimizer.weight_decay"),
    ("clip", "optimizer.grad_clip"),
    ("clip_grad", "optimizer.grad_clip"),
    ("clip_grad_norm", "optimizer.grad_clip"),
    ("grad_clipping", "optimizer.grad_clip"),
    ("gradient_clipping", "optimizer.grad_clip"),
    ("max_grad_norm", "optimizer.grad_clip"),
    ("iters", "train.steps"),
    ("max_iters", "train.steps"),
    ("max_steps", "train.steps"),
    ("num_steps", "train.steps"),
    ("num_training_steps", "train.steps"),
    ("num_epochs", "train.epochs"),
    ("num_train_epochs", "train.epochs"),
    ("max_tokens", "train.tokens"),
    ("max_train_tokens", "train.tokens"),
    ("batch_size", "train.batch"),
    ("per_device_train_batch_size", "train.batch"),
    ("total_batch_size", "train.batch"),
    ("micro_batch_size", "train.micro_batch"),
    ("gradient_accumulation_steps", "train.micro_batch"),
    ("block_size", "train.sequence"),
    ("max_length", "train.sequence"),
    ("max_seq_len", "train.sequence"),
    ("max_seq_length", "train.sequence"),
    ("seq_len", "train.sequence"),
    ("warmup_ratio", "train.warmup_share"),
    ("warmup_steps", "train.warmup"),
    ("lr_scheduler_type", "train.schedule"),
    ("scheduler", "train.schedule"),
    ("eval_steps", "train.eval_every"),
    ("save_steps", "train.checkpoint_every"),
    ("save_total_limit", "train.keep"),
    ("early_stopping_patience", "train.patience"),
    ("dataset", "data.train"),
    ("output_dir", "run.dir"),
    ("gradient_checkpointing", "run.activation_checkpointing"),
];

/// The key that was probably meant by `key`, which does not exist: one that was called so, has the same last name in another
/// table, is called so elsewhere, or else is spelled much like it.
pub(super) fn meant<'a>(key: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let known: Vec<&str> = known.into_iter().collect();
    let last = key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase().replace('-', "_");
    fn name(key: &str) -> &str {
        key.rsplit('.').next().unwrap_or(key)
    }
    // Many tables have something with a name.
    let same = known.iter().copied().find(|key| last != "name" && name(key) == last);
    let former = FORMER.iter().filter(|(former, _)| *former == key);
    let elsewhere = ELSEWHERE.iter().filter(|(word, _)| *word == last);
    let is = |now: &str| known.iter().find(|key| **key == now).copied();
    let called = former.chain(elsewhere).find_map(|(_, now)| is(now));
    // Of names that are spelled alike the one in the same table.
    let table = |of: &str| of.rsplit_once('.').map(|(table, _)| table.to_owned());
    let near = |known: &&str| strsim::jaro_winkler(&last, name(known));
    let alike = known.iter().copied().filter(|known| near(known) > 0.8);
    let alike = alike.max_by(|a, b| {
        let score = |known: &&str| near(known) + if table(known) == table(key) { 0.05 } else { 0.0 };
        score(a).total_cmp(&score(b))
    });
    called.or(same).or(alike)
}

/// A deserializer that answers with the simplest value of whatever type it is asked for, and notes the types of keys.
#[derive(Default)]
struct Probe {
    /// Names of the fields that are being read, from the top.
    path: Vec<&'static str>,
    /// Whether elements of a list are read, whose fields are no keys, and the type of one that was a struct.
    in_list: bool,
    saw_struct: Option<&'static str>,
    keys: Vec<Key>,
}

impl Probe {
    fn note(&mut self, kind: Kind) {
        if let (&[table, name], false) = (self.path.as_slice(), self.in_list) {
            self.keys.push(Key { table, name, kind });
        }
    }
}

/// Methods that note a kind and answer with a plain value.
macro_rules! plain {
    ($($method:ident: $kind:ident, $visit:ident($value:expr);)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.note(Kind::$kind);
            visitor.$visit($value)
        })*
    };
}

impl<'de> Deserializer<'de> for &mut Probe {
    type Error = Error;

    plain! {
        deserialize_bool: Switch, visit_bool(false);
        deserialize_u32: Whole, visit_u32(0);
        deserialize_u64: Whole, visit_u64(0);
        deserialize_f64: Number, visit_f64(0.0);
        deserialize_str: Text, visit_str("");
        deserialize_string: Text, visit_str("");
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.note(Kind::Word(words));
        visitor.visit_enum(StrDeserializer::new(words[0]))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.in_list {
            return visitor.visit_seq(OneElement(Some(self)));
        }
        (self.in_list, self.saw_struct) = (true, None);
        let value = visitor.visit_seq(OneElement(Some(self)))?;
        self.in_list = false;
        let table = self.saw_struct.and_then(|name| TABLES.iter().find(|kind| kind.name == name));
        self.note(table.map_or(Kind::List, Kind::Tables));
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.saw_struct = Some(name);
        visitor.visit_map(AllFields { probe: self, left: fields.iter() })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(de::Error::custom(format!("{}: the schema does not know keys of this type", self.path.join("."))))
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u128 f32 char bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct map
        identifier ignored_any
    }
}

struct AllFields<'a> {
    probe: &'a mut Probe,
    left: std::slice::Iter<'static, &'static str>,
}

impl<'de> MapAccess<'de> for AllFields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(&field) = self.left.next() else { return Ok(None) };
        self.probe.path.push(field);
        seed.deserialize(StrDeserializer::new(field)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let value = seed.deserialize(&mut *self.probe)?;
        self.probe.path.pop();
        Ok(value)
    }
}

struct OneElement<'a>(Option<&'a mut Probe>);

impl<'de> SeqAccess<'de> for OneElement<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.0.take().map(|probe| seed.deserialize(probe)).transpose()
    }
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

    fn kind(table: &str, name: &str) -> Option<Kind> {
        keys().into_iter().find(|key| (key.table, key.name) == (table, name)).map(|key| key.kind)
    }

    #[test]
    fn kinds_are_those_of_the_fields() {
        assert_eq!(kind("train", "steps"), Some(Kind::Whole));
        assert_eq!(kind("model", "head_dim"), Some(Kind::Whole), "an option is what it may hold");
        assert_eq!(kind("optimizer", "lr"), Some(Kind::Number));
        assert_eq!(kind("model", "tied"), Some(Kind::Switch));
        assert_eq!(kind("run", "dir"), Some(Kind::Text));
        assert_eq!(kind("data", "train"), Some(Kind::List));
        assert_eq!(kind("data", "source"), Some(Kind::Tables(&TABLES[0])));
        assert_eq!(kind("continual", "task"), Some(Kind::Tables(&TABLES[1])));
        assert_eq!(kind("continual", "stage"), None, "no key: the command sets it");
        assert_eq!(kind("data", "packed"), None, "no key: the files tell");
        let weights = Kind::Word(&[
            "int4",
            "fp4",
            "int8",
            "int4-simulated",
            "int4-simulated-rows",
            "fp4-simulated",
            "bf16",
            "f32",
        ]);
        assert_eq!(kind("storage", "weights"), Some(weights));
    }

    #[test]
    fn every_key_that_is_written_is_known() {
        let written = toml::Table::try_from(Config::default()).unwrap();
        let keys = keys();
        for (table, values) in &written {
            for name in values.as_table().unwrap().keys() {
                assert!(keys.iter().any(|key| key.table == table && key.name == name), "{table}.{name}");
            }
        }
        assert_eq!(tables(&keys).len(), written.len());
    }

    #[test]
    fn former_names_lead_to_keys_that_exist() {
        let keys: Vec<_> = keys().iter().map(|key| format!("{}.{}", key.table, key.name)).collect();
        for (former, now) in FORMER {
            assert!(keys.iter().any(|key| key == now) && keys.iter().all(|key| key != former), "{former} {now}");
        }
        for (word, now) in ELSEWHERE {
            assert!(keys.iter().any(|key| key == now), "{word} {now}");
            assert!(keys.iter().all(|key| key.rsplit('.').next() != Some(word)), "{word} is a key");
        }
    }

    #[test]
    fn a_suggestion_goes_by_meaning_before_spelling() {
        let keys: Vec<_> = keys().iter().map(|key| format!("{}.{}", key.table, key.name)).collect();
        let meant = |key| meant(key, keys.iter().map(String::as_str));
        assert_eq!(meant("run.state"), Some("offload.optimizer"));
        assert_eq!(meant("train.lr"), Some("optimizer.lr"));
        assert_eq!(meant("lr"), Some("optimizer.lr"));
        assert_eq!(meant("train.grad_clip"), Some("optimizer.grad_clip"));
        assert_eq!(meant("optimizer.learning-rate"), Some("optimizer.lr"));
        assert_eq!(meant("train.max_seq_length"), Some("train.sequence"));
        assert_eq!(meant("train.stepss"), Some("train.steps"));
        assert_eq!(meant("train.xyzzy"), None);
    }

    #[test]
    fn a_bare_name_finds_its_full_key() {
        assert_eq!(nearest("steps", ["train.steps", "train.batch"]), Some("train.steps"));
        assert_eq!(nearest("model.hiden", ["model.hidden", "model.heads"]), Some("model.hidden"));
        assert_eq!(nearest("zzz", ["model.hidden"]), None);
    }
}
