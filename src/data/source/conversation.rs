//! A conversation out of a record: messages in one form, whichever trainer's form the record has.

use super::json::Json;

/// Who may speak.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Other names of speakers: ShareGPT's and its kin's, Gemma's, LLaMA 3's, and OpenAI's from before there were tools.
const FROM: [(&str, &str); 13] = [
    ("human", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
    ("ai", "assistant"),
    ("bot", "assistant"),
    ("chatbot", "assistant"),
    ("model", "assistant"),
    ("ipython", "tool"),
    ("observation", "tool"),
    ("function_response", "tool"),
    ("function", "tool"),
];

/// Marks that a message has in data of axolotl (`train`, `training`), ms-swift (`loss`) and OpenAI (`weight`).
const SWITCHES: [&str; 4] = ["train", "training", "loss", "trainable"];

/// Marks of parts of a message.
const NOT_READ: [&str; 4] = ["train_detail", "training_detail", "loss_weight", "loss_scale"];

/// What the system says, beside messages.
pub(super) const SYSTEM: [&str; 3] = ["system", "system_prompt", "system_message"];

/// Fields of records that are a question and its answer, in one of its forms.
#[cfg(feature = "parquet")]
pub(super) const PAIRED: [&str; 7] = ["instruction", "question", "query", "output", "response", "answer", "history"];

/// What a question may be about: no trainer has one way to write it.
pub(super) const ABOUT: [&str; 6] = ["context", "passage", "document", "choices", "options", "input"];

/// Variables that a template gets from the program.
const RESERVED: [&str; 3] = ["messages", "add_generation_prompt", "continue_final_message"];

/// A conversation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conversation {
    /// At least one, each an object with a known `role`, and `content` that is a text or a list of texts' parts or, beside
    /// `tool_calls`, may be absent.
    pub messages: Vec<Json>,
    /// For each message whether it is learned, if the assistant says it.
    pub trained: Vec<bool>,
    /// Further variables of the chat template: `tools`, `documents` and those of `chat_template_kwargs`.
    pub variables: Vec<(String, Json)>,
}

impl Conversation {
    /// What its messages say.
    pub(crate) fn into_texts(self) -> Vec<String> {
        let parts = |content: &Json| match content {
            Json::Text(text) => vec![text.clone()],
            Json::List(parts) => parts.iter().filter_map(|part| Some(part.get("text")?.text()?.to_owned())).collect(),
            _ => Vec::new(),
        };
        self.messages.iter().filter_map(|message| message.get("content")).flat_map(parts).collect()
    }

    /// Bytes that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        let variables = self.variables.iter().map(|(name, value)| name.len() + value.bytes());
        self.messages.iter().map(Json::bytes).chain(variables).sum()
    }
}

/// The conversation of `messages`, before which `context` is said and not learned, with what `record` holds beside them.
///
/// # Errors
/// What is wrong with it, or cannot be used.
pub(crate) fn conversation(messages: Vec<Json>, context: Vec<Json>, record: &mut Json) -> Result<Conversation, String> {
    if messages.is_empty() {
        return Err("its list of messages is empty; remove it".into());
    }
    let first_learned = context.len();
    let mut found = Conversation { messages: Vec::new(), trained: Vec::new(), variables: variables(record)? };
    for (i, message) in context.into_iter().chain(messages).enumerate() {
        let (message, trained) = read(message).map_err(|reason| format!("message {}{reason}", i + 1))?;
        found.messages.push(message);
        found.trained.push(trained && i >= first_learned);
    }
    if let Some(system) = system(record)? {
        let own = found.messages[0].get("role").and_then(Json::text) == Some("system");
        if own && found.messages[0].get("content").and_then(Json::text) != Some(&system) {
            return Err("has a \"system\" text and a system message that says something else; keep one of them".into());
        }
        if !own {
            found.messages.insert(0, message("system", system));
            found.trained.insert(0, true);
        }
    }
    let mut used = found.messages.iter().chain(found.variables.iter().map(|(_, value)| value));
    if used.any(Json::holds_unkept) {
        return Err(
            "holds NaN, Infinity or an integer of more than 64 bits where it is used, and would not be learned as it \
                    is written; write null, a smaller number or a text"
                .into(),
        );
    }
    Ok(found)
}

/// What the system says, by any of the names that it has beside messages: `system`, in OpenOrca `system_prompt`.
fn system(record: &mut Json) -> Result<Option<String>, String> {
    let mut found: Option<(&str, String)> = None;
    for field in SYSTEM {
        match (optional_text(record, field)?, &found) {
            (Some(text), Some((other, same))) if *same != text => {
                return Err(format!("has {other:?} and {field:?}, which say different things; keep one of them"));
            }
            (Some(text), None) => found = Some((field, text)),
            _ => {}
        }
    }
    Ok(found.map(|(_, text)| text))
}

