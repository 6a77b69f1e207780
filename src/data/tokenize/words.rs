//! Text to ids word by word, each word once: the words of a text are few, and nearly all the time of a tokenizer goes into
//! its regular expressions.
//!
//! A text is cut where the expressions of the pre-tokenizers below end a match whatever surrounds it, with the same matches
//! on either side as the sides have alone. They never look back, and look ahead only behind white space, so that is so
//!
//! - where a run of letters or of digits ends: no expression goes on behind one with anything else;
//! - before a space behind anything but white space: an expression has a space at its beginning, or among white space;
//! - within white space, before a last space or tab: what comes before it is a match of its own, at the end of a text too,
//!   unless a digit follows, which may be cut off first.
//!
//! Parts therefore have the ids that they have in the text. They are those of the library, which also finds the added tokens
//! and normalizes. Cuts beside characters beyond ASCII are left out, but for the second kind.

use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use tokenizers::{Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};

/// The expression of LLaMA 3, and of others that count its digits in threes.
pub(crate) const LLAMA_3: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| \
                                  ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/// That of Qwen 2: digits one by one.
pub(crate) const QWEN_2: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| \
                                 ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/// Longer words are encoded anew each time: they seldom come again.
const LONGEST: usize = 32;

/// Words that are remembered; then all are forgotten, and the frequent ones are soon known again.
const MOST: usize = 1 << 16;

/// A step of a pre-tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// Each digit is a piece.
    Digits,
    /// GPT-2's expression, then bytes.
    Words,
    /// Bytes as characters.
    Bytes,
    /// The matches of an expression, and what lies between them.
    Split(&'a str),
}

/// A pre-tokenizer of a `tokenizer.json` as a list of steps; `None` if a step is unknown.
pub(crate) fn steps(json: &Value) -> Option<Vec<Step<'_>>> {
    let parts = match json["type"].as_str()? {
        "Sequence" => json["pretokenizers"].as_array()?.iter().collect(),
        _ => vec![json],
    };
    parts.into_iter().map(step).collect()
}

fn step(part: &Value) -> Option<Step<'_>> {
    let plain = |key: &str, value: bool| part[key].as_bool().unwrap_or(value) == value;
    Some(match part["type"].as_str()? {
        "Digits" if part["individual_digits"] == true => Step::Digits,
        "ByteLevel" if plain("add_prefix_space", false) => match part["use_regex"].as_bool().unwrap_or(true) {
            true => Step::Words,
            false => Step::Bytes,
        },
        "Split" if part["behavior"] == "Isolated" && plain("invert", false) => {
            Step::Split(part["pattern"]["Regex"].as_str()?)
        }
        _ => return None,
    })
}

/// Whether texts may be cut before spaces: an expression that does so comes first, or behind steps that change no text.
pub(super) fn has_words(tokenizer: &Tokenizer) -> bool {
    let json = tokenizer.get_pre_tokenizer().and_then(|steps| serde_json::to_value(steps).ok()).unwrap_or_default();
    let steps = steps(&json).unwrap_or_default();
    let first = steps.into_iter().find(|step| *step != Step::Digits);
    matches!(first, Some(Step::Words | Step::Split(LLAMA_3 | QWEN_2)))
}

/// What is remembered of words, for any number of threads: each takes one memory, and gives it back.
#[derive(Default)]
pub(crate) struct Words(Mutex<Vec<Memory>>);

/// The ids of words.
#[derive(Default)]
struct Memory {
    /// Where the ids of a word lie in `ids`.
    known: HashMap<Box<str>, (usize, usize)>,
    ids: Vec<u32>,
}

impl Words {
    /// The ids of a text, of a tokenizer that has words.
    pub(super) fn encode(&self, tokenizer: &Tokenizer, text: &str) -> tokenizers::Result<Vec<u32>> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = lock().pop().unwrap_or_default();
        let ids = memory.encode(tokenizer, text);
        lock().push(memory);
        ids
    }
}

impl Memory {
    fn encode(&mut self, tokenizer: &Tokenizer, text: &str) -> tokenizers::Result<Vec<u32>> {
        let mut found = Vec::with_capacity(text.len() / 4);
        let parts = tokenizer.get_added_vocabulary().extract_and_normalize(tokenizer.get_normalizer(), text);
        for (part, _, tokens) in parts.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            if let Some(tokens) = tokens {
                found.extend(tokens.iter().map(|token| token.id));
                continue;
            }
            for word in words(part) {
                self.append(tokenizer, word, &mut found)?;
            }
        }
        Ok(found)
    }

    /// Appends the ids of a word.
    fn append(&mut self, tokenizer: &Tokenizer, word: &str, found: &mut Vec<u32>) -> tokenizers::Result<()> {
        if let Some(&(from, to)) = self.known.get(word) {
            found.extend_from_slice(&self.ids[from..to]);
            return Ok(());
        }
        let begin = found.len();
        let mut pieces = PreTokenizedString::from(word);
        if let Some(steps) = tokenizer.get_pre_tokenizer() {
            steps.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| tokenizer.get_model().tokenize(piece.get()))?;
        let splits = pieces.get_splits(OffsetReferential::Normalized, OffsetType::None);
        found.extend(splits.iter().filter_map(|(_, _, tokens)| tokens.as_ref()).flatten().map(|token| token.id));
        if word.len() <= LONGEST {
            if self.known.len() == MOST {
                self.known.clear();
                self.ids.clear();
            }
            let from = self.ids.len();
            self.ids.extend_from_slice(&found[begin..]);
            self.known.insert(word.into(), (from, self.ids.len()));
        }
        Ok(())
    }
}

