//! Text to token ids and back: bytes, a Hugging Face `tokenizer.json`, or SentencePiece's `tokenizer.model`.

use super::sentence_piece;
use super::words::{Words, has_words};
use crate::error::DataError;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Once};
use tokenizers::ModelWrapper;
use xxhash_rust::xxh3::xxh3_128;

/// Files larger than this are not read: the largest known tokenizer is a twentieth of it.
const LARGEST_FILE: u64 = 1 << 29;

/// Names under which tokenizers keep their end of text, the usual one of each family first.
const END_OF_TEXT: [&str; 6] = ["</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<|eos|>", "<|im_end|>"];

/// Names under which tokenizers keep their beginning of text.
const BEGINNING_OF_TEXT: [&str; 5] = ["<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<|bos|>"];

/// A tokenizer. Cloning is cheap and shares the vocabulary.
///
/// No special token is added to what is encoded, nor are texts truncated or padded, whatever the file asks for. A
/// special token spelled out in a text (`<|endoftext|>` between stories) is that token.
#[derive(Clone)]
pub struct Tokenizer(Kind);

#[derive(Clone)]
enum Kind {
    Bytes,
    File(Arc<Loaded>),
}

struct Loaded {
    name: String,
    json: Vec<u8>,
    tokenizer: tokenizers::Tokenizer,
    /// One more than the largest id, added tokens included.
    vocab: u64,
    /// The same, added tokens left out.
    base_vocab: u64,
    /// Whether texts are encoded word by word.
    has_words: bool,
}

impl Tokenizer {
    /// One token per byte: the id is the byte, the vocabulary 256.
    pub fn bytes() -> Self {
        Tokenizer(Kind::Bytes)
    }

    /// The tokenizer of `file`, a `tokenizer.json`; without one, a token per byte.
    ///
    /// # Errors
    /// A file that cannot be read or is no usable tokenizer.
    pub fn of(file: Option<&Path>) -> Result<Self, DataError> {
        file.map_or_else(|| Ok(Tokenizer::bytes()), Tokenizer::from_file)
    }

    /// Reads a `tokenizer.json`, or SentencePiece's `tokenizer.model`.
    ///
    /// # Errors
    /// A file that cannot be read or is no usable tokenizer.
    pub fn from_file(path: &Path) -> Result<Self, DataError> {
        let read = |path: &Path| -> std::io::Result<Vec<u8>> {
            let size = std::fs::metadata(path)?.len();
            if size > LARGEST_FILE {
                return Err(std::io::Error::other(format!("{size} bytes, at most {LARGEST_FILE} are read")));
            }
            std::fs::read(path)
        };
        let mut json = read(path).map_err(|source| DataError::Read { path: path.into(), source })?;
        if let Some((converted, _)) = sentence_piece::read(path, &json)? {
            json = converted;
        }
        Self::parse(path.display().to_string(), &json)
    }

    /// The tokenizer in the bytes of a `tokenizer.json`, as [`Tokenizer::json`] gives them.
    ///
    /// # Errors
    /// Bytes that are no usable tokenizer.
    pub fn from_json(json: &[u8]) -> Result<Self, DataError> {
        Self::parse("tokenizer".into(), json)
    }

