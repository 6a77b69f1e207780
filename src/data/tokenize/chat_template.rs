//! Conversations as text: the chat template that came with a tokenizer, run as transformers runs it.

use crate::error::DataError;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value as Jinja};
use serde::Serialize;
use serde_json::{Map, Value};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Instructions of a template that one rendering may take: a conversation of thousands of turns needs a tenth.
const FUEL: u64 = 20_000_000;

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
                Ok(json) => Self::parse(&path.display().to_string(), &json),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::default(),
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

    /// Reads the `tokenizer_config.json` in `json`, which `name` is for messages. What is missing or of no use in it is
    /// left out.
    pub fn parse(name: &str, json: &[u8]) -> Self {
        let map: Map<String, Value> = serde_json::from_slice(json).unwrap_or_default();
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
        TokenizerConfig { name: name.into(), template, special }
    }

    /// The same with the template that `given` is or names: a template, a file that is one, or a
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    /// A file that cannot be read or has no template.
    pub fn with_template(mut self, given: &str) -> Result<Self, DataError> {
        self.name = "data.chat_template".into();
        if given.contains("{{") || given.contains("{%") {
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
            Ok(Value::Object(_)) => Some(TokenizerConfig::parse(given, text.as_bytes()).template.ok_or_else(|| {
                DataError::Template { name: given.into(), reason: "it has no \"chat_template\"".into() }
            })?),
            _ => Some(text),
        };
        Ok(self)
    }

    /// The end-of-text token's name, if it says so.
    pub fn eos(&self) -> Option<&str> {
        self.special.iter().find(|(name, _)| *name == "eos_token").map(|(_, token)| token.as_str())
    }

    /// All that texts depend on.
    pub(crate) fn content(&self) -> impl Iterator<Item = &str> {
        let special = self.special.iter().flat_map(|(name, token)| [*name, token.as_str()]);
        self.template.as_deref().into_iter().chain(special)
    }

    /// The template, ready to write with; nothing if there is none.
    ///
    /// # Errors
    /// A template with a mistake in its syntax.
    pub(crate) fn chat(&self) -> Result<Option<Chat<'_>>, DataError> {
        let Some(template) = &self.template else { return Ok(None) };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the usual delimiters"));
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        // `strftime_now` is left out on purpose: texts must not depend on the day, and templates have a date of their own
        // for where it is missing.
        environment.add_function("raise_exception", |reason: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        });
        environment.add_filter("tojson", to_json);
        let refuse = |error: Error| DataError::Template { name: self.name.clone(), reason: one_line(&error) };
        environment.add_template_owned(NAME, without_generation(template)).map_err(refuse)?;
        let special = self.special.iter().map(|(name, token)| ((*name).into(), token.as_str().into())).collect();
        Ok(Some(Chat { environment, special }))
    }
}

/// JSON as Python writes it, where the template engine's own is meant for web pages.
fn to_json(value: Jinja, options: Kwargs) -> Result<String, Error> {
    let refuse = |error: serde_json::Error| Error::new(ErrorKind::InvalidOperation, error.to_string());
    let indent = options.get::<Option<usize>>("indent")?.map(|width| " ".repeat(width.min(64)));
    let mut out = Vec::new();
    let written = match &indent {
        Some(indent) => {
            let pretty = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)),
    };
    written.map_err(refuse)?;
    Ok(String::from_utf8(out).unwrap_or_default())
}

/// A space after each comma and colon.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

const NAME: &str = "chat";

/// Of several named templates, the default one.
fn default_of(named: &[Value]) -> Option<String> {
    let entry = named.iter().find(|entry| entry["name"] == "default").or(named.first())?;
    entry["template"].as_str().map(Into::into)
}

/// `{% generation %}`, transformers' own mark around what the assistant says, as a condition that is always true: here
/// that is found without it.
fn without_generation(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let end = tag.find("%}").unwrap_or(tag.len());
        let inside = &tag[..end];
        out.push_str(&match inside.trim_matches(|c: char| c == '-' || c.is_whitespace()) {
            "generation" => inside.replace("generation", "if true"),
            "endgeneration" => inside.replace("endgeneration", "endif"),
            _ => inside.into(),
        });
        rest = &tag[end..];
    }
    out + rest
}

fn one_line(error: &Error) -> String {
    let mut text = error.to_string();
    if let Some(at) = text.find(&format!(" (in {NAME}:")) {
        let line = text[at..].trim_start_matches(&format!(" (in {NAME}:")).trim_end_matches(')').to_owned();
        text.truncate(at);
        text += &format!(" (line {line} of the template)");
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A conversation as text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RenderedChat {
    pub text: String,
    /// Bytes that the assistant says, marks of the ends of its turns among them; in order, none empty.
    pub targets: Vec<Range<usize>>,
}

/// A template that writes.
pub(crate) struct Chat<'a> {
    environment: Environment<'a>,
    special: Map<String, Value>,
}

impl Chat<'_> {
    /// Writes a conversation. What the assistant says is found by writing it up to there: with the assistant's turn
    /// announced, and with it done.
    ///
    /// # Errors
    /// A conversation that the template refuses, a template that writes the beginning of a conversation in another way
    /// once it goes on.
    pub(crate) fn write(&self, messages: &[Value]) -> Result<RenderedChat, String> {
        let text = self.render(messages, false)?;
        let mut targets: Vec<Range<usize>> = Vec::new();
        for (i, message) in messages.iter().enumerate().filter(|(_, message)| message["role"] == "assistant") {
            let before = self.render(&messages[..i], true)?;
            let after = self.render(&messages[..=i], false)?;
            let from = targets.last().map_or(0, |last| last.end);
            let grows = after.starts_with(&before) && text.starts_with(&after) && before.len() >= from;
            if !grows {
                return Err(format!(
                    "the chat template writes what is before message {} in another way once it is there, so what the \
                     assistant says cannot be told apart; use another with data.chat_template",
                    i + 1
                ));
            }
            let turn = before.len()..before.len() + without_margin(&after[before.len()..], message);
            targets.extend((!turn.is_empty()).then_some(turn));
        }
        Ok(RenderedChat { text, targets })
    }

    fn render(&self, messages: &[Value], announce: bool) -> Result<String, String> {
        let mut context = self.special.clone();
        context.insert("messages".into(), messages.into());
        context.insert("add_generation_prompt".into(), announce.into());
        for absent in ["tools", "documents"] {
            context.insert(absent.into(), Value::Null);
        }
        let template = self.environment.get_template(NAME).map_err(|error| one_line(&error))?;
        let text = template.render(Jinja::from(Serde(context)));
        text.map_err(|error| format!("the chat template refuses this conversation: {}", one_line(&error)))
    }
}

