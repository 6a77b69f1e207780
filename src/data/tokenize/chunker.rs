//! A text in chunks of bounded size, cut where cutting does not change its tokens.
//!
//! Byte tokens may be cut anywhere. For a `tokenizer.json` a cut is tried on its surroundings: it is taken if they
//! have the same ids in two parts as in one. Before a new line's first letter that is true of nearly every
//! tokenizer. One that puts a space before every text (SentencePiece) agrees only where a space is dropped at the
//! cut. Where nothing agrees the text is cut at the first line, and the tokens are those of the parts.

use super::Tokenizer;
use crate::data::source::{Content, Document, Documents, Input, InputKind, TextReader};
use crate::error::DataError;
use std::io::Read;
use std::path::Path;

/// Bytes of a chunk, about.
const CHUNK: usize = 256 << 10;

/// Bytes after [`CHUNK`] in which a cut is looked for.
const SEARCH: usize = 64 << 10;

/// Bytes on either side of a cut on which it is tried.
const SURROUNDINGS: usize = 256;

/// Cuts of one kind that are tried before the next kind.
const TRIES: usize = 8;

/// A part of a document.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub text: String,
    /// Whether the document begins here.
    pub first: bool,
    /// Whether it ends here.
    pub last: bool,
}

/// The chunks of one input, in order.
pub(crate) struct Chunks<'a> {
    path: &'a Path,
    tokenizer: &'a Tokenizer,
    reader: Reader<'a>,
    /// The rest of the document that is being cut.
    rest: Vec<u8>,
    /// A file that is one document: whether `rest` reaches its end. Else: whether a document is being cut.
    ends: bool,
    /// Whether the next chunk begins a document.
    first: bool,
    /// Bytes of the text before `rest`.
    position: u64,
    done: bool,
}

