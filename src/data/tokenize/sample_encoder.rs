//! How documents become samples: which tokens, and which of them are learned.

use super::Tokenizer;
use super::chat_template::Chat;
use super::tokenizer_config::TokenizerConfig;
use super::words::Words;
use crate::data::source::Document;
use crate::error::DataError;
use xxhash_rust::xxh3::Xxh3;

/// Raised when the same record gives other tokens than before.
const REVISION: u32 = 2;

/// What texts and samples are made with.
#[derive(Clone)]
pub struct SampleFormat {
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    /// Conversations to text, and which token ends a text.
    pub config: TokenizerConfig,
}

impl From<&Tokenizer> for SampleFormat {
    /// Of a tokenizer that nothing came with.
    fn from(tokenizer: &Tokenizer) -> Self {
        SampleFormat { tokenizer: tokenizer.clone(), config: TokenizerConfig::default() }
    }
}

impl SampleFormat {
    /// What is put before each text: the model saw it before every text, and whoever uses the model puts it there.
    pub(crate) fn begin(&self) -> Vec<u32> {
        let bos = || self.config.bos().and_then(|bos| self.tokenizer.id(bos)).or(self.tokenizer.bos());
        match self.config.add_bos() {
            Some(true) => bos().into_iter().collect(),
            Some(false) => Vec::new(),
            None => self.tokenizer.beginning(),
        }
    }

    /// What ends each text.
    pub(crate) fn end(&self) -> Option<u32> {
        self.config.eos().and_then(|eos| self.tokenizer.id(eos)).or(self.tokenizer.eos())
    }

    /// Adds all that the tokens of texts depend on beside the tokenizer to a key; nothing where they are the tokenizer's
    /// own, as those of all texts were before a text could begin with a token.
    pub(crate) fn hash_texts(&self, hash: &mut Xxh3) {
        let (begin, end) = (self.begin(), self.end());
        if !begin.is_empty() || end != self.tokenizer.eos() {
            hash.update(b"texts");
            begin.iter().chain(&end).for_each(|id| hash.update(&id.to_le_bytes()));
        }
    }

    /// Adds all that samples depend on to a key.
    pub(crate) fn hash_samples(&self, hash: &mut Xxh3) {
        hash.update(&REVISION.to_le_bytes());
        for part in self.config.content() {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
    }

    /// The format with its template compiled.
    ///
    /// # Errors
    /// A chat template with a mistake in its syntax.
    pub(crate) fn encoder(&self) -> Result<SampleEncoder<'_>, DataError> {
        Ok(SampleEncoder {
            tokenizer: &self.tokenizer,
            begin: self.begin(),
            end: self.end(),
            chat: self.config.chat()?,
            words: Words::default(),
        })
    }
}

/// One sample.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Which of them are targets, as many.
    pub loss_mask: Vec<bool>,
    /// Bytes of text that is learned.
    pub target_bytes: u64,
}

/// Why a document is no sample.
pub(crate) enum Refused {
    /// Something about the document.
    Document(String),
    /// It has messages, and nothing says how those are written.
    NoTemplate,
}

/// A format with its template compiled.
pub(crate) struct SampleEncoder<'a> {
    tokenizer: &'a Tokenizer,
    /// What is put before each text (not before conversations, whose template writes it).
    begin: Vec<u32>,
    /// What ends each text.
    end: Option<u32>,
    chat: Option<Chat>,
    /// What is remembered of words.
    words: Words,
}

impl SampleEncoder<'_> {
    /// The sample of a document; no ids for an empty text.
    pub(crate) fn encode(&self, document: &Document) -> Result<Sample, Refused> {
        match document {
            Document::Text(text) => self.text("", text),
            Document::Pair { prompt, completion } => self.text(prompt, completion),
            Document::Conversation(conversation) => {
                let chat = self.chat.as_ref().ok_or(Refused::NoTemplate)?;
                let rendered = chat.write(conversation).map_err(Refused::Document)?;
                let bounds: Vec<usize> = rendered.targets.iter().flat_map(|range| [range.start, range.end]).collect();
                let parts = self.parts(&rendered.text, &bounds)?;
                // What is learned and what is not take turns.
                let parts = parts.into_iter().enumerate().map(|(i, ids)| (ids, i % 2 == 1));
                Ok(sample(parts, rendered.targets.iter().map(|range| range.len() as u64).sum()))
            }
        }
    }

    /// A text of which `learned` is learned.
    fn text(&self, before: &str, learned: &str) -> Result<Sample, Refused> {
        let mut text = format!("{before}{learned}");
        if text.is_empty() {
            return Ok(Sample { ids: Vec::new(), loss_mask: Vec::new(), target_bytes: 0 });
        }
        if self.end.is_none() && !text.ends_with('\n') {
            text.push('\n');
        }
        let bounds: &[usize] = if before.is_empty() { &[] } else { &[before.len()] };
        let mut parts = self.parts(&text, bounds)?;
        let last = parts.last_mut().expect("one part more than bounds");
        last.extend(self.end);
        let begin = if parts[0].starts_with(&self.begin) { &[][..] } else { &self.begin };
        let learned_from = parts.len() - 1;
        let parts = parts.into_iter().enumerate().map(|(i, ids)| (ids, i == learned_from));
        Ok(sample([(begin.to_vec(), false)].into_iter().chain(parts), learned.len() as u64))
    }

    /// The ids of `text` in parts, cut at `bounds`, which do not decrease.
    ///
    /// They are those of the whole text wherever its tokens do not reach across a bound. Where one does, it is none of
    /// either part, and the parts are encoded by themselves: so is a prompt when the model is used.
    fn parts(&self, text: &str, bounds: &[usize]) -> Result<Vec<Vec<u32>>, Refused> {
        let encode = |text: &str| {
            self.tokenizer.encode_words(text, &self.words).map_err(|error| {
                Refused::Document(match error {
                    DataError::Encode { reason, .. } => format!("the tokenizer refuses this text: {reason}"),
                    other => other.to_string(),
                })
            })
        };
        let whole = encode(text)?;
        if bounds.is_empty() {
            return Ok(vec![whole]);
        }
        let starts = [&[0], bounds].concat();
        let ends = [bounds, &[text.len()]].concat();
        let apart = starts.iter().zip(&ends).map(|(&from, &to)| encode(&text[from..to]));
        let apart = apart.collect::<Result<Vec<_>, _>>()?;
        if apart.iter().flatten().eq(&whole) {
            return Ok(apart);
        }
        // A tokenizer that puts something before every text: the beginnings of the whole show where its parts end.
        let mut cuts = vec![0];
        for &bound in bounds {
            let before = encode(&text[..bound])?;
            if !whole.starts_with(&before) {
                return Ok(apart);
            }
            cuts.push(before.len());
        }
        cuts.push(whole.len());
        match cuts.is_sorted() {
            true => Ok(cuts.windows(2).map(|cut| whole[cut[0]..cut[1]].to_vec()).collect()),
            false => Ok(apart),
        }
    }
}

