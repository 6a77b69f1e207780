//! JSON of training data. Unlike `serde_json`'s own map it keeps the order of keys: a chat template writes tool calls in
//! that order, and a model learns it. Python's `NaN` and `Infinity` and integers of any length are read too, for fields that
//! are not used.

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Number;
use std::fmt;

/// A value; an object has each key once, in the order in which they first occurred.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(Number),
    /// A number that would not be written again as it was read: `NaN`, `Infinity` and `-Infinity`, which Python writes though
    /// JSON does not know them, and integers of more than 64 bits.
    Unkept,
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// What stands for such a number while a line that has one is parsed: a string that text cannot hold by accident.
const UNKEPT: &str = "\0unkept";

impl Json {
    /// Parses one value.
    ///
    /// # Errors
    /// The parser's reason and the column.
    pub(crate) fn parse(text: &[u8]) -> Result<Json, String> {
        let mut parsed = serde_json::from_slice(text);
        // An integer beyond 64 bits is parsed as a float, as `1e20` is rightly: only the text tells them apart.
        if parsed.as_ref().map_or(true, |json: &Json| json.any(&Json::is_beyond_64_bits)) {
            let again = without_unkept(text).and_then(|text| serde_json::from_slice(&text).ok());
            parsed = again.map_or(parsed, Ok);
        }
        parsed.map_err(|error| {
            // The parser counts lines within the line; only the column means something here.
            let text = error.to_string();
            let reason = text.split(" at line ").next().unwrap_or_default();
            format!("{reason} (column {})", error.column())
        })
    }

    /// The text that it is, if it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a key, if this is an object that has it; the same as absent if it is null.
    pub(crate) fn get(&self, key: &str) -> Option<&Json> {
        let Json::Object(entries) = self else { return None };
        entries.iter().find(|(known, _)| known == key).map(|(_, value)| value).filter(|value| **value != Json::Null)
    }

    /// Puts a value in the place of a key, or at the end. Nothing happens to what is no object.
    pub(crate) fn set(&mut self, key: &str, value: Json) {
        let Json::Object(entries) = self else { return };
        match entries.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => entries.push((key.into(), value)),
        }
    }

    /// Takes a key out.
    pub(crate) fn remove(&mut self, key: &str) -> Option<Json> {
        let Json::Object(entries) = self else { return None };
        let at = entries.iter().position(|(known, _)| known == key)?;
        Some(entries.remove(at).1)
    }

    /// Whether it is a text, a list or an object that holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Json::Text(text) => text.is_empty(),
            Json::List(items) => items.is_empty(),
            Json::Object(entries) => entries.is_empty(),
            _ => false,
        }
    }

    /// Whether a number within is [`Json::Unkept`].
    pub(crate) fn holds_unkept(&self) -> bool {
        self.any(&|value| *value == Json::Unkept)
    }

    /// Whether this or a value within is such.
    fn any(&self, such: &dyn Fn(&Json) -> bool) -> bool {
        such(self)
            || match self {
                Json::List(items) => items.iter().any(|item| item.any(such)),
                Json::Object(entries) => entries.iter().any(|(_, value)| value.any(such)),
                _ => false,
            }
    }

    fn is_beyond_64_bits(&self) -> bool {
        matches!(self, Json::Number(number) if number.is_f64() && number.as_f64().is_some_and(|x| x.abs() >= i64::MAX as f64))
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "true or false",
            Json::Number(_) | Json::Unkept => "a number",
            Json::Text(_) => "a text",
            Json::List(_) => "a list",
            Json::Object(_) => "an object",
        }
    }

    /// Bytes that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Json>()
            + match self {
                Json::Text(text) => text.len(),
                Json::List(items) => items.iter().map(Json::bytes).sum(),
                Json::Object(entries) => {
                    entries.iter().map(|(key, value)| size_of::<String>() + key.len() + value.bytes()).sum()
                }
                _ => 0,
            }
    }

    /// An object of these entries.
    pub(crate) fn object<const N: usize>(entries: [(&str, Json); N]) -> Json {
        Json::Object(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Json::Text(text.into())
    }
}