/// The length of a turn without the white space that follows the mark of its end: no model has to write that. Where
/// nothing else follows the content, the white space is the mark.
fn without_margin(turn: &str, message: &Value) -> usize {
    let trimmed = turn.trim_end();
    let content = message["content"].as_str().unwrap_or_default().trim_end();
    if trimmed.ends_with(content) && !content.is_empty() { turn.len() } else { trimmed.len() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + \
        message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}\
        {{ '<|im_start|>assistant\n' }}{% endif %}";

    fn config(template: &str) -> TokenizerConfig {
        let json = json!({ "chat_template": template, "bos_token": "<s>", "eos_token": { "content": "</s>" } });
        TokenizerConfig::parse("tokenizer_config.json", json.to_string().as_bytes())
    }

    fn talk() -> Vec<Value> {
        ["user: Hi", "assistant: Hello!", "user: Bye", "assistant: See you \n"]
            .map(|line| line.split_once(": ").unwrap())
            .map(|(role, content)| json!({ "role": role, "content": content }))
            .into()
    }

    fn learned(template: &str, messages: &[Value]) -> Result<(String, Vec<String>), String> {
        let config = config(template);
        let rendered = config.chat().unwrap().unwrap().write(messages)?;
        let parts = rendered.targets.iter().map(|range| rendered.text[range.clone()].to_owned()).collect();
        Ok((rendered.text, parts))
    }

    #[test]
    fn what_the_assistant_says_is_found_with_the_mark_of_its_end() {
        let (text, parts) = learned(CHATML, &talk()).unwrap();
        assert_eq!(
            text,
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!\
             <|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nSee you \n<|im_end|>\n"
        );
        assert_eq!(parts, ["Hello!<|im_end|>", "See you \n<|im_end|>"]);
    }

    #[test]
    fn templates_of_llama_2_and_python_methods_are_understood() {
        let template = "{{ bos_token }}{% for m in messages %}\n  {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}\
            {{ raise_exception('Roles must alternate') }}{% endif %}{% if m.role == 'user' %}{{ '[INST] ' + m['content']\
            .strip() + ' [/INST]' }}{% elif m.role == 'assistant' %}{% generation %}{{ ' ' + m['content'] | trim + ' ' + \
            eos_token }}{% endgeneration %}{% endif %}{% endfor %}";
        let (text, parts) = learned(template, &talk()).unwrap();
        assert_eq!(text, "<s>[INST] Hi [/INST] Hello! </s>[INST] Bye [/INST] See you </s>");
        assert_eq!(parts, [" Hello! </s>", " See you </s>"]);
        let error = learned(template, &talk()[1..]).unwrap_err();
        assert!(error.contains("Roles must alternate"), "{error}");
    }

    #[test]
    fn white_space_is_the_mark_where_nothing_else_is() {
        let template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}\
            {% if add_generation_prompt %}assistant: {% endif %}";
        assert_eq!(learned(template, &talk()[..2]).unwrap().1, ["Hello!\n"]);
    }

    #[test]
    fn a_template_that_changes_its_mind_is_refused() {
        let template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}";
        let error = learned(template, &talk()).unwrap_err();
        assert!(error.contains("before message 2 in another way"), "{error}");
    }

    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let template = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}";
        let error = learned(template, &talk()).unwrap_err();
        assert!(error.contains("fuel"), "{error}");
    }

    #[test]
    fn the_same_conversation_is_the_same_text_on_any_day() {
        let template = "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}26 Jul{% endif %}\
            {% for m in messages %}{{ m.content | tojson }}{{ [1, '<'] | tojson }}{% endfor %}";
        assert_eq!(learned(template, &talk()[..1]).unwrap().0, "26 Jul\"Hi\"[1, \"<\"]");
    }

    #[test]
    fn one_of_several_templates_is_the_default() {
        let json =
            json!({ "chat_template": [{ "name": "tool", "template": "t" }, { "name": "default", "template": "d" }] });
        assert_eq!(TokenizerConfig::parse("c", json.to_string().as_bytes()).template.as_deref(), Some("d"));
    }

    #[test]
    fn a_mistake_in_a_template_names_its_line() {
        let config = config("{% for m in messages %}\n{{ m.role \n{% endfor %}");
        let error = config.chat().err().unwrap().to_string();
        assert!(error.starts_with("tokenizer_config.json: not a usable chat template: syntax error"), "{error}");
        assert!(error.contains("of the template"), "{error}");
    }
}