/// Where documents come from.
enum Reader<'a> {
    /// A file that is one.
    Whole(TextReader<'a>),
    /// A file of many.
    Many(Documents<'a>),
}

impl<'a> Chunks<'a> {
    /// Opens `input`.
    pub(crate) fn new(input: &'a Input, tokenizer: &'a Tokenizer) -> Result<Self, DataError> {
        let reader = match input.kind {
            InputKind::Text => Reader::Whole(TextReader::open(input)?),
            _ => Reader::Many(Documents::open(input)?),
        };
        let path = input.name.as_path();
        Ok(Chunks { path, tokenizer, reader, rest: Vec::new(), ends: false, first: true, position: 0, done: false })
    }

    /// Size and hash of what was read so far: of the whole file once there are no more chunks.
    pub(crate) fn content(&self) -> Content {
        match &self.reader {
            Reader::Whole(reader) => reader.content(),
            Reader::Many(documents) => documents.content(),
        }
    }

    fn next_of_whole(&mut self) -> Result<Option<Chunk>, DataError> {
        let Reader::Whole(reader) = &mut self.reader else { return Ok(None) };
        if !self.ends {
            let wanted = (CHUNK + SEARCH).saturating_sub(self.rest.len());
            let got = reader.by_ref().take(wanted as u64).read_to_end(&mut self.rest);
            self.ends = got.map_err(|error| reader.error(self.path, error))? < wanted;
        }
        if self.rest.is_empty() {
            // Such as a byte order mark alone, or what an empty file is packed to.
            if self.position == 0 {
                return Err(DataError::NoContent { path: self.path.into(), found: "holds no text".into() });
            }
            self.done = true;
            return Ok(None);
        }
        let text = match std::str::from_utf8(&self.rest) {
            Ok(text) => text,
            // A character may be cut by the end of the buffer, but not by the end of the file.
            Err(error) if error.error_len().is_none() && !self.ends => {
                std::str::from_utf8(&self.rest[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(error) => {
                let at = error.valid_up_to();
                let (offset, byte) = (reader.skipped() + self.position + at as u64, self.rest[at]);
                return Err(DataError::NotUtf8 { path: self.path.into(), offset, byte });
            }
        };
        let cut = cut(text, self.ends, self.tokenizer);
        let chunk = self.take(cut);
        self.done |= chunk.last;
        Ok(Some(chunk))
    }

    fn next_of_many(&mut self) -> Result<Option<Chunk>, DataError> {
        while !self.ends {
            let Reader::Many(documents) = &mut self.reader else { return Ok(None) };
            let Some(document) = documents.next_document()? else {
                self.done = true;
                return Ok(None);
            };
            let Document::Text(text) = document else {
                let what = "holds a sample, not \"text\"; set data.packing = \"pack\"";
                return Err(documents.refuse(what.into()));
            };
            self.rest = text.into_bytes();
            self.ends = !self.rest.is_empty();
        }
        let text = std::str::from_utf8(&self.rest).unwrap_or_default();
        let cut = cut(text, true, self.tokenizer);
        let chunk = self.take(cut);
        self.ends = !chunk.last;
        Ok(Some(chunk))
    }

    /// Gives `rest` up to the cut and keeps what follows it.
    fn take(&mut self, cut: Cut) -> Chunk {
        let after = self.rest.split_off(cut.resume);
        let mut text = std::mem::replace(&mut self.rest, after);
        text.truncate(cut.end);
        self.position += cut.resume as u64;
        let last = self.ends && self.rest.is_empty();
        let first = std::mem::replace(&mut self.first, last);
        Chunk { text: String::from_utf8(text).unwrap_or_default(), first, last }
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<Chunk, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let chunk = match self.reader {
            Reader::Whole(_) => self.next_of_whole(),
            Reader::Many(_) => self.next_of_many(),
        };
        self.done |= chunk.is_err();
        chunk.transpose()
    }
}

/// Where a chunk ends and where the next begins; the same place unless a space between them is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    end: usize,
    resume: usize,
}

impl Cut {
    fn at(place: usize) -> Self {
        Cut { end: place, resume: place }
    }
}

/// The cut of `text`, at its end if that is the end of the document and near.
fn cut(text: &str, complete: bool, tokenizer: &Tokenizer) -> Cut {
    if complete && text.len() < CHUNK + SEARCH {
        return Cut::at(text.len());
    }
    let (from, to) = (boundary(text, CHUNK), boundary(text, CHUNK + SEARCH - SURROUNDINGS));
    if tokenizer.cuts_anywhere() {
        return Cut::at(from);
    }
    let bytes = text.as_bytes();
    let lines = || (from..to).filter(|&i| bytes[i - 1] == b'\n' && !bytes[i].is_ascii_whitespace()).map(Cut::at);
    let spaces = || (from..to).filter(|&i| bytes[i] == b' ' && bytes[i + 1].is_ascii_alphanumeric());
    let before_words = spaces().map(Cut::at);
    let between_words = spaces().map(|i| Cut { end: i, resume: i + 1 });
    let mut tried = lines().take(TRIES).chain(before_words.take(TRIES)).chain(between_words.take(TRIES));
    let found = tried.find(|cut| agrees(text, *cut, tokenizer));
    found.or_else(|| lines().next()).or_else(|| spaces().next().map(Cut::at)).unwrap_or(Cut::at(from))
}

/// Whether the surroundings of a cut have the same ids in two parts as in one.
fn agrees(text: &str, cut: Cut, tokenizer: &Tokenizer) -> bool {
    let (from, to) = (boundary(text, cut.end.saturating_sub(SURROUNDINGS)), boundary(text, cut.resume + SURROUNDINGS));
    let ids = |from, to| tokenizer.encode(&text[from..to]).ok();
    match (ids(from, to), ids(from, cut.end), ids(cut.resume, to)) {
        (Some(whole), Some(left), Some(right)) => whole.iter().eq(left.iter().chain(&right)),
        _ => false,
    }
}

/// The last place between two characters at or before `place`.
fn boundary(text: &str, place: usize) -> usize {
    let place = place.min(text.len());
    (0..=place).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}
