//! Conversations as text: the chat template that came with a tokenizer, run as transformers runs it, and what the assistant
//! says in the text.
//!
//! A template that marks what is learned (`{% generation %}`) is believed. Of every other the spans are found by rendering
//! the conversation up to a message, once with the assistant's turn announced and once with it done. Templates of
//! reasoning models write a reply differently once others follow it; its end is then found by rendering the conversation
//! with another reply in its place and comparing what follows.

use super::rendering::Rendering;
use super::template_environment::{GENERATION, environment, with_marks};
use crate::data::source::{Conversation, Json};
use crate::error::DataError;
use minijinja::{Environment, Error, Value as Jinja};
use std::ops::Range;

pub(super) const NAME: &str = "chat";

/// Replies that no conversation holds, of private characters, with no common beginning or end.
pub(super) const PROBES: [&str; 2] = ["\u{e000}probe\u{e001}", "\u{f0000}probe\u{f0001}"];

/// What a message may say beside its content; a template that does not know the name does not write it.
const SAID: [&str; 4] = ["tool_calls", "reasoning_content", "reasoning", "thinking"];

/// A conversation as text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RenderedChat {
    pub text: String,
    /// Bytes that the assistant says, marks of the ends of its turns among them; in order, none empty.
    pub targets: Vec<Range<usize>>,
}

/// A template that writes.
pub(crate) struct Chat {
    pub(super) environment: Environment<'static>,
    /// The template as it came.
    source: String,
    pub(super) special: Vec<(String, Jinja)>,
    /// Whether the template itself marks what is learned.
    marks: bool,
    /// Whether it wants a message's content as a list of parts, a text or either.
    parts: Parts,
}

/// The forms of a message's content that a template reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parts {
    TextOnly,
    Both,
    ListOnly,
}

