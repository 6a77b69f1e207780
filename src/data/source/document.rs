//! What one line of a `.jsonl` file says: a text, a prompt with its completion, or a conversation.

use serde::Deserialize;
use serde_json::{Map, Value};

/// What a line is expected to be, for messages.
const WANTED: &str = "each line is one object with \"text\", with \"prompt\" and \"completion\", or with \"messages\"";

/// Who may speak.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Other names of speakers, as `conversations` have them.
const FROM: [(&str, &str); 4] =
    [("human", "user"), ("gpt", "assistant"), ("chatgpt", "assistant"), ("bing", "assistant")];

/// One document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Document {
    /// All of it is learned.
    Text(String),
    /// The completion is learned.
    Pair {
        /// What it follows.
        prompt: String,
        /// Not empty.
        completion: String,
    },
    /// What the assistant says is learned. At least one message, each an object with a known `role`, and `content`
    /// that is a text or, beside `tool_calls`, may be absent.
    Messages(Vec<Value>),
}

#[derive(Deserialize)]
struct Line {
    text: Option<String>,
    prompt: Option<String>,
    completion: Option<String>,
    messages: Option<Vec<Map<String, Value>>>,
    conversations: Option<Vec<Map<String, Value>>>,
}

impl Document {
    /// What makes it more than a text, if it is.
    pub(crate) fn is_sample(&self) -> Option<&'static str> {
        match self {
            Document::Text(_) => None,
            Document::Pair { .. } => Some("prompt and completion"),
            Document::Messages(_) => Some("messages"),
        }
    }

    /// Bytes that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Document::Text(text) => text.len(),
            Document::Pair { prompt, completion } => prompt.len() + completion.len(),
            Document::Messages(messages) => {
                let content = |message: &Value| message["content"].as_str().map_or(0, str::len);
                // Each is a map of a few short texts besides.
                messages.iter().map(|message| 256 + content(message)).sum()
            }
        }
    }

    /// Reads one line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(line: &[u8]) -> Result<Document, String> {
        let line = serde_json::from_slice::<Line>(line).map_err(|error| {
            // The parser counts lines within the line; only the column means something here.
            let text = error.to_string();
            let reason = text.split(" at line ").next().unwrap_or_default();
            format!("{reason} (column {}); {WANTED}", error.column())
        })?;
        line.document()
    }

    /// Takes one row of a table.
    ///
    /// # Errors
    /// What is wrong with it.
    #[cfg(feature = "parquet")]
    pub(crate) fn of_value(value: Value) -> Result<Document, String> {
        let line = serde_json::from_value::<Line>(value);
        line.map_err(|error| format!("{error}; {}", WANTED.replace("line is one object", "row is one document")))?
            .document()
    }
}

impl Line {
    fn document(self) -> Result<Document, String> {
        let held = [
            ("text", self.text.is_some()),
            ("prompt", self.prompt.is_some()),
            ("completion", self.completion.is_some()),
            ("messages", self.messages.is_some()),
            ("conversations", self.conversations.is_some()),
        ];
        let names: Vec<String> = held.iter().filter(|(_, held)| *held).map(|(name, _)| format!("{name:?}")).collect();
        match (self.text, self.prompt, self.completion, self.messages, self.conversations) {
            (Some(text), None, None, None, None) => Ok(Document::Text(text)),
            (None, Some(prompt), Some(completion), None, None) => pair(prompt, completion),
            (None, None, None, Some(messages), None) => conversation(messages),
            (None, None, None, None, Some(turns)) => conversation(turns.into_iter().map(renamed).collect()),
            (None, Some(_), None, None, None) => Err("has a \"prompt\" without \"completion\"".into()),
            (None, None, Some(_), None, None) => {
                Err("has a \"completion\" without \"prompt\"; an empty prompt is \"\"".into())
            }
            (None, None, None, None, None) => Err(format!("has none of the fields that are read; {WANTED}")),
            _ => Err(format!("holds {} at once; keep one of them", names.join(" and "))),
        }
    }
}

fn pair(prompt: String, completion: String) -> Result<Document, String> {
    match completion.is_empty() {
        true => Err("its \"completion\" is empty, and nothing would be learned; remove it".into()),
        false => Ok(Document::Pair { prompt, completion }),
    }
}

/// `{"from": "human", "value": ...}` as `{"role": "user", "content": ...}`.
fn renamed(mut turn: Map<String, Value>) -> Map<String, Value> {
    if let Some(from) = turn.remove("from") {
        let role = from.as_str().and_then(|from| FROM.iter().find(|(known, _)| *known == from));
        turn.insert("role".into(), role.map_or(from.clone(), |(_, role)| (*role).into()));
    }
    if let Some(value) = turn.remove("value") {
        turn.insert("content".into(), value);
    }
    turn
}

fn conversation(messages: Vec<Map<String, Value>>) -> Result<Document, String> {
    if messages.is_empty() {
        return Err("its list of messages is empty; remove it".into());
    }
    for (i, message) in messages.iter().enumerate() {
        let number = i + 1;
        let role = match message.get("role") {
            Some(Value::String(role)) => role,
            Some(other) => return Err(format!("message {number}: its role is {other}, and a text is needed")),
            None => return Err(format!("message {number} has no role; known are {}", ROLES.join(", "))),
        };
        if !ROLES.contains(&role.as_str()) {
            return Err(format!("message {number}: unknown role {role:?}; known are {}", ROLES.join(", ")));
        }
        match message.get("content") {
            Some(Value::String(_)) => {}
            None | Some(Value::Null) if message.contains_key("tool_calls") => {}
            None | Some(Value::Null) => return Err(format!("message {number} has no content")),
            Some(_) => return Err(format!("message {number}: its content is no text; only texts are read")),
        }
    }
    Ok(Document::Messages(messages.into_iter().map(Value::Object).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Result<Document, String> {
        Document::parse(value.to_string().as_bytes())
    }

    #[test]
    fn each_form_is_known_by_its_fields() {
        assert_eq!(parse(json!({ "text": "a", "id": 3, "messages": null })), Ok(Document::Text("a".into())));
        let pair = Document::Pair { prompt: "".into(), completion: "b".into() };
        assert_eq!(parse(json!({ "prompt": "", "completion": "b" })), Ok(pair));
        let messages =
            json!([{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b", "name": "c" }]);
        let wanted = Document::Messages(messages.as_array().unwrap().clone());
        assert_eq!(parse(json!({ "messages": messages })), Ok(wanted));
    }

    #[test]
    fn conversations_are_messages_in_other_words() {
        let turns = json!([
            { "from": "system", "value": "s" }, { "from": "human", "value": "h" }, { "from": "gpt", "value": "g" }
        ]);
        let messages = json!([
            { "role": "system", "content": "s" }, { "role": "user", "content": "h" }, { "role": "assistant", "content": "g" }
        ]);
        assert_eq!(parse(json!({ "conversations": turns })), parse(json!({ "messages": messages })));
        assert!(parse(json!({ "conversations": [{ "from": "dog", "value": "h" }] })).unwrap_err().contains("\"dog\""));
    }

    #[test]
    fn tool_calls_may_stand_for_content() {
        let call = json!([{ "role": "assistant", "tool_calls": [] }]);
        assert!(parse(json!({ "messages": call })).is_ok());
    }
}
