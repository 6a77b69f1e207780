//! The metadata: one JSON object, read more strictly than JSON requires.
//!
//! `serde_json` does the lexing; the visitor refuses what it would silently accept: repeated members (the
//! last would win), deep nesting, and whole numbers that only fit a float (they would be rounded).

use super::header::cap;
use crate::error::FormatError;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::RefCell;
use std::fmt;

/// Parses the metadata section; R27 to R31.
pub(crate) fn parse(section: &[u8]) -> Result<Map<String, Value>, FormatError> {
    // serde's error type carries only text, so the typed error is kept here.
    let fault = RefCell::new(None);
    let mut json = serde_json::Deserializer::from_slice(section);
    let value = Strict { depth: 1, fault: &fault }.deserialize(&mut json).and_then(|v| json.end().map(|()| v));
    match (fault.into_inner(), value) {
        (Some(fault), _) => Err(fault),
        (None, Err(e)) => Err(FormatError::Json { reason: escape(&e.to_string()) }),
        (None, Ok(Value::Object(map))) => check_step(&map).map(|()| map),
        (None, Ok(_)) => Err(FormatError::Json { reason: "its outermost value is no object".into() }),
    }
}

/// R31: a step number that a run can have.
fn check_step(map: &Map<String, Value>) -> Result<(), FormatError> {
    match map.get("step") {
        None => Ok(()),
        Some(step) if step.as_u64().is_some_and(|s| s <= cap::STEP) => Ok(()),
        Some(step) => Err(FormatError::Step { found: escape(&step.to_string()), max: cap::STEP }),
    }
}

/// Every member that is no object, or an empty one, with the names that lead to it; arrays stay whole.
pub fn members(map: &Map<String, Value>) -> Vec<(Vec<&str>, &Value)> {
    // Recurses as deep as objects nest, which is limited.
    fn collect<'m>(map: &'m Map<String, Value>, path: &[&'m str], found: &mut Vec<(Vec<&'m str>, &'m Value)>) {
        for (name, value) in map {
            let path = [path, &[name.as_str()]].concat();
            match value {
                Value::Object(inner) if !inner.is_empty() => collect(inner, &path, found),
                value => found.push((path, value)),
            }
        }
    }
    let mut found = Vec::new();
    collect(map, &[], &mut found);
    found
}

/// Printable ASCII unchanged, everything else as `\u{..}`, at most 160 characters.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(160) {
        if (' '..='~').contains(&c) { out.push(c) } else { out.extend(c.escape_unicode()) }
    }
    out
}

#[derive(Clone, Copy)]
struct Strict<'f> {
    depth: usize,
    fault: &'f RefCell<Option<FormatError>>,
}

impl Strict<'_> {
    fn fail<T, E: serde::de::Error>(&self, fault: FormatError) -> Result<T, E> {
        self.fault.replace(Some(fault));
        Err(E::custom("refused"))
    }

    /// The seed for values nested in one of this depth.
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth > cap::DEPTH {
            return self.fail(FormatError::JsonDepth { max: cap::DEPTH });
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        const LOW: f64 = i64::MIN as f64;
        const HIGH: f64 = u64::MAX as f64; // rounds to 2^64
        match Number::from_f64(value) {
            Some(number) if (LOW..HIGH).contains(&value) => Ok(Value::Number(number)),
            _ => self.fail(FormatError::JsonNumber { found: format!("{value:e}") }),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if map.contains_key(&name) {
                return self.fail(FormatError::JsonTwice { name: escape(&format!("{name:?}")) });
            }
            let value = members.next_value_seed(inner)?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

/// Compact JSON with the members of every object in ascending order: the same state gives the same bytes.
pub(crate) fn encode(map: &Map<String, Value>) -> Vec<u8> {
    let sorted = sorted(&Value::Object(map.clone()));
    serde_json::to_vec(&sorted).expect("a JSON value is JSON, and a vector takes every write")
}

/// A copy whose members are in ascending order, whether or not the map type of this build keeps insertion order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().collect();
            members.sort_by_key(|m| m.0);
            Value::Object(members.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect())
        }
        Value::Array(values) => values.iter().map(sorted).collect(),
        plain => plain.clone(),
    }
}
