//! A vocabulary of byte pairs, made of texts (arXiv 1508.07909, over bytes as in GPT-2).

use crate::data::source::{Corpus, Documents};
use crate::error::DataError;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizerWrapper, TokenizerBuilder, TokenizerImpl};

/// The token behind every text.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Every byte is a token, so that no text is beyond the vocabulary.
const BYTES: usize = 256;

/// The fewest tokens that a tokenizer with these special tokens has: the bytes, [`END_OF_TEXT`], and those.
pub fn least_vocabulary(special: &[String]) -> usize {
    BYTES + with_end(special).len()
}

/// All special tokens, each once.
fn with_end(special: &[String]) -> Vec<&str> {
    let mut all = vec![END_OF_TEXT];
    for token in special {
        if !all.contains(&token.as_str()) {
            all.push(token);
        }
    }
    all
}

/// Makes a `tokenizer.json` of `vocab` tokens, fewer if the texts have no more pairs that occur `least` times. `special` tokens
/// come first, [`END_OF_TEXT`] before them. Of the same texts it is the same, in any number of threads.
///
/// # Errors
/// Files that cannot be read; a vocabulary without room for the bytes and the special tokens.
pub fn train_byte_pairs(corpus: &Corpus, vocab: usize, least: u64, special: &[String]) -> Result<Vec<u8>, DataError> {
    let refuse = |reason: String| DataError::Tokenizer { name: "the new tokenizer".into(), reason };
    let fewest = least_vocabulary(special);
    let special = with_end(special);
    if vocab < fewest {
        return Err(refuse(format!(
            "a vocabulary of {vocab} tokens has no room for the {fewest} bytes and special tokens"
        )));
    }
    let special: Vec<AddedToken> = special.into_iter().map(|token| AddedToken::from(token, true)).collect();
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab)
        .min_frequency(least)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special.clone())
        .build();
    let bytes = ByteLevel::new(false, true, true);
    let built = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(bytes))
        .with_post_processor(Some(bytes))
        .with_decoder(Some(bytes))
        .build();
    let mut tokenizer: TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel> =
        built.map_err(|error| refuse(error.to_string()))?;
    let mut fault = None;
    let mut lines = Lines { corpus, input: 0, open: None, left: Vec::new(), fault: &mut fault };
    let trained = tokenizer.train(&mut trainer, &mut lines).map(drop);
    match fault {
        Some(error) => return Err(error),
        None => trained.map_err(|error| refuse(error.to_string()))?,
    }
    tokenizer.add_special_tokens(&special);
    let json = tokenizer.to_string(true).map_err(|error| refuse(error.to_string()))?;
    Ok(json.into_bytes())
}

/// The lines of all documents, from the last of a document to its first: which words there are does not depend on it.
struct Lines<'a, 'b> {
    corpus: &'a Corpus,
    /// Inputs that were opened.
    input: usize,
    open: Option<Documents<'a>>,
    left: Vec<String>,
    /// Why there are no more.
    fault: &'b mut Option<DataError>,
}

impl Lines<'_, '_> {
    /// The texts of the next document; nothing after the last.
    fn more(&mut self) -> Result<Option<Vec<String>>, DataError> {
        loop {
            if let Some(documents) = &mut self.open
                && let Some(document) = documents.next_document()?
            {
                return Ok(Some(document.into_texts()));
            }
            let Some(input) = self.corpus.inputs.get(self.input) else { return Ok(None) };
            self.input += 1;
            self.open = Some(Documents::open(input)?);
        }
    }
}

impl Iterator for Lines<'_, '_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        while self.left.is_empty() {
            match self.more() {
                Ok(texts) => {
                    for text in texts? {
                        self.left.extend(text.split_inclusive('\n').map(ToOwned::to_owned));
                    }
                }
                Err(error) => {
                    *self.fault = Some(error);
                    return None;
                }
            }
        }
        self.left.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tokenize::Tokenizer;

    fn trained(text: &str, vocab: usize) -> Result<Tokenizer, DataError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, text).unwrap();
        let corpus = Corpus::resolve(&[path.to_string_lossy().into_owned()])?;
        Tokenizer::from_json(&train_byte_pairs(&corpus, vocab, 2, &["<|user|>".into()])?)
    }

    #[test]
    fn frequent_words_become_tokens_and_every_text_comes_back() {
        let tokenizer = trained(&"the cat sat on the mat\nthe hat\n".repeat(50), 300).unwrap();
        assert!(tokenizer.vocab_size() <= 300 && tokenizer.vocab_size() > 258);
        assert_eq!(tokenizer.encode(" the").unwrap().len(), 1);
        for text in ["the cat", "zebra \u{e9}\u{4e2d}\u{1f600}\0\n\t", "  the  the"] {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&ids), text);
        }
        assert_eq!(tokenizer.eos(), tokenizer.id(END_OF_TEXT));
        assert_eq!(tokenizer.encode("<|user|>the").unwrap().len(), 2);
    }

    #[test]
    fn a_vocabulary_without_room_for_bytes_is_refused() {
        let error = trained("a", 257).err().unwrap().to_string();
        assert!(error.contains("257 tokens has no room for the 258"), "{error}");
    }
}
