//! Special tokens of a model, from what came with its tokenizer.

use super::Tokenizer;
use serde_json::{Map, Value};

/// Special tokens and the chat template.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecialTokens {
    /// Beginning of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
    /// What stands for text that the vocabulary lacks.
    pub unknown: Option<u32>,
    /// Padding.
    pub padding: Option<u32>,
    /// Whether `bos` is put before every text.
    pub add_bos: Option<bool>,
    /// Whether `eos` is put after every text.
    pub add_eos: Option<bool>,
    /// The chat template.
    pub template: Option<String>,
    /// Further tokens at which a text ends, as the end of a turn.
    pub ends: Vec<u32>,
}

impl SpecialTokens {
    /// What `tokenizer_config.json` (`told`) and `generation_config.json` say, and the tokenizer's own names where they
    /// say nothing.
    pub fn read(tokenizer: &Tokenizer, told: &Map<String, Value>, generation: &Map<String, Value>) -> Self {
        let token = |key: &str| {
            let value = told.get(key)?;
            tokenizer.id(value.as_str().or_else(|| value["content"].as_str())?)
        };
        let switch = |key: &str| told.get(key).and_then(Value::as_bool);
        let template = told.get("chat_template").and_then(|template| match template {
            Value::Array(named) => {
                named.iter().find(|entry| entry["name"] == "default").and_then(|entry| entry["template"].as_str())
            }
            plain => plain.as_str(),
        });
        let listed = ids(generation.get("eos_token_id"));
        let eos = token("eos_token").or(listed.first().copied()).or(tokenizer.eos());
        Self {
            bos: token("bos_token").or(ids(generation.get("bos_token_id")).first().copied()).or(tokenizer.bos()),
            eos,
            unknown: token("unk_token"),
            padding: token("pad_token"),
            add_bos: switch("add_bos_token"),
            add_eos: switch("add_eos_token"),
            template: template.map(Into::into),
            ends: listed.into_iter().filter(|id| Some(*id) != eos).collect(),
        }
    }

    /// Whether a text ends with this token.
    pub fn ends_with(&self, id: u32) -> bool {
        self.eos == Some(id) || self.ends.contains(&id)
    }
}

/// One id or a list of them, each once; what is neither is none.
fn ids(value: Option<&Value>) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let mut found = Vec::new();
    let values = match value {
        Some(Value::Array(list)) => list.as_slice(),
        Some(value) => std::slice::from_ref(value),
        None => &[],
    };
    for id in values.iter().filter_map(one) {
        if !found.contains(&id) {
            found.push(id);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ends_are_read_as_one_or_a_list_and_damage_is_none() {
        let read = |value: Value| ids(Some(&value));
        assert_eq!(read(json!(7)), [7]);
        assert_eq!(read(json!([128001, 128008, 128001, 128009])), [128001, 128008, 128009]);
        assert_eq!(read(json!([1, -1, "2", 4294967296u64, null])), [1]);
        for value in [json!(null), json!("7"), json!({}), json!([[]])] {
            assert!(read(value.clone()).is_empty(), "{value}");
        }
        assert!(ids(None).is_empty());
    }

    #[test]
    fn the_end_is_what_the_model_came_with_then_the_tokenizers_own() {
        let json = include_bytes!("../../../fixtures/tokenizer/byte_level.json");
        let tokenizer = Tokenizer::from_json(json).unwrap();
        let own = tokenizer.eos().unwrap();
        let read = |told: Value, generation: Value| {
            SpecialTokens::read(&tokenizer, told.as_object().unwrap(), generation.as_object().unwrap())
        };
        assert_eq!(read(json!({}), json!({})).eos, Some(own));
        let other = tokenizer.id("e").unwrap();
        let told = json!({ "eos_token": { "content": "e" } });
        let special = read(told.clone(), json!({ "eos_token_id": [own, other] }));
        assert_eq!((special.eos, special.ends.as_slice()), (Some(other), &[own][..]));
        assert!(special.ends_with(own) && special.ends_with(other) && !special.ends_with(other + 1));
        assert_eq!(read(json!({}), json!({ "eos_token_id": [other] })).eos, Some(other));
        // A name that the tokenizer does not have says nothing.
        assert_eq!(read(json!({ "eos_token": "<nowhere>" }), json!({})).eos, Some(own));
    }
}
