//! What one record of a file says: a text, a prompt with its completion, or a conversation.
//!
//! Records have the forms that other trainers read: OpenAI's and TRL's `messages`, ShareGPT's `conversations`, Alpaca's
//! `instruction`. What decides what is trained on (`tools`, `system`, `chat_template_kwargs`, a message's `weight`) is used
//! as they use it; where it cannot be, the record is refused by that name.

#[cfg(feature = "parquet")]
use super::conversation::{ABOUT, PAIRED};
use super::conversation::{Conversation, SYSTEM, conversation, instruction, question};
use super::json::Json;

/// What a line is expected to be, for messages.
const WANTED: &str = "each line is one object with \"text\", with \"prompt\" and \"completion\", or with \"messages\"";

/// Fields that make a record a document.
const FIELDS: [&str; 6] = ["text", "prompt", "completion", "messages", "conversations", "conversation"];

/// Fields by one of which a record is known.
pub(super) const KNOWN_BY: [&str; 10] = [
    "text",
    "prompt",
    "completion",
    "messages",
    "conversations",
    "conversation",
    "instruction",
    "question",
    "query",
    "input",
];

/// Fields that only conversations use.
const OF_CONVERSATIONS: [&str; 3] = ["tools", "documents", "chat_template_kwargs"];

/// Fields that other trainers learn from and that are not read here.
const NOT_READ: [(&str, &str); 7] = [
    ("functions", "give them as \"tools\""),
    ("images", "only texts are read"),
    ("image", "only texts are read"),
    ("videos", "only texts are read"),
    ("audios", "only texts are read"),
    ("chosen", "preferences are not learned"),
    ("rejected", "preferences are not learned"),
];

/// Whether a field of this name says something, or is a reason to refuse its record.
#[cfg(feature = "parquet")]
pub(super) fn is_read(name: &str) -> bool {
    let lists = [&FIELDS[..], &OF_CONVERSATIONS, &SYSTEM, &PAIRED, &ABOUT, &["label"]];
    lists.iter().any(|list| list.contains(&name)) || NOT_READ.iter().any(|(field, _)| *field == name)
}

/// One document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Document {
    /// Every token is a target.
    Text(String),
    /// The tokens of the completion are targets.
    Pair {
        /// What it follows.
        prompt: String,
        /// Not empty.
        completion: String,
    },
    /// What the assistant says is a target.
    Conversation(Conversation),
}

impl Document {
    /// All that is written in it.
    pub(crate) fn into_texts(self) -> Vec<String> {
        match self {
            Document::Text(text) => vec![text],
            Document::Pair { prompt, completion } => vec![prompt, completion],
            Document::Conversation(conversation) => conversation.into_texts(),
        }
    }

    /// What makes it more than a text, if it is.
    pub(crate) fn is_sample(&self) -> Option<&'static str> {
        match self {
            Document::Text(_) => None,
            Document::Pair { .. } => Some("prompt and completion"),
            Document::Conversation(_) => Some("messages"),
        }
    }

    /// Bytes that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Document::Text(text) => text.len(),
            Document::Pair { prompt, completion } => prompt.len() + completion.len(),
            Document::Conversation(conversation) => conversation.bytes(),
        }
    }

    /// Reads one line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(line: &[u8]) -> Result<Document, String> {
        let record = Json::parse(line).map_err(|reason| format!("{reason}; {WANTED}"))?;
        Document::of(record).map_err(|reason| reason.replace("{WANTED}", WANTED))
    }

    /// Takes one row of a table.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn of_row(record: Json) -> Result<Document, String> {
        let wanted = WANTED.replace("line is one object", "row is one document");
        Document::of(record).map_err(|reason| reason.replace("{WANTED}", &wanted))
    }

    /// The document of a record; `{WANTED}` in an error stands for what is expected.
    fn of(mut record: Json) -> Result<Document, String> {
        if !matches!(record, Json::Object(_)) {
            return Err(format!("is {}; {{WANTED}}", record.kind()));
        }
        for (field, advice) in NOT_READ {
            if record.get(field).is_some_and(|value| *value != Json::List(Vec::new())) {
                return Err(format!("has {field:?}; {advice}"));
            }
        }
        // KTO's mark of an answer that is not to be given; numbers are classes.
        if matches!(record.get("label"), Some(Json::Bool(_))) && record.get("text").is_none() {
            return Err("has \"label\", true or false; preferences are not learned".into());
        }
        let mut held: Vec<&str> = FIELDS.into_iter().filter(|field| record.get(field).is_some()).collect();
        // Chat sets repeat the first question as a prompt; TRL and others take the messages.
        if held == ["prompt", "messages"] {
            held.remove(0);
        }
        match held.as_slice() {
            ["text"] => {
                only_of_conversations(&record)?;
                text(&mut record, "text").map(Document::Text)
            }
            ["prompt", "completion"] => pair(record),
            [field @ ("messages" | "conversations" | "conversation")] => {
                let messages = list(&mut record, field)?;
                conversation(messages, Vec::new(), &mut record).map(Document::Conversation)
            }
            ["prompt"] => Err("has a \"prompt\" without \"completion\"".into()),
            ["completion"] => Err("has a \"completion\" without \"prompt\"; an empty prompt is \"\"".into()),
            [] => instruction(&mut record)
                .or_else(|| question(&mut record))
                .unwrap_or_else(|| Err("has none of the fields that are read; {WANTED}".into()))
                .map(Document::Conversation),
            held => {
                let names: Vec<String> = held.iter().map(|name| format!("{name:?}")).collect();
                Err(format!("holds {} at once; keep one of them", names.join(" and ")))
            }
        }
    }
}

