//! Decoding while tokens still arrive: text is given out as soon as it is certain, never half a character.

use super::Tokenizer;

/// Tokens that are held back at most while a character is incomplete; more of them are not one character.
const LONGEST_WAIT: usize = 16;

/// The streaming counterpart of [`Tokenizer::decode`].
pub struct Decoder {
    tokenizer: Tokenizer,
    /// Tokens already given out that the next ones are decoded after (a leading space may depend on them).
    shown: Vec<u32>,
    /// Tokens whose text is not given out yet.
    held: Vec<u32>,
}

impl Decoder {
    /// A decoder at the beginning of a text.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        Self::after(tokenizer, &[])
    }

    /// A decoder of what follows `shown`, which was given out already: at the beginning of a text some tokenizers drop
    /// a space that they keep in the middle of it.
    pub fn after(tokenizer: &Tokenizer, shown: &[u32]) -> Self {
        let shown = shown[shown.len().saturating_sub(LONGEST_WAIT)..].to_vec();
        Decoder { tokenizer: tokenizer.clone(), shown, held: Vec::new() }
    }

    /// Adds one token and gives the text that is complete with it, often empty.
    pub fn push(&mut self, id: u32) -> String {
        self.held.push(id);
        let text = self.pending();
        if text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER) && self.held.len() < LONGEST_WAIT {
            return String::new();
        }
        self.shown = std::mem::take(&mut self.held);
        text
    }

    /// Gives what is still held back, an incomplete character as U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = self.pending();
        self.held.clear();
        text
    }

    /// The text that the held tokens add to the shown ones.
    fn pending(&self) -> String {
        let before = self.tokenizer.decode(&self.shown);
        let all: Vec<u32> = self.shown.iter().chain(&self.held).copied().collect();
        let mut text = self.tokenizer.decode(&all);
        // Decoders are local, so the shown text is a prefix; where one is not, the held tokens stand alone.
        match text.starts_with(&before) {
            true => text.split_off(before.len()),
            false => self.tokenizer.decode(&self.held),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(ids: &[u32]) -> (Vec<String>, String) {
        let mut decoder = Decoder::new(&Tokenizer::bytes());
        let pieces = ids.iter().map(|id| decoder.push(*id)).collect();
        (pieces, decoder.finish())
    }

    #[test]
    fn a_character_is_never_split() {
        let text = "a\u{e9}\u{20ac}\u{1f600}z";
        let ids = Tokenizer::bytes().encode(text).unwrap();
        let (pieces, rest) = stream(&ids);
        assert_eq!(pieces.concat() + &rest, text);
        assert_eq!(pieces.iter().filter(|piece| !piece.is_empty()).count(), 5);
        assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)));
    }

    #[test]
    fn what_was_shown_is_not_shown_again() {
        let text = "caf\u{e9} \u{1f600}";
        let ids = Tokenizer::bytes().encode(text).unwrap();
        let mut decoder = Decoder::after(&Tokenizer::bytes(), &ids[..5]);
        let said: String = ids[5..].iter().map(|id| decoder.push(*id)).collect();
        assert_eq!(said, " \u{1f600}");
    }

    #[test]
    fn an_incomplete_end_is_shown_once() {
        let (pieces, rest) = stream(&[0x41, 0xe2, 0x82]);
        assert_eq!((pieces.concat().as_str(), rest.as_str()), ("A", "\u{fffd}"));
    }

    #[test]
    fn bytes_that_are_never_text_do_not_block_the_stream() {
        let (pieces, _) = stream(&[0xff; 100]);
        assert!(pieces.concat().chars().count() >= 90);
    }
}
