//! What comes with a tokenizer: Hugging Face's `tokenizer_config.json` and its chat template.

use super::chat_template::Chat;
use super::sentence_piece;
use crate::error::DataError;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Files larger than this are not read.
const LARGEST_FILE: u64 = 1 << 24;

/// Special tokens that a template may name.
const SPECIAL: [&str; 6] = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token"];

/// What comes with a tokenizer: its special tokens and its chat template, as `tokenizer_config.json` has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// Where the template is from.
    name: String,
    template: Option<String>,
    /// Special tokens by what they are for.
    special: Vec<(&'static str, String)>,
    add_bos: Option<bool>,
}

/// Whether `data.chat_template` is a template itself, not the name of a file.
pub fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

impl TokenizerConfig {
    /// Where the configuration of the tokenizer at `path` is kept: `tokenizer_config.json` beside `tokenizer.json`, and
    /// likewise for other names.
    pub fn path(tokenizer: &Path) -> PathBuf {
        let stem = tokenizer.file_stem().unwrap_or_default().to_string_lossy();
        tokenizer.with_file_name(format!("{stem}_config.json"))
    }

    /// What came with the tokenizer in `tokenizer`, the file beside it, with the chat template that `template` is or names.
    ///
    /// # Errors
    /// A file that is there and cannot be read, a template that cannot be read.
    pub fn of(tokenizer: Option<&Path>, template: Option<&str>) -> Result<Self, DataError> {
        let found = match tokenizer.map(Self::path) {
            Some(path) => match std::fs::read(&path) {
                Ok(json) => Self::parse(&path.display().to_string(), &json)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::of_sentence_piece(tokenizer)?,
                Err(source) => return Err(DataError::Read { path, source }),
            },
            None => Self::default(),
        };
        // Newer directories keep the template in a file of its own, which then counts.
        let beside = tokenizer.map(|file| file.with_file_name("chat_template.jinja"));
        match (template, beside.filter(|path| path.is_file())) {
            (Some(given), _) => found.with_template(given),
            (None, Some(path)) => found.with_template(&path.to_string_lossy()),
            (None, None) => Ok(found),
        }
    }

    /// What SentencePiece's model itself says; nothing of other tokenizers.
    fn of_sentence_piece(tokenizer: Option<&Path>) -> Result<Self, DataError> {
        let Some(path) = tokenizer else { return Ok(Self::default()) };
        let Ok(bytes) = std::fs::read(path) else { return Ok(Self::default()) };
        match sentence_piece::read(path, &bytes)? {
            Some((_, config)) => Self::parse(&path.display().to_string(), Value::from(config).to_string().as_bytes()),
            None => Ok(Self::default()),
        }
    }