/// `text` with [`UNKEPT`] for each such number outside of strings; nothing if it has none.
fn without_unkept(text: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut at, mut found) = (Vec::with_capacity(text.len() + 32), 0, false);
    let mut inside = false;
    while let Some(&byte) = text.get(at) {
        let length = match byte {
            b'"' => {
                inside = !inside;
                1
            }
            b'\\' if inside => 2,
            _ if inside => 1,
            _ => match word(&text[at..]) {
                0 => 1,
                length => {
                    if is_unkept(&text[at..at + length]) {
                        out.extend(serde_json::to_vec(UNKEPT).unwrap_or_default());
                        (at, found) = (at + length, true);
                        continue;
                    }
                    length
                }
            },
        };
        out.extend(&text[at..text.len().min(at + length)]);
        at += length;
    }
    found.then_some(out)
}

/// The length of the number or the word that a text outside of strings begins with.
fn word(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')).count()
}

fn is_unkept(word: &[u8]) -> bool {
    let digits = word.strip_prefix(b"-").unwrap_or(word);
    let integer = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let text = str::from_utf8(word).unwrap_or_default();
    ["NaN", "Infinity", "-Infinity"].contains(&text)
        || integer && text.parse::<i64>().is_err() && text.parse::<u64>().is_err()
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Json, E> {
        Ok(Number::from_f64(value).map_or(Json::Unkept, Json::Number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Json, E> {
        Ok(if text == UNKEPT { Json::Unkept } else { Json::Text(text.into()) })
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Json, E> {
        Ok(if text == UNKEPT { Json::Unkept } else { Json::Text(text) })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut object = Json::Object(Vec::new());
        // Of a key that occurs twice the last value counts, as in Python.
        while let Some((key, value)) = entries.next_entry::<String, Json>()? {
            object.set(&key, value);
        }
        Ok(object)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Null => serializer.serialize_unit(),
            Json::Bool(value) => serializer.serialize_bool(*value),
            Json::Number(value) => value.serialize(serializer),
            Json::Unkept => serializer.serialize_f64(f64::NAN),
            Json::Text(text) => serializer.serialize_str(text),
            Json::List(items) => serializer.collect_seq(items),
            Json::Object(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_order_and_the_last_of_two_counts() {
        let parsed = Json::parse(br#"{"z": 1, "a": {"y": [true, null], "b": 2.50}, "z": "last"}"#).unwrap();
        assert_eq!(serde_json::to_string(&parsed).unwrap(), r#"{"z":"last","a":{"y":[true,null],"b":2.5}}"#);
    }

    #[test]
    fn numbers_that_python_writes_are_read_and_noticed_outside_of_texts_only() {
        let parsed = Json::parse(br#"{"text": "NaN \" Infinity", "score": [NaN, -Infinity, 1]}"#).unwrap();
        assert_eq!(parsed.get("text"), Some(&"NaN \" Infinity".into()));
        assert!(parsed.get("score").unwrap().holds_unkept() && !parsed.get("text").unwrap().holds_unkept());
        assert_eq!(Json::parse(br#"{"a": Nan}"#).unwrap_err(), "expected value (column 7)");
    }
    #[test]
    fn integers_keep_their_digits_or_are_known_to_lose_them() {
        let parsed =
            Json::parse(br#"[18446744073709551615, -9223372036854775808, 1e22, 100000000000000000000.5]"#).unwrap();
        assert!(!parsed.holds_unkept());
        let wanted = "[18446744073709551615,-9223372036854775808,1e22,1e20]";
        assert_eq!(serde_json::to_string(&parsed).unwrap().replace("1e+", "1e"), wanted);
        for text in ["[18446744073709551616]", "[-9223372036854775809]", r#"{"id": 12345678901234567890123}"#] {
            assert!(Json::parse(text.as_bytes()).unwrap().holds_unkept(), "{text}");
        }
        assert!(!Json::parse(br#"["18446744073709551616\\", 1]"#).unwrap().holds_unkept());
    }
}
