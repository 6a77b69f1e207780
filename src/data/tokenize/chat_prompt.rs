//! A chat template as it is used to talk: the conversation so far as a text that the assistant goes on from.

use super::TokenizerConfig;
use super::chat_template::Chat;
use crate::data::source::Json;
use crate::error::DataError;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What it says.
    pub content: String,
}

/// A chat template, ready to write prompts with.
pub struct ChatPrompt(Chat);

impl TokenizerConfig {
    /// The chat template as it is used to talk; nothing if there is none.
    ///
    /// # Errors
    /// A template with a mistake in its syntax.
    pub fn chat_prompt(&self) -> Result<Option<ChatPrompt>, DataError> {
        Ok(self.chat()?.map(ChatPrompt))
    }
}

impl ChatPrompt {
    /// The conversation as a text, with the assistant's turn announced.
    ///
    /// # Errors
    /// A conversation that the template refuses, with its reason.
    pub fn render(&self, messages: &[Message]) -> Result<String, String> {
        let messages: Vec<Json> = messages
            .iter()
            .map(|message| {
                Json::object([("role", message.role.into()), ("content", Json::Text(message.content.clone()))])
            })
            .collect();
        self.announce(&messages)
    }

    /// The same of messages as data have them.
    pub(crate) fn announce(&self, messages: &[Json]) -> Result<String, String> {
        self.0.announce(messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_assistants_turn_is_announced_and_marks_of_training_are_no_text() {
        let template = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}\
                        {{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}\
                        {% if add_generation_prompt %}<assistant>{% endif %}";
        let config = json!({ "chat_template": template }).to_string();
        let config = TokenizerConfig::parse("c", config.as_bytes()).unwrap();
        let chat = config.chat_prompt().unwrap().expect("there is a template");
        let message = |role, content: &str| Message { role, content: content.into() };
        let talk = [message("user", "Hi"), message("assistant", "Yes?"), message("user", "Bye")];
        assert_eq!(chat.render(&talk).unwrap(), "<user>Hi<assistant>Yes?<user>Bye<assistant>");
        assert!(TokenizerConfig::default().chat_prompt().unwrap().is_none());
    }
}