/// A prompt and its completion: two texts, or two lists of messages as TRL has them.
fn pair(mut record: Json) -> Result<Document, String> {
    if let (Some(Json::List(prompt)), Some(Json::List(completion))) = (record.get("prompt"), record.get("completion")) {
        let (prompt, completion) = (prompt.clone(), completion.clone());
        return conversation(completion, prompt, &mut record).map(Document::Conversation);
    }
    only_of_conversations(&record)?;
    let (prompt, completion) = (text(&mut record, "prompt")?, text(&mut record, "completion")?);
    match completion.is_empty() {
        true => Err("its \"completion\" is empty, and nothing would be learned; remove it".into()),
        false => Ok(Document::Pair { prompt, completion }),
    }
}

/// Refuses fields that would be passed over because the record is no conversation.
fn only_of_conversations(record: &Json) -> Result<(), String> {
    let mut fields = SYSTEM.into_iter().chain(OF_CONVERSATIONS);
    let found = fields.find(|field| record.get(field).is_some_and(|held| !held.is_empty()));
    found.map_or(Ok(()), |field| Err(format!("has {field:?}, which only \"messages\" can use; write it into the text")))
}

fn text(record: &mut Json, field: &str) -> Result<String, String> {
    match record.remove(field) {
        Some(Json::Text(text)) => Ok(text),
        other => Err(format!("its {field:?} is {}, and a text is needed", other.unwrap_or(Json::Null).kind())),
    }
}