/// Alpaca's form, `instruction`, `input` and `output` with an optional `history`, and Dolly's with `context` and `response`;
/// nothing if the record has another.
pub(crate) fn instruction(record: &mut Json) -> Option<Result<Conversation, String>> {
    let answer = ["output", "response"].into_iter().find(|field| record.get(field).is_some())?;
    record.get("instruction")?;
    let mut build = || {
        let mut asked = optional_text(record, "instruction")?.unwrap_or_default();
        for field in ["input", "context"] {
            if let Some(input) = optional_text(record, field)? {
                asked = if asked.is_empty() { input } else { format!("{asked}\n{input}") };
            }
        }
        let mut messages = history(record)?;
        messages.extend([message("user", asked), message("assistant", answered(record, answer)?)]);
        conversation(messages, Vec::new(), record)
    };
    Some(build())
}

/// A `question` with its `answer`, a `query` with its `response`, an `input` with its `output`; nothing if the record has
/// another form.
pub(crate) fn question(record: &mut Json) -> Option<Result<Conversation, String>> {
    let forms = [("question", "answer"), ("question", "response"), ("query", "response"), ("input", "output")];
    let (asked, answer) =
        forms.into_iter().find(|(asked, answer)| record.get(asked).is_some() && record.get(answer).is_some())?;
    let mut build = || {
        let empty = ["".into(), Json::List(Vec::new())];
        let beside = |field: &&str| *field != asked && record.get(field).is_some_and(|held| !empty.contains(held));
        if let Some(field) = ABOUT.into_iter().find(beside) {
            return Err(format!("has {field:?} beside {asked:?}; write it into the text of the question"));
        }
        let question = optional_text(record, asked)?.unwrap_or_default();
        let messages = vec![message("user", question), message("assistant", answered(record, answer)?)];
        conversation(messages, Vec::new(), record)
    };
    Some(build())
}

fn answered(record: &mut Json, field: &str) -> Result<String, String> {
    let empty = || format!("its {field:?} is empty, and nothing would be learned; remove it");
    optional_text(record, field)?.ok_or_else(empty)
}

/// Earlier turns, as pairs of what was said and what was answered.
fn history(record: &mut Json) -> Result<Vec<Json>, String> {
    let wrong = || "its \"history\" is no list of pairs of texts".to_owned();
    let turns = match record.remove("history") {
        None | Some(Json::Null) => return Ok(Vec::new()),
        Some(Json::List(turns)) => turns,
        Some(_) => return Err(wrong()),
    };
    let mut messages = Vec::new();
    for turn in turns {
        let Json::List(turn) = turn else { return Err(wrong()) };
        let [Json::Text(asked), Json::Text(answer)] = &turn[..] else { return Err(wrong()) };
        messages.extend([message("user", asked.clone()), message("assistant", answer.clone())]);
    }
    Ok(messages)
}

fn message(role: &str, content: String) -> Json {
    Json::object([("role", role.into()), ("content", Json::Text(content))])
}

/// A text that may be absent; an empty one is absent.
fn optional_text(record: &mut Json, field: &str) -> Result<Option<String>, String> {
    match record.remove(field) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Text(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(other) => Err(format!("its {field:?} is {}, and a text is needed", other.kind())),
    }
}

/// What a record has for the template beside its messages.
fn variables(record: &mut Json) -> Result<Vec<(String, Json)>, String> {
    let mut found = Vec::new();
    for field in ["tools", "documents"] {
        match record.remove(field) {
            None | Some(Json::Null) => {}
            Some(Json::List(items)) if items.is_empty() => {}
            Some(Json::List(items)) => found.push((field.into(), Json::List(items))),
            // Columns of tables hold lists of objects as JSON.
            Some(Json::Text(text)) if text.trim().is_empty() => {}
            Some(Json::Text(text)) => match Json::parse(text.as_bytes()) {
                Ok(Json::List(items)) => found.push((field.into(), Json::List(items))),
                _ => return Err(format!("its {field:?} is a text that is no list in JSON")),
            },
            Some(other) => return Err(format!("its {field:?} is {}, and a list is needed", other.kind())),
        }
    }
    match record.remove("chat_template_kwargs") {
        None | Some(Json::Null) => {}
        Some(Json::Object(entries)) => {
            if let Some((name, _)) = entries.iter().find(|(name, _)| RESERVED.contains(&name.as_str())) {
                return Err(format!("its \"chat_template_kwargs\" set {name:?}, which the program does"));
            }
            found.extend(entries);
        }
        Some(other) => {
            return Err(format!("its \"chat_template_kwargs\" is {}, and an object is needed", other.kind()));
        }
    }
    Ok(found)
}