/// The parts of a text between cuts.
fn words(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let end = (1..text.len()).find(|&at| is_cut(text, at)).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        text = rest;
        (!word.is_empty()).then_some(word)
    })
}

/// Whether a text is cut before its byte `at`, which is not the first.
fn is_cut(text: &str, at: usize) -> bool {
    let bytes = text.as_bytes();
    match (bytes[at - 1], bytes[at]) {
        (_, 0x80..) => false,
        (b'A'..=b'Z' | b'a'..=b'z', next) => !next.is_ascii_alphabetic(),
        (b'0'..=b'9', next) => !next.is_ascii_digit(),
        (0x80.., b' ') => text[..at].chars().next_back().is_some_and(|last| !last.is_whitespace()),
        (b'!'..=b'~', b' ') => true,
        (b'\t'..=b'\r' | b' ', b' ' | b'\t') => {
            bytes.get(at + 1).is_some_and(|next| next.is_ascii_graphic() && !next.is_ascii_digit())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const BYTE_LEVEL: &[u8] = include_bytes!("../../../fixtures/tokenizer/byte_level.json");

    /// A tokenizer of bytes with this pre-tokenizer.
    fn with(pre_tokenizer: Value, normalizer: Value) -> Tokenizer {
        let mut json: Value = serde_json::from_slice(BYTE_LEVEL).unwrap();
        json["pre_tokenizer"] = pre_tokenizer;
        json["normalizer"] = normalizer;
        Tokenizer::from_bytes(json.to_string()).unwrap()
    }

    fn bytes(use_regex: bool) -> Value {
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex })
    }

    fn split(regex: &str) -> Value {
        let split = json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
        json!({ "type": "Sequence", "pretokenizers": [split, bytes(false)] })
    }

    fn all() -> Vec<Tokenizer> {
        let digits = json!({ "type": "Digits", "individual_digits": true });
        let nfc = json!({ "type": "NFC" });
        let none = || Value::Null;
        vec![
            with(bytes(true), none()),
            with(json!({ "type": "Sequence", "pretokenizers": [digits, bytes(true)] }), none()),
            with(split(LLAMA_3), none()),
            with(split(QWEN_2), nfc),
        ]
    }

    /// Texts of characters that expressions treat differently, in any order.
    fn hostile(seed: u64) -> String {
        const CHARACTERS: [&str; 28] = [
            " ",
            " ",
            " ",
            "  ",
            "a",
            "b",
            "the",
            "\u{e9}",
            "e\u{301}",
            "7",
            "42",
            "\u{664}",
            ".",
            ",\"",
            "'",
            "'s",
            "'LL",
            "\n",
            "\r\n",
            "\t",
            "\u{a0}",
            "\u{3000}",
            "\u{85}",
            "\u{1f}",
            "\u{4e2d}",
            "\u{1f600}",
            "<|endoftext|>",
            "_",
        ];
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            CHARACTERS[(state >> 32) as usize % CHARACTERS.len()]
        };
        (0..40).map(|_| draw()).collect()
    }

    #[test]
    fn words_have_the_ids_that_they_have_in_their_text() {
        for (i, tokenizer) in all().iter().enumerate() {
            assert!(has_words(tokenizer), "tokenizer {i}");
            let words = Words::default();
            let novel = include_str!("../../../assets/corpus/austen.txt");
            let texts = (0..2000).map(hostile).chain([novel[..40_000].into(), String::new(), "  ".into()]);
            for text in texts {
                let wanted = tokenizer.encode_fast(text.as_str(), false).unwrap();
                assert_eq!(words.encode(tokenizer, &text).unwrap(), wanted.get_ids(), "tokenizer {i}: {text:?}");
            }
        }
    }

    #[test]
    fn a_memory_that_is_full_is_emptied() {
        let tokenizer = &all()[0];
        let mut memory = Memory::default();
        let text: String = (0..MOST + 10).map(|i| format!("w{i} ")).collect();
        let ids = memory.encode(tokenizer, &text).unwrap();
        assert!(memory.known.len() < 20, "{} words", memory.known.len());
        assert_eq!(memory.encode(tokenizer, &text).unwrap(), ids);
    }

    #[test]
    fn a_text_is_cut_behind_words_and_before_their_spaces() {
        let cut = |text: &'static str| words(text).collect::<Vec<_>>();
        assert_eq!(cut("It is,  a\n\t\ttruth(x2);"), ["It", " is", ",", " ", " a", "\n\t", "\ttruth", "(x", "2", ");"]);
        assert_eq!(cut(" a \u{e9} b  7"), [" a", " \u{e9}", " b", "  7"]);
        assert!(cut("").is_empty());
    }

    #[test]
    fn what_joins_words_or_is_unknown_has_none() {
        for pre_tokenizer in [
            Value::Null,
            json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": false }),
            json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
            bytes(false),
            split("\\w+ \\w+|."),
            json!({ "type": "Sequence", "pretokenizers": [bytes(false), bytes(true)] }),
        ] {
            assert!(!has_words(&with(pre_tokenizer.clone(), Value::Null)), "{pre_tokenizer}");
        }
    }
}