impl Chat {
    /// Compiles a template that is from `name`; `special` are the names of its special tokens.
    ///
    /// # Errors
    /// A mistake in its syntax.
    pub(super) fn new(name: &str, template: &str, special: &[(&'static str, String)]) -> Result<Self, DataError> {
        let (mut environment, source) = (environment(template), template.to_owned());
        let (template, marks) = with_marks(template);
        let refuse = |error: Error| DataError::Template { name: name.into(), reason: one_line(&error) };
        environment.add_template_owned(NAME, template).map_err(refuse)?;
        let special = special.iter().map(|(name, token)| ((*name).into(), token.as_str().into())).collect();
        let mut chat = Chat { environment, source, special, marks, parts: Parts::Both };
        chat.parts = chat.read_parts();
        Ok(chat)
    }
}

impl Chat {
    /// Writes a conversation.
    ///
    /// # Errors
    /// A conversation that the template refuses, a template that writes the beginning of a conversation in another way
    /// once it goes on.
    pub(crate) fn write(&self, conversation: &Conversation) -> Result<RenderedChat, String> {
        self.check_read(conversation)?;
        let messages: Vec<Json> = conversation.messages.iter().map(|message| self.shaped(message)).collect();
        let chat = Rendering::new(self, &conversation.variables);
        let text = chat.render(&messages, false)?;
        if let Some(i) = chat.left_out(&messages, &text) {
            return Err(format!(
                "the chat template leaves out what message {} says; remove it, or use another template with \
                 data.chat_template",
                i + 1
            ));
        }
        if self.marks {
            return marked(&text, &messages, &conversation.trained);
        }
        let mut targets: Vec<Range<usize>> = Vec::new();
        for i in (0..messages.len()).filter(|&i| conversation.trained[i] && is_assistant(&messages[i])) {
            let from = targets.last().map_or(0, |last| last.end);
            let start = chat.start(&messages, i, &text)?.filter(|start| *start >= from);
            let end = start.map(|start| chat.end(&messages, i, &text, start)).transpose()?.flatten();
            let (Some(start), Some(end)) = (start, end) else {
                return Err(format!(
                    "the chat template writes what is before message {} in another way once it is there, so what the \
                     assistant says cannot be told apart; use another with data.chat_template",
                    i + 1
                ));
            };
            targets.extend((start < end).then_some(start..end));
        }
        Ok(RenderedChat { text, targets })
    }

    /// Refuses what the template would leave out.
    fn check_read(&self, conversation: &Conversation) -> Result<(), String> {
        let says = |value: &Json| !value.is_empty() && !matches!(value, Json::Null | Json::Bool(false));
        let passed_over = |name: &str, value: &Json| says(value) && !has_word(&self.source, name);
        if let Some((name, _)) = conversation.variables.iter().find(|(name, value)| passed_over(name, value)) {
            return Err(format!(
                "has {name:?}, which the chat template does not read; remove it, or use another template with \
                 data.chat_template"
            ));
        }
        for (i, message) in conversation.messages.iter().enumerate() {
            let name = SAID.into_iter().find(|name| message.get(name).is_some_and(|value| passed_over(name, value)));
            if let Some(name) = name {
                return Err(format!(
                    "message {}: has {name:?}, which the chat template does not read; write it into the content, or use \
                     another template with data.chat_template",
                    i + 1
                ));
            }
        }
        Ok(())
    }

    /// The conversation so far, and the assistant's turn announced.
    ///
    /// # Errors
    /// A conversation that the template refuses.
    pub(super) fn announce(&self, messages: &[Json]) -> Result<String, String> {
        let messages: Vec<Json> = messages.iter().map(|message| self.shaped(message)).collect();
        let mut text = Rendering::new(self, &[]).render(&messages, true)?;
        if self.marks {
            text.retain(|c| !GENERATION.contains(&c));
        }
        Ok(text)
    }

    /// Which forms of content the template reads, seen by what it writes of a short conversation.
    fn read_parts(&self) -> Parts {
        let probe = PROBES[0];
        let part = || Json::object([("type", "text".into()), ("text", probe.into())]);
        let writes = |content: Json| {
            let messages = [Json::object([("role", "user".into()), ("content", content)])];
            let text = Rendering::new(self, &[]).render(&messages, false).unwrap_or_default();
            // A list that is written as it is shows its keys.
            text.contains(probe) && !text.contains("'type'") && !text.contains("\"type\"")
        };
        match (writes(probe.into()), writes(Json::List(vec![part()]))) {
            (true, true) => Parts::Both,
            (false, true) => Parts::ListOnly,
            _ => Parts::TextOnly,
        }
    }

    /// A message with its content in a form that the template reads.
    pub(super) fn shaped(&self, message: &Json) -> Json {
        let mut message = message.clone();
        match (message.get("content"), self.parts) {
            (Some(Json::List(_)), Parts::TextOnly) => {
                let text = content_text(&message);
                message.set("content", Json::Text(text));
            }
            (Some(Json::Text(text)), Parts::ListOnly) => {
                let part = Json::object([("type", "text".into()), ("text", Json::Text(text.clone()))]);
                message.set("content", Json::List(vec![part]));
            }
            _ => {}
        }
        message
    }
}

/// Whether a name stands in a template by itself.
fn has_word(template: &str, name: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = template.match_indices(name);
    found.any(|(at, _)| !template[..at].ends_with(part) && !template[at + name.len()..].starts_with(part))
}

pub(super) fn is_assistant(message: &Json) -> bool {
    message.get("role").and_then(Json::text) == Some("assistant")
}

/// The text of a message's content, parts of it on lines of their own as llama.cpp and vLLM join them.
pub(super) fn content_text(message: &Json) -> String {
    match message.get("content") {
        Some(Json::Text(text)) => text.clone(),
        Some(Json::List(parts)) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part.get("text")?.text()).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

/// A text in which the template marked what is learned, without the marks.
fn marked(text: &str, messages: &[Json], trained: &[bool]) -> Result<RenderedChat, String> {
    let held = |message: &Json| serde_json::to_string(message).is_ok_and(|text| text.contains(GENERATION));
    if messages.iter().any(held) {
        return Err("holds U+FDD0 or U+FDD1, which are no characters of a text; remove them".into());
    }
    let mut found = RenderedChat { text: String::with_capacity(text.len()), targets: Vec::new() };
    let mut open = None;
    for c in text.chars() {
        match (GENERATION.iter().position(|mark| *mark == c), open) {
            (Some(0), None) => open = Some(found.text.len()),
            (Some(1), Some(start)) => {
                found.targets.push(start..found.text.len());
                open = None;
            }
            (None, _) => found.text.push(c),
            _ => return Err("the chat template has {% generation %} within {% generation %}".into()),
        }
    }
    let said =
        || messages.iter().zip(trained).filter(|(message, _)| is_assistant(message)).map(|(_, trained)| *trained);
    if said().any(|trained| !trained) {
        if said().count() != found.targets.len() {
            return Err(format!(
                "some messages are not learned, and the chat template marks {} spans for {} messages of the assistant, \
                 so which is which cannot be told",
                found.targets.len(),
                said().count()
            ));
        }
        let mut said = said();
        found.targets.retain(|_| said.next().unwrap_or(true));
    }
    found.targets.retain(|span| !span.is_empty());
    Ok(found)
}

pub(super) fn one_line(error: &Error) -> String {
    let mut text = error.to_string();
    if let Some(at) = text.find(&format!(" (in {NAME}:")) {
        let line = text[at..].trim_start_matches(&format!(" (in {NAME}:")).trim_end_matches(')').to_owned();
        text.truncate(at);
        text += &format!(" (line {line} of the template)");
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + \
        message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}\
        {{ '<|im_start|>assistant\n' }}{% endif %}";

    fn chat(template: &str) -> Chat {
        let special = [("bos_token", "<s>".to_owned()), ("eos_token", "</s>".to_owned())];
        Chat::new("tokenizer_config.json", template, &special).unwrap()
    }

    fn conversation(messages: &[Value]) -> Conversation {
        let messages: Vec<Json> =
            messages.iter().map(|message| Json::parse(message.to_string().as_bytes()).unwrap()).collect();
        Conversation { trained: vec![true; messages.len()], messages, variables: Vec::new() }
    }

    fn talk() -> Vec<Value> {
        ["user: Hi", "assistant: Hello!", "user: Bye", "assistant: See you \n"]
            .map(|line| line.split_once(": ").unwrap())
            .map(|(role, content)| json!({ "role": role, "content": content }))
            .into()
    }

    fn learned(template: &str, messages: &[Value]) -> Result<(String, Vec<String>), String> {
        let rendered = chat(template).write(&conversation(messages))?;
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

    /// As Mistral's templates do it from the third version on.
    #[test]
    fn what_comes_before_a_reply_may_change_with_what_follows() {
        let template = "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}\
            {%- set messages = messages[1:] %}{%- endif %}{{- bos_token }}{%- for m in messages %}\
            {%- if m.role == 'user' %}{{- '[INST] ' }}{%- if loop.index0 >= (messages | length) - 2 and system is defined %}\
            {{- system + '\n\n' }}{%- endif %}{{- m.content + '[/INST]' }}{%- else %}{{- ' ' + m.content + eos_token }}\
            {%- endif %}{%- endfor %}";
        let talk = [vec![json!({ "role": "system", "content": "Be kind." })], talk()].concat();
        let (text, parts) = learned(template, &talk).unwrap();
        assert_eq!(text, "<s>[INST] Hi[/INST] Hello!</s>[INST] Be kind.\n\nBye[/INST] See you \n</s>");
        assert_eq!(parts, [" Hello!</s>", " See you \n</s>"]);
        let counting = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}";
        assert_eq!(learned(counting, &talk[1..]).unwrap().1, ["Hello!", "See you \n"]);
    }

    /// Mistral's third template writes what the system says only if nobody has answered the last question.
    #[test]
    fn what_is_not_written_is_refused() {
        let template = "{% for m in messages %}{% if m.role != 'system' or loop.length == 2 %}[{{ m.content }}]{% endif %}\
            {% endfor %}";
        let said = |role: &str, content: &str| json!({ "role": role, "content": content });
        let mut talk = vec![said("system", "Be kind."), said("assistant", "Hello!")];
        assert_eq!(learned(template, &talk).unwrap().0, "[Be kind.][Hello!]");
        talk.insert(1, said("user", "Hi"));
        let error = learned(template, &talk).unwrap_err();
        assert!(error.contains("leaves out what message 1 says"), "{error}");
    }

    #[test]
    fn replies_that_cannot_be_told_apart_are_refused() {
        for template in [
            "{{ messages | length }}{{ messages[0].content }}",
            "{{ messages | length }}{% for m in messages + messages %}{{ m.content }}{% endfor %}",
        ] {
            let error = learned(template, &talk()[..2]).unwrap_err();
            assert!(error.contains("before message 2 in another way"), "{error}");
        }
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

    /// As Qwen3 does it: a thought before the last reply, even an empty one, and none before earlier replies.
    const THINKING: &str = "{%- set last = namespace(user=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}\
        {%- set last.user = loop.index0 %}{%- endif %}{%- endfor %}{%- for m in messages %}\
        {{- '<|im_start|>' + m.role + '\n' }}{%- if m.role == 'assistant' and loop.index0 > last.user %}\
        {{- '<think>\n\n</think>\n\n' }}{%- endif %}{{- m.content + '<|im_end|>\n' }}{%- endfor %}\
        {%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}";

    #[test]
    fn replies_that_lose_their_thought_once_others_follow_are_found() {
        let (_, parts) = learned(THINKING, &talk()).unwrap();
        assert_eq!(parts, ["Hello!<|im_end|>", "<think>\n\n</think>\n\nSee you \n<|im_end|>"]);
    }

    /// The announcement of a reasoning model opens a thought that a plain reply does not have.
    #[test]
    fn an_announced_thought_is_not_taken_for_the_reply() {
        let template = "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '<end>' }}{% endfor %}\
            {% if add_generation_prompt %}{{ '<assistant><think>\n' }}{% endif %}";
        assert_eq!(learned(template, &talk()[..2]).unwrap().1, ["Hello!<end>"]);
    }

    /// As Phi-3 does it.
    #[test]
    fn an_end_of_text_behind_the_last_reply_alone_is_no_mark_of_the_others() {
        let template = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}\
            {% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}";
        assert_eq!(learned(template, &talk()).unwrap().1, ["Hello!<|end|>", "See you \n<|end|>\n</s>"]);
    }

    #[test]
    fn marks_of_the_template_are_believed_and_messages_left_out_of_them() {
        let template = "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}\
            {{ m.content }}{% endgeneration %}!{% else %}{{ m.content }}{% endif %}\n{% endfor %}";
        let mut talk = conversation(&talk());
        let spoken = |talk: &Conversation| {
            let rendered = chat(template).write(talk).unwrap();
            rendered.targets.into_iter().map(|span| rendered.text[span].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(spoken(&talk), ["Hello!", "See you \n"]);
        talk.trained[1] = false;
        assert_eq!(spoken(&talk), ["See you \n"]);
        talk.messages[0].set("content", "\u{fdd0}".into());
        assert!(chat(template).write(&talk).unwrap_err().contains("U+FDD0"));
    }

    #[test]
    fn parts_of_a_content_are_given_to_a_template_that_reads_them() {
        let parts =
            [json!({ "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] })];
        assert_eq!(learned(CHATML, &parts).unwrap().0.lines().nth(4), Some("b<|im_end|>"));
        let typed = "{% for m in messages %}{% for part in m.content %}{% if part.type == 'text' %}[{{ part.text }}]\
            {% endif %}{% endfor %}{% endfor %}";
        assert_eq!(learned(typed, &parts).unwrap().0, "[a][b]");
        assert_eq!(learned(typed, &talk()[..1]).unwrap().0, "[Hi]", "a text is one part");
    }

    #[test]
    fn variables_of_the_record_reach_the_template_and_keys_keep_their_order() {
        let template = "{{ tools[0] | tojson }} {{ tone }}{% for m in messages %}{{ m.content }}{% endfor %}";
        let mut talk = conversation(&talk()[..1]);
        talk.variables = vec![
            ("tools".into(), Json::parse(br#"[{"name": "f", "args": 1}]"#).unwrap()),
            ("tone".into(), "dry".into()),
        ];
        assert_eq!(chat(template).write(&talk).unwrap().text, r#"{"name": "f", "args": 1} dryHi"#);
    }
}
