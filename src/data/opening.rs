//! What text samples of a run begin with: where its data are conversations, the question of one in the chat template, as
//! the model is asked later.

use super::config::{DataConfig, TokenizerSettings};
use super::prepared::Texts;
use super::source::{Document, Documents, Input, InputKind, Json};
use super::tokenize::{ChatPrompt, TokenizerConfig};
use crate::error::DataError;

/// Documents of which a short one is looked for.
const LOOKED_AT: usize = 64;

/// Bytes of an opening at most: the caches of sampling have room for it, whether a sample is being drawn or not.
const LONGEST: usize = 2048;

/// How a text sample begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// What the model goes on from.
    pub text: String,
    /// What it is asked, if `text` is a conversation in the chat template.
    pub question: Option<String>,
}

/// How text samples of a run begin, told by the first documents of its training files: with `prompt` as a question where
/// they are conversations. Without a `prompt` with the first question or prompt that is short. Nothing where neither is, or
/// where the data are texts: samples then go on from `prompt` itself.
///
/// # Errors
/// Files that cannot be read.
pub fn opening(
    texts: &Texts,
    config: &DataConfig,
    tokenizer: &TokenizerSettings,
    prompt: &str,
) -> Result<Option<Opening>, DataError> {
    let Some(input) = texts.train.iter().flat_map(|(corpus, _)| &corpus.inputs).find(|input| holds_records(input))
    else {
        return Ok(None);
    };
    let mut documents = Documents::open(input)?;
    let mut template = None;
    for _ in 0..LOOKED_AT {
        let messages = match documents.next_document()? {
            Some(Document::Conversation(conversation)) => asked(conversation.messages, prompt),
            Some(Document::Pair { prompt: own, .. }) if prompt.is_empty() => match own.len() {
                1..=LONGEST => return Ok(Some(Opening { text: own, question: None })),
                _ => continue,
            },
            _ => return Ok(None),
        };
        if template.is_none() {
            // A mistake in it is told when the data are prepared.
            let found = TokenizerConfig::of(tokenizer.file.as_deref(), config.chat_template.as_deref());
            template = found.and_then(|config| config.chat_prompt()).ok().flatten();
        }
        let Some(template) = &template else { return Ok(None) };
        if let Some(opening) = in_template(template, &messages) {
            return Ok(Some(opening));
        }
    }
    Ok(None)
}

fn holds_records(input: &Input) -> bool {
    match input.kind {
        InputKind::JsonLines | InputKind::Csv | InputKind::Parquet => true,
        InputKind::Text | InputKind::LlmC => false,
    }
}

/// What is said before the assistant speaks first, or `prompt`.
fn asked(messages: Vec<Json>, prompt: &str) -> Vec<Json> {
    if !prompt.is_empty() {
        return vec![Json::object([("role", "user".into()), ("content", prompt.into())])];
    }
    let role = |message: &Json, name| message.get("role").and_then(Json::text) == Some(name);
    messages.into_iter().take_while(|message| !role(message, "assistant")).collect()
}

/// Messages in the template, if the last one asks something and all is short.
fn in_template(template: &ChatPrompt, messages: &[Json]) -> Option<Opening> {
    let question = messages.last()?.get("content")?.text()?;
    let text = template.announce(messages).ok()?;
    (!text.is_empty() && text.len() <= LONGEST).then(|| Opening { text, question: Some(question.into()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>";

    fn opened(lines: &str, prompt: &str) -> Option<(String, Option<String>)> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("data.jsonl");
        std::fs::write(&file, lines).unwrap();
        let train = vec![file.to_string_lossy().into_owned()];
        let config = DataConfig { train, chat_template: Some(TEMPLATE.into()), ..DataConfig::default() };
        let found = opening(&Texts::find(&config).unwrap(), &config, &TokenizerSettings::default(), prompt).unwrap();
        found.map(|opening| (opening.text, opening.question))
    }

    #[test]
    fn conversations_begin_with_a_question_in_their_template() {
        let long = "x".repeat(3000);
        let line = |question: &str| {
            let system = serde_json::json!({ "role": "system", "content": "Be kind." });
            let asked = serde_json::json!({ "role": "user", "content": question });
            let answer = serde_json::json!({ "role": "assistant", "content": "Yes." });
            serde_json::json!({ "messages": [system, asked, answer, asked] }).to_string() + "\n"
        };
        let lines = line(&long) + &line("Is it?");
        let own = ("<system>Be kind.<user>Is it?<assistant>".into(), Some("Is it?".into()));
        assert_eq!(opened(&lines, ""), Some(own), "the first short one, up to what the assistant says");
        let given = ("<user>Why?<assistant>".into(), Some("Why?".into()));
        assert_eq!(opened(&lines, "Why?"), Some(given));
        assert_eq!(opened(&line(&long), ""), None);
    }

    #[test]
    fn pairs_begin_with_their_prompt_and_texts_with_nothing() {
        let pairs = "{\"prompt\": \"2 + 2 =\", \"completion\": \" 4\"}\n";
        assert_eq!(opened(pairs, ""), Some(("2 + 2 =".into(), None)));
        assert_eq!(opened(pairs, "3 + 3 ="), None, "goes on from that itself");
        assert_eq!(opened("{\"text\": \"a\"}\n", ""), None);
    }
}