/// A message in the form of `messages`, and whether it is learned.
fn read(mut message: Json) -> Result<(Json, bool), String> {
    if !matches!(message, Json::Object(_)) {
        return Err(format!(" is {}, and an object is needed", message.kind()));
    }
    rename(&mut message)?;
    let role = match message.get("role") {
        Some(Json::Text(role)) => role.clone(),
        Some(other) => return Err(format!(": its role is {}, and a text is needed", other.kind())),
        None => return Err(format!(" has no role; known are {}", ROLES.join(", "))),
    };
    if !ROLES.contains(&role.as_str()) {
        return Err(format!(": unknown role {role:?}; known are {}", ROLES.join(", ")));
    }
    match message.get("content") {
        Some(Json::Text(_)) => {}
        Some(Json::List(parts)) => parts.iter().try_for_each(text_part)?,
        None if message.get("tool_calls").is_some() => {}
        None => return Err(" has no content".into()),
        Some(_) => return Err(": its content is no text; only texts are read".into()),
    }
    let trained = trained(&mut message, &role)?;
    Ok((message, trained))
}

/// One part of a message's content, as OpenAI has them.
fn text_part(part: &Json) -> Result<(), String> {
    match (part.get("type").and_then(Json::text), part.get("text")) {
        (Some("text"), Some(Json::Text(_))) => Ok(()),
        (Some(kind), _) if kind != "text" => {
            Err(format!(": its content has a part of type {kind:?}; only texts are read"))
        }
        _ => Err(": its content is no text; only texts are read".into()),
    }
}

/// ShareGPT's words and OpenAI's former ones as today's: `{"from": "human", "value": ...}` is
/// `{"role": "user", "content": ...}`, a `function_call` a list of one tool call.
fn rename(message: &mut Json) -> Result<(), String> {
    if let Some(from) = message.remove("from") {
        message.set("role", from);
        if let Some(value) = message.remove("value") {
            message.set("content", value);
        }
    }
    if message.get("role").and_then(Json::text) == Some("function_call") {
        let call = message.remove("content").unwrap_or(Json::Null);
        let call = call.text().and_then(|text| Json::parse(text.as_bytes()).ok());
        let call = call.filter(|call| call.get("name").is_some());
        let call = call.ok_or(": its function call is no JSON object with a \"name\"")?;
        message.set("role", "assistant".into());
        message.set("function_call", call);
    }
    if let Some(call) = message.remove("function_call").filter(|call| *call != Json::Null) {
        if message.get("tool_calls").is_some() {
            return Err(": has \"function_call\" and \"tool_calls\"; keep one of them".into());
        }
        let call = Json::object([("type", "function".into()), ("function", call)]);
        message.set("tool_calls", Json::List(vec![call]));
    }
    let role = message.get("role").and_then(Json::text);
    if let Some((_, role)) = FROM.iter().find(|(known, _)| Some(*known) == role) {
        message.set("role", (*role).into());
    }
    Ok(())
}

/// Whether a message is learned, by marks that are taken out of it.
fn trained(message: &mut Json, role: &str) -> Result<bool, String> {
    if let Some(mark) = NOT_READ.into_iter().find(|mark| message.get(mark).is_some()) {
        return Err(format!(": its {mark:?} is not read; mark whole messages with \"weight\": 0 or 1"));
    }
    let mut trained = true;
    for mark in SWITCHES {
        match message.remove(mark) {
            None | Some(Json::Null) => {}
            Some(Json::Bool(true)) if role != "assistant" => {
                return Err(format!(": its {mark:?} is true, and only what the assistant says is learned"));
            }
            Some(Json::Bool(switch)) => trained &= switch,
            Some(other) => return Err(format!(": its {mark:?} is {}, and true or false is needed", other.kind())),
        }
    }
    match message.remove("weight") {
        None | Some(Json::Null) => Ok(trained),
        Some(Json::Number(weight)) if weight.as_f64() == Some(0.0) => Ok(false),
        Some(Json::Number(weight)) if weight.as_f64() == Some(1.0) => Ok(trained),
        Some(Json::Number(weight)) => Err(format!(": its \"weight\" is {weight}, and only 0 and 1 are used")),
        Some(other) => Err(format!(": its \"weight\" is {}, and 0 or 1 is needed", other.kind())),
    }
}
