//! `tokenizer.json` and SentencePiece's `tokenizer.model`; one that is read encodes a text and decodes what it made of it.

use super::ended;
use tetrad::data::Tokenizer;

const TEXT: &str = "To be, or not to be: 42\u{e9} \u{65e5}\n\t  <s>";

pub fn run(bytes: &[u8]) -> String {
    let tokenizer = match Tokenizer::from_bytes(bytes) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return error.to_string(),
    };
    let _ = (tokenizer.eos(), tokenizer.bos(), tokenizer.beginning(), tokenizer.ending());
    let outcome = tokenizer.encode(TEXT);
    if let Ok(ids) = &outcome {
        assert!(ids.iter().all(|&id| u64::from(id) < tokenizer.vocab_size()), "{ids:?}");
        tokenizer.decode(ids);
    }
    ended(outcome)
}