fn list(record: &mut Json, field: &str) -> Result<Vec<Json>, String> {
    match record.remove(field) {
        Some(Json::List(items)) => Ok(items),
        other => Err(format!("its {field:?} is {}, and a list is needed", other.unwrap_or(Json::Null).kind())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(value: Value) -> Result<Document, String> {
        Document::parse(value.to_string().as_bytes())
    }

    fn messages(value: Value) -> Vec<Json> {
        match parse(value) {
            Ok(Document::Conversation(conversation)) => conversation.messages,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_form_is_known_by_its_fields() {
        assert_eq!(parse(json!({ "text": "a", "id": 3, "messages": null })), Ok(Document::Text("a".into())));
        let pair = Document::Pair { prompt: "".into(), completion: "b".into() };
        assert_eq!(parse(json!({ "prompt": "", "completion": "b" })), Ok(pair));
        let turns = json!([{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b", "name": "c" }]);
        let wanted = Json::parse(turns.to_string().as_bytes()).unwrap();
        assert_eq!(Json::List(messages(json!({ "messages": turns }))), wanted);
        assert_eq!(Json::List(messages(json!({ "prompt": "a", "prompt_id": 1, "messages": turns }))), wanted);
    }

    #[test]
    fn conversations_are_messages_in_other_words() {
        let turns = json!([
            { "from": "system", "value": "s" }, { "from": "human", "value": "h" }, { "from": "gpt", "value": "g" }
        ]);
        let wanted = json!([
            { "role": "system", "content": "s" }, { "role": "user", "content": "h" }, { "role": "assistant", "content": "g" }
        ]);
        let of = |value: Value| -> Vec<(String, String)> {
            let pair =
                |message: &Json| ["role", "content"].map(|key| message.get(key).unwrap().text().unwrap().to_owned());
            messages(value).iter().map(pair).map(|[role, content]| (role, content)).collect()
        };
        assert_eq!(of(json!({ "conversations": turns })), of(json!({ "messages": wanted })));
        assert_eq!(
            of(json!({ "system": "s", "conversations": turns.as_array().unwrap()[1..] })),
            of(json!({ "messages": wanted }))
        );
        assert_eq!(
            of(json!({ "system": "s", "instruction": "h", "input": "", "output": "g" })),
            of(json!({ "messages": wanted }))
        );
        assert_eq!(of(json!({ "conversation": turns })), of(json!({ "messages": wanted })));
        assert_eq!(of(json!({ "system": "s", "input": "h", "output": "g" })), of(json!({ "messages": wanted })));
        assert!(parse(json!({ "conversations": [{ "from": "dog", "value": "h" }] })).unwrap_err().contains("\"dog\""));
    }

    #[test]
    fn what_the_system_says_has_several_names() {
        let said = |value: Value| messages(value)[0].get("content").and_then(Json::text).map(str::to_owned);
        let orca = json!({ "id": 1, "system_prompt": "s", "question": "q", "response": "r" });
        assert_eq!(said(orca), Some("s".into()));
        let turns = json!([{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }]);
        assert_eq!(said(json!({ "messages": turns, "system_message": "s", "system": "s" })), Some("s".into()));
        let error = parse(json!({ "messages": turns, "system_prompt": "s", "system": "t" })).unwrap_err();
        assert!(error.contains("\"system_prompt\""), "{error}");
    }

    #[test]
    fn tool_calls_may_stand_for_content() {
        let call = json!([{ "role": "assistant", "tool_calls": [] }]);
        assert!(parse(json!({ "messages": call })).is_ok());
    }

    #[test]
    fn what_would_be_passed_over_is_refused_by_name() {
        let turns = json!([{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }]);
        for (record, name) in [
            (json!({ "text": "a", "tools": [{ "name": "f" }] }), "\"tools\""),
            (json!({ "prompt": "a", "completion": "b", "system": "c" }), "\"system\""),
            (json!({ "prompt": "a", "completion": "b", "system_prompt": "c" }), "\"system_prompt\""),
            (json!({ "question": "a", "answer": "b", "context": "c" }), "\"context\""),
            (json!({ "question": "a", "answer": "b", "choices": ["c"] }), "\"choices\""),
            (json!({ "messages": turns, "images": ["a.png"] }), "\"images\""),
            (json!({ "prompt": "a", "completion": "b", "label": false }), "\"label\""),
            (json!({ "messages": turns, "functions": [{}] }), "\"functions\""),
            (json!({ "messages": turns, "tools": 3 }), "\"tools\""),
            (json!({ "messages": turns, "chat_template_kwargs": { "messages": [] } }), "\"messages\""),
            (json!({ "messages": [{ "role": "assistant", "content": "b", "weight": 0.5 }] }), "weight"),
            (json!({ "messages": [{ "role": "user", "content": "b", "train": true }] }), "train"),
            (json!({ "messages": [{ "role": "assistant", "content": "b", "train_detail": [] }] }), "train_detail"),
            (json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }), "image_url"),
        ] {
            let error = parse(record.clone()).unwrap_err();
            assert!(error.contains(name), "{record}: {error}");
        }
    }

    #[test]
    fn a_number_that_is_not_kept_is_refused_only_where_it_is_used() {
        assert!(Document::parse(br#"{"text": "a", "score": NaN}"#).is_ok());
        let used = br#"{"messages": [{"role": "assistant", "tool_calls": [{"arguments": {"x": -Infinity}}]}]}"#;
        assert!(Document::parse(used).unwrap_err().contains("NaN"));
        let long =
            br#"{"messages": [{"role": "assistant", "tool_calls": [{"arguments": {"x": 18446744073709551616}}]}]}"#;
        assert!(Document::parse(long).unwrap_err().contains("64 bits"));
    }

    #[test]
    fn messages_are_weighed() {
        let turns = json!([
            { "role": "assistant", "content": "a", "weight": 0 },
            { "role": "assistant", "content": "b", "train": true },
            { "role": "assistant", "content": "c", "train": false },
            { "role": "assistant", "content": "d" }
        ]);
        let Ok(Document::Conversation(found)) = parse(json!({ "messages": turns })) else { panic!("a conversation") };
        assert_eq!(found.trained, [false, true, false, true]);
        assert!(found.messages.iter().all(|message| message.get("weight").or(message.get("train")).is_none()));
        let prompt = json!([{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }]);
        let completion = json!([{ "role": "assistant", "content": "c" }]);
        let Ok(Document::Conversation(found)) = parse(json!({ "prompt": prompt, "completion": completion })) else {
            panic!("a conversation")
        };
        assert_eq!(found.trained, [false, false, true]);
    }
}