    /// The tokenizer in the bytes of a `tokenizer.json` or a `tokenizer.model`, without what files beside it add.
    ///
    /// # Errors
    /// Bytes that are no usable tokenizer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DataError> {
        match sentence_piece::read_alone(Path::new("tokenizer"), bytes)? {
            Some((json, _)) => Self::from_json(&json),
            None => Self::from_json(bytes),
        }
    }

    fn parse(name: String, json: &[u8]) -> Result<Self, DataError> {
        let refuse = |reason: String| DataError::Tokenizer { name: name.clone(), reason };
        // The library asserts on some malformed files; a hostile file must end in an error, not in an abort.
        let parsed = guarded(|| tokenizers::Tokenizer::from_bytes(json));
        let mut tokenizer = parsed.map_err(refuse)?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| refuse(error.to_string()))?;
        if let ModelWrapper::BPE(model) = tokenizer.get_model()
            && model.dropout.is_some_and(|dropout| dropout != 0.0)
        {
            return Err(refuse("its merges are dropped at random (model.dropout); set dropout to null".into()));
        }
        let beyond = |added| tokenizer.get_vocab(added).into_values().max().map_or(0, |largest| u64::from(largest) + 1);
        let (vocab, base_vocab) = (beyond(true), beyond(false));
        if vocab == 0 {
            return Err(refuse("its vocabulary is empty".into()));
        }
        let has_words = has_words(&tokenizer);
        Ok(Tokenizer(Kind::File(Arc::new(Loaded {
            name,
            json: json.to_vec(),
            tokenizer,
            vocab,
            base_vocab,
            has_words,
        }))))
    }

    /// One more than the largest id it can give.
    pub fn vocab_size(&self) -> u64 {
        match &self.0 {
            Kind::Bytes => 256,
            Kind::File(loaded) => loaded.vocab,
        }
    }

    /// Refuses a model with fewer rows than the tokenizer has tokens. Added tokens (a padding token put behind the
    /// vocabulary is common) count only once a text uses them.
    ///
    /// # Errors
    /// [`DataError::TokenizerTooLarge`] with the numbers.
    pub fn check_vocabulary(&self, vocab: usize) -> Result<(), DataError> {
        let (name, base) = match &self.0 {
            Kind::Bytes => ("bytes", 256),
            Kind::File(loaded) => (loaded.name.as_str(), loaded.base_vocab),
        };
        if base <= vocab as u64 {
            return Ok(());
        }
        Err(DataError::TokenizerTooLarge { name: name.into(), largest: base - 1, vocab: vocab as u64 })
    }

    /// The ids of `text`.
    ///
    /// # Errors
    /// Text that the tokenizer refuses (a character that its vocabulary lacks and cannot spell in bytes).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        match &self.0 {
            Kind::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Kind::File(loaded) => {
                let encoding = guarded(|| loaded.tokenizer.encode_fast(text, false));
                let encoding = encoding.map_err(|reason| DataError::Encode { name: loaded.name.clone(), reason })?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// The same of one of many texts, whose words are remembered.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub(crate) fn encode_words(&self, text: &str, words: &Words) -> Result<Vec<u32>, DataError> {
        match &self.0 {
            Kind::File(loaded) if loaded.has_words => guarded(|| words.encode(&loaded.tokenizer, text))
                .map_err(|reason| DataError::Encode { name: loaded.name.clone(), reason }),
            _ => self.encode(text),
        }
    }

    /// The text of `ids`; bytes that are no UTF-8 become U+FFFD, ids outside the vocabulary nothing.
    pub fn decode(&self, ids: &[u32]) -> String {
        match &self.0 {
            Kind::Bytes => {
                let bytes: Vec<u8> = ids.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Kind::File(loaded) => guarded(|| loaded.tokenizer.decode(ids, false)).unwrap_or_default(),
        }
    }

    /// The whole `tokenizer.json`, to be kept in a checkpoint; nothing for bytes.
    pub fn json(&self) -> Option<&[u8]> {
        match &self.0 {
            Kind::Bytes => None,
            Kind::File(loaded) => Some(&loaded.json),
        }
    }

    /// Equal for equal tokenizers: the xxh3-128 of the file, 0 for bytes.
    pub fn fingerprint(&self) -> u128 {
        self.json().map_or(0, xxh3_128)
    }

    /// The id of the end-of-text token, if there is one.
    pub fn eos(&self) -> Option<u32> {
        self.first_of(&END_OF_TEXT)
    }

    /// The id of the beginning-of-text token, if there is one.
    pub fn bos(&self) -> Option<u32> {
        self.first_of(&BEGINNING_OF_TEXT)
    }

    /// What other programs put before a text: the special tokens that the file asks for there.
    pub fn beginning(&self) -> Vec<u32> {
        self.surroundings().0
    }

    /// What other programs put behind a text: the special tokens that the file asks for there.
    pub fn ending(&self) -> Vec<u32> {
        self.surroundings().1
    }

    fn surroundings(&self) -> (Vec<u32>, Vec<u32>) {
        let Kind::File(loaded) = &self.0 else { return Default::default() };
        let encode = |special| guarded(|| loaded.tokenizer.encode_fast("a", special)).ok();
        let (Some(with), Some(without)) = (encode(true), encode(false)) else { return Default::default() };
        let (with, without) = (with.get_ids(), without.get_ids());
        let at = with.windows(without.len().max(1)).position(|ids| ids == without);
        at.map_or_else(Default::default, |at| (with[..at].to_vec(), with[at + without.len()..].to_vec()))
    }

    /// The id of a token by its name.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.first_of(&[name])
    }

    fn first_of(&self, names: &[&str]) -> Option<u32> {
        match &self.0 {
            Kind::Bytes => None,
            Kind::File(loaded) => names.iter().find_map(|name| loaded.tokenizer.token_to_id(name)),
        }
    }

    /// Whether a text may be cut anywhere between characters without changing its ids.
    pub(crate) fn cuts_anywhere(&self) -> bool {
        matches!(self.0, Kind::Bytes)
    }
}

thread_local! {
    /// Whether a panic of this thread is expected and turned into an error.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a call into the tokenizer library, whose panics on malformed files and whose errors become messages. Nothing is
/// printed of such a panic; every other is reported as before.
fn guarded<T, E: std::fmt::Display>(call: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                report(panic);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(outer);
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")),
        Err(_) => Err("the file contradicts itself".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_their_own_ids_and_come_back() {
        let bytes = Tokenizer::bytes();
        let text = "na\u{ef}ve \u{1f600}\r\n\0";
        let ids = bytes.encode(text).unwrap();
        assert_eq!(ids.iter().map(|id| *id as u8).collect::<Vec<_>>(), text.as_bytes());
        assert_eq!(bytes.decode(&ids), text);
        assert_eq!((bytes.vocab_size(), bytes.eos(), bytes.bos(), bytes.json()), (256, None, None, None));
    }

    #[test]
    fn ids_that_no_tokenizer_gave_decode_without_a_panic() {
        assert_eq!(Tokenizer::bytes().decode(&[0x41, 0xff, 300, u32::MAX, 0x42]), "A\u{fffd}B");
    }

    #[test]
    fn files_that_are_no_tokenizer_are_refused() {
        for json in ["", "{", "[]", "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", "\u{0}"] {
            assert!(matches!(Tokenizer::from_json(json.as_bytes()), Err(DataError::Tokenizer { .. })), "{json}");
        }
    }
}