    /// Reads the `tokenizer_config.json` in `json`, which `name` is for messages. What is missing in it is left out.
    ///
    /// # Errors
    /// What is no object in JSON: a file that was cut off must not pass for one that says nothing.
    pub fn parse(name: &str, json: &[u8]) -> Result<Self, DataError> {
        let refuse =
            |error: serde_json::Error| DataError::TokenizerConfig { name: name.into(), reason: error.to_string() };
        let map: Map<String, Value> = serde_json::from_slice(json).map_err(refuse)?;
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            // A token with its properties.
            Value::Object(token) => token.get("content").and_then(Value::as_str).map(Into::into),
            _ => None,
        };
        let special = SPECIAL.iter().filter_map(|&token| Some((token, map.get(token).and_then(text)?))).collect();
        let template = match map.get("chat_template") {
            Some(Value::String(template)) => Some(template.clone()),
            Some(Value::Array(named)) => default_of(named),
            _ => None,
        };
        let add_bos = map.get("add_bos_token").and_then(Value::as_bool);
        Ok(TokenizerConfig { name: name.into(), template, special, add_bos })
    }

    /// The same with the template that `given` is or names: a template, a file that is one, or a
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    /// A file that cannot be read or has no template.
    pub fn with_template(mut self, given: &str) -> Result<Self, DataError> {
        self.name = "data.chat_template".into();
        if is_template(given) {
            self.template = Some(given.into());
            return Ok(self);
        }
        let path = Path::new(given);
        let read = || -> std::io::Result<String> {
            let size = std::fs::metadata(path)?.len();
            if size > LARGEST_FILE {
                return Err(std::io::Error::other(format!("{size} bytes, at most {LARGEST_FILE} are read")));
            }
            std::fs::read_to_string(path)
        };
        let text = read().map_err(|source| DataError::Read { path: path.into(), source })?;
        self.name = given.into();
        self.template = match serde_json::from_str::<Value>(&text) {
            Ok(Value::Object(_)) => {
                Some(TokenizerConfig::parse(given, text.as_bytes())?.template.ok_or_else(|| DataError::Template {
                    name: given.into(),
                    reason: "it has no \"chat_template\"".into(),
                })?)
            }
            _ => Some(text),
        };
        Ok(self)
    }

    /// The chat template, if there is one.
    pub fn template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    /// The end-of-text token's name, if it says so.
    pub fn eos(&self) -> Option<&str> {
        self.special.iter().find(|(name, _)| *name == "eos_token").map(|(_, token)| token.as_str())
    }

    /// Whether a text begins with the beginning-of-text token, if it says so: tokenizers of the LLaMA family then do not
    /// look at what `tokenizer.json` puts before a text.
    pub fn add_bos(&self) -> Option<bool> {
        self.add_bos
    }

    /// The beginning-of-text token's name, if it says so.
    pub fn bos(&self) -> Option<&str> {
        self.special.iter().find(|(name, _)| *name == "bos_token").map(|(_, token)| token.as_str())
    }

    /// All that samples depend on.
    pub(super) fn content(&self) -> impl Iterator<Item = &str> {
        let special = self.special.iter().flat_map(|(name, token)| [*name, token.as_str()]);
        let add_bos = self.add_bos.map(|add| if add { "add_bos" } else { "add_no_bos" });
        self.template.as_deref().into_iter().chain(special).chain(add_bos)
    }

    /// The template, ready to write with; nothing if there is none.
    ///
    /// # Errors
    /// A template with a mistake in its syntax.
    pub(super) fn chat(&self) -> Result<Option<Chat>, DataError> {
        self.template.as_ref().map(|template| Chat::new(&self.name, template, &self.special)).transpose()
    }
}

/// Of several named templates, the default one.
fn default_of(named: &[Value]) -> Option<String> {
    let entry = named.iter().find(|entry| entry["name"] == "default").or(named.first())?;
    entry["template"].as_str().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_of_several_templates_is_the_default() {
        let json =
            json!({ "chat_template": [{ "name": "tool", "template": "t" }, { "name": "default", "template": "d" }] });
        assert_eq!(TokenizerConfig::parse("c", json.to_string().as_bytes()).unwrap().template.as_deref(), Some("d"));
    }

    #[test]
    fn a_file_that_was_cut_off_is_refused_by_name() {
        let error = TokenizerConfig::parse("tokenizer_config.json", b"{\"eos_token\": ").unwrap_err().to_string();
        assert!(error.starts_with("tokenizer_config.json: not a usable tokenizer configuration: EOF"), "{error}");
        assert!(TokenizerConfig::parse("c", b"[]").is_err());
    }

    #[test]
    fn a_mistake_in_a_template_names_its_line() {
        let json = json!({ "chat_template": "{% for m in messages %}\n{{ m.role \n{% endfor %}" });
        let config = TokenizerConfig::parse("tokenizer_config.json", json.to_string().as_bytes()).unwrap();
        let error = config.chat().err().unwrap().to_string();
        assert!(error.starts_with("tokenizer_config.json: not a usable chat template: syntax error"), "{error}");
        assert!(error.contains("of the template"), "{error}");
    }
}
