//! Where in a rendered conversation a reply begins and ends, where the template does not say it: by rendering the conversation
//! up to there, and with another reply in its place.

use super::chat_template::{Chat, NAME, PROBES, content_text, is_assistant, one_line};
use crate::data::source::Json;
use minijinja::Value as Jinja;
use minijinja::value::Serde;

/// One conversation's renderings.
pub(super) struct Rendering<'a> {
    chat: &'a Chat,
    variables: &'a [(String, Json)],
}

impl<'a> Rendering<'a> {
    pub(super) fn new(chat: &'a Chat, variables: &'a [(String, Json)]) -> Self {
        Self { chat, variables }
    }

    pub(super) fn render(&self, messages: &[Json], announce: bool) -> Result<String, String> {
        let absent = ["tools", "documents"].map(|name| (name.to_owned(), Jinja::from(())));
        let own = [
            ("messages".to_owned(), Jinja::from(Serde(messages))),
            ("add_generation_prompt".to_owned(), Jinja::from(announce)),
        ];
        let variables = self.variables.iter().map(|(name, value)| (name.clone(), Jinja::from(Serde(value))));
        // Of a name that occurs twice the last value counts.
        let context =
            Jinja::from_pairs(absent.into_iter().chain(self.chat.special.clone()).chain(variables).chain(own));
        let template = self.chat.environment.get_template(NAME).map_err(|error| one_line(&error))?;
        let text = template.render(context);
        text.map_err(|error| format!("the chat template refuses this conversation: {}", one_line(&error)))
    }

    /// The conversation with another message in the place of `i`.
    fn render_with(&self, messages: &[Json], i: usize, message: &Json) -> Result<String, String> {
        let mut others = messages.to_vec();
        others[i] = self.chat.shaped(message);
        self.render(&others, false)
    }

    /// A message of others than the assistant, whose thoughts templates do drop, of which `text` has nothing.
    pub(super) fn left_out(&self, messages: &[Json], text: &str) -> Option<usize> {
        let absent = |message: &Json| !is_assistant(message) && !text.contains(content_text(message).trim());
        (0..messages.len()).filter(|&i| absent(&messages[i])).find(|&i| {
            let mut other = messages[i].clone();
            other.set("content", PROBES[0].into());
            self.render_with(messages, i, &other).is_ok_and(|other| other == text)
        })
    }

    /// Where message `i` begins in `text`: behind the announcement of the assistant's turn.
    pub(super) fn start(&self, messages: &[Json], i: usize, text: &str) -> Result<Option<usize>, String> {
        let before = match self.render(&messages[..i], true) {
            Ok(before) => before,
            // Many templates look at the first message, which there is none of.
            Err(_) if i == 0 => return Ok(self.compared(messages, i, text).map(|(start, _)| start)),
            Err(error) => return Err(error),
        };
        if text.starts_with(&before) {
            return Ok(Some(before.len()));
        }
        // The announcement may begin a thought that a plain reply does not have.
        let said = self.render(&messages[..i], false)?;
        let announced = whole_marks(common_prefix(&before, text)).len();
        if text.starts_with(&said) && before.starts_with(&said) && announced > said.len() {
            return Ok(Some(announced));
        }
        Ok(self.moved_start(messages, i, text, &before))
    }

    /// Where message `i` begins in `text` if what comes before it depends on what follows: Mistral's templates move what the
    /// system says to the last message of the user. The reply must then be all that changes with it. `before` is the
    /// conversation up to it.
    fn moved_start(&self, messages: &[Json], i: usize, text: &str, before: &str) -> Option<usize> {
        let content = content_text(&messages[i]);
        let (from, to) = self.compared(messages, i, text)?;
        let said = text[from..to].trim();
        if said.is_empty() || !content.contains(said) {
            return None;
        }
        // What the template puts between the announcement and the reply, such as a space.
        let after = self.render(&messages[..=i], false).ok()?;
        let (own, _) = self.compared(&messages[..=i], i, &after)?;
        let lead =
            after.get(before.len()..own).filter(|lead| after.starts_with(before) && text[..from].ends_with(lead));
        Some(from - lead.map_or(0, str::len))
    }

    /// Where message `i`, which begins at `start`, ends in `text`.
    pub(super) fn end(&self, messages: &[Json], i: usize, text: &str, start: usize) -> Result<Option<usize>, String> {
        let after = self.render(&messages[..=i], false)?;
        if text.starts_with(&after) && after.len() >= start {
            return Ok(Some(start + without_margin(&after[start..], &messages[i])));
        }
        let (Some((_, end)), Some((_, own_end))) =
            (self.compared(messages, i, text), self.compared(&messages[..=i], i, &after))
        else {
            return Ok(None);
        };
        let mark = whole_marks(common_prefix(&text[end..], &after[own_end..])).trim_end();
        Ok((end >= start).then_some(end + mark.len()))
    }

    /// Where message `i` begins and ends in `text`, which is the rendering of `messages`: what differs once it says
    /// something else. Nothing if the template refuses that.
    fn compared(&self, messages: &[Json], i: usize, text: &str) -> Option<(usize, usize)> {
        let (mut start, mut end) = (text.len(), 0);
        for probe in PROBES {
            let reply = Json::object([("role", "assistant".into()), ("content", probe.into())]);
            let other = self.render_with(messages, i, &reply).ok()?;
            let prefix = common_prefix(text, &other).len();
            let suffix = common_suffix(&text[prefix..], &other[prefix..]);
            start = start.min(prefix);
            end = end.max(text.len() - suffix);
        }
        (start <= end).then_some((start, end))
    }
}

fn common_prefix<'a>(a: &'a str, b: &str) -> &'a str {
    let end =
        a.char_indices().zip(b.chars()).find(|((_, x), y)| x != y).map_or(a.len().min(b.len()), |((at, _), _)| at);
    &a[..end]
}

/// Bytes at the ends of `a` and `b` that are the same characters.
fn common_suffix(a: &str, b: &str) -> usize {
    a.chars().rev().zip(b.chars().rev()).take_while(|(x, y)| x == y).map(|(x, _)| x.len_utf8()).sum()
}

/// `text` without a special token that it only begins, such as `<|` or `[`: common to two texts by chance.
fn whole_marks(text: &str) -> &str {
    let begun = [('<', '>'), ('[', ']')].into_iter().filter_map(|(open, close)| {
        let at = text.rfind(open)?;
        (!text[at..].contains(close)).then_some(at)
    });
    &text[..begun.min().unwrap_or(text.len())]
}

/// The length of a turn without the white space that follows the mark of its end: no model has to write that. Where
/// nothing else follows the content, the white space is the mark.
fn without_margin(turn: &str, message: &Json) -> usize {
    let trimmed = turn.trim_end();
    let content = content_text(message);
    let content = content.trim_end();
    if trimmed.ends_with(content) && !content.is_empty() { turn.len() } else { trimmed.len() }
}