/// One sample of parts that are learned or not.
fn sample(parts: impl Iterator<Item = (Vec<u32>, bool)>, target_bytes: u64) -> Sample {
    let mut sample = Sample { ids: Vec::new(), loss_mask: Vec::new(), target_bytes };
    for (part, learned) in parts {
        sample.loss_mask.resize(sample.loss_mask.len() + part.len(), learned);
        sample.ids.extend(part);
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn format_of(tokenizer: Tokenizer) -> SampleFormat {
        SampleFormat { tokenizer, config: TokenizerConfig::default() }
    }

    fn fixture(name: &str) -> Tokenizer {
        Tokenizer::from_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizer").join(name)).unwrap()
    }

    /// The text of all tokens, and of those that are learned.
    fn read(format: &SampleFormat, document: Document) -> (String, String) {
        let encoder = format.encoder().unwrap_or_else(|error| panic!("{error}"));
        let sample = encoder.encode(&document).unwrap_or_else(|_| panic!("{document:?} is refused"));
        assert_eq!(sample.ids.len(), sample.loss_mask.len());
        let learned: Vec<u32> =
            sample.ids.iter().zip(&sample.loss_mask).filter(|(_, learned)| **learned).map(|(id, _)| *id).collect();
        (format.tokenizer.decode(&sample.ids), format.tokenizer.decode(&learned))
    }

    fn pair(prompt: &str, completion: &str) -> Document {
        Document::Pair { prompt: prompt.into(), completion: completion.into() }
    }

    #[test]
    fn of_a_pair_the_completion_and_its_end_are_learned() {
        let bytes = format_of(Tokenizer::bytes());
        assert_eq!(read(&bytes, pair("2 + 2 = ", "4")), ("2 + 2 = 4\n".into(), "4\n".into()));
        let level = format_of(fixture("byte_level.json"));
        let end = "<|endoftext|>";
        assert_eq!(read(&level, pair("It is ", "a truth")), (format!("It is a truth{end}"), format!("a truth{end}")));
        assert_eq!(read(&level, pair("", "truth")).1, format!("truth{end}"));
        assert_eq!(read(&level, Document::Text("truth".into())).1, format!("truth{end}"));
    }

    /// A space is put before every text by this tokenizer; before a completion that would be one too many.
    #[test]
    fn a_completion_has_the_tokens_that_it_has_behind_its_prompt() {
        let format = format_of(fixture("byte_fallback.json"));
        let encoder = format.encoder().unwrap();
        let sample = encoder.encode(&pair("It is a truth", " universally acknowledged")).unwrap_or_else(|_| panic!());
        let ids = &sample.ids;
        let whole = format.tokenizer.encode("It is a truth universally acknowledged").unwrap();
        assert_eq!(ids[..ids.len() - 1], whole);
        let prompt = format.tokenizer.encode("It is a truth").unwrap().len();
        assert_eq!(sample.loss_mask, (0..ids.len()).map(|i| i >= prompt).collect::<Vec<_>>());
    }

    #[test]
    fn a_token_across_the_bound_belongs_to_neither_side() {
        let format = format_of(fixture("byte_level.json"));
        let whole = format.tokenizer.encode("the truth").unwrap();
        // The space and the word are one token of the whole text.
        let (prompt, completion) = ("the ", "truth");
        let apart = [format.tokenizer.encode(prompt).unwrap(), format.tokenizer.encode(completion).unwrap()].concat();
        assert_ne!(whole, apart);
        let sample = format.encoder().unwrap().encode(&pair(prompt, completion)).unwrap_or_else(|_| panic!());
        let ids = &sample.ids;
        assert_eq!(ids[..ids.len() - 1], apart);
    }
}
