//! Chat templates, alone and in a `tokenizer_config.json`; one that is read writes a conversation.

use super::ended;
use tetrad::data::{Message, TokenizerConfig};

pub fn run_config(bytes: &[u8]) -> String {
    match TokenizerConfig::parse("tokenizer_config.json", bytes) {
        Ok(config) => write(&config),
        Err(error) => error.to_string(),
    }
}

pub fn run(bytes: &[u8]) -> String {
    let Ok(template) = std::str::from_utf8(bytes) else { return "no text".into() };
    // Other texts are names of files.
    if !(template.contains("{{") || template.contains("{%")) {
        return "no template".into();
    }
    match TokenizerConfig::default().with_template(template) {
        Ok(config) => write(&config),
        Err(error) => error.to_string(),
    }
}

fn write(config: &TokenizerConfig) -> String {
    let message = |role, content: &str| Message { role, content: content.into() };
    let talk = [
        message("system", "You are brief."),
        message("user", "What is \"2 + 2\"?"),
        message("assistant", "4"),
        message("user", "Th\u{e4}nks\n"),
    ];
    match config.chat_prompt() {
        Ok(Some(prompt)) => ended(prompt.render(&talk)),
        Ok(None) => "no template".into(),
        Err(error) => error.to_string(),
    }
}
