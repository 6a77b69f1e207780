//! A text in pieces of bounded size, cut where cutting does not change its tokens.
//!
//! Byte tokens may be cut anywhere. For a `tokenizer.json` a cut is tried on its surroundings: it is taken if they
//! have the same ids in two parts as in one. Before a new line's first letter that is true of nearly every
//! tokenizer. One that puts a space before every text (SentencePiece) agrees only where a space is dropped at the
//! cut. Where nothing agrees the text is cut at the first line, and the tokens are those of the parts.

use super::Tokenizer;
use super::corpus::{Input, InputKind};
use super::hashed::{Content, HashedReader};
use crate::error::DataError;
use std::io::{self, BufRead, Read};
use std::path::Path;

/// Bytes of a piece, about.
const PIECE: usize = 256 << 10;

/// Bytes after [`PIECE`] in which a cut is looked for.
const SEARCH: usize = 64 << 10;

/// Bytes on either side of a cut on which it is tried.
const SURROUNDINGS: usize = 256;

/// Cuts of one kind that are tried before the next kind.
const TRIES: usize = 8;

/// Longest line of a `.jsonl` file: a document is held whole while it is cut.
const LONGEST_LINE: u64 = 1 << 26;

/// A part of a document.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub text: String,
    /// Whether the document ends here.
    pub last: bool,
}

/// The pieces of one input, in order.
pub(super) struct Pieces<'a> {
    path: &'a Path,
    tokenizer: &'a Tokenizer,
    reader: HashedReader<'a>,
    kind: InputKind,
    /// The rest of the document that is being cut.
    rest: Vec<u8>,
    /// `.txt`: whether `rest` reaches the end of the file. `.jsonl`: whether a document is being cut.
    ends: bool,
    /// Bytes of the file before `rest`, or lines read.
    position: u64,
    done: bool,
}

impl<'a> Pieces<'a> {
    /// Opens `input`.
    pub(super) fn new(input: &'a Input, tokenizer: &'a Tokenizer) -> Result<Self, DataError> {
        let (path, kind, reader) = (input.name.as_path(), input.kind, HashedReader::open(input)?);
        Ok(Pieces { path, tokenizer, reader, kind, rest: Vec::new(), ends: false, position: 0, done: false })
    }

    /// Size and hash of what was read so far: of the whole file once there are no more pieces.
    pub(super) fn content(&self) -> Content {
        self.reader.content()
    }

    fn read_error(&self, source: io::Error) -> DataError {
        DataError::Read { path: self.path.into(), source }
    }

    fn next_of_text(&mut self) -> Result<Option<Piece>, DataError> {
        if !self.ends {
            let wanted = (PIECE + SEARCH).saturating_sub(self.rest.len());
            let got = self.reader.by_ref().take(wanted as u64).read_to_end(&mut self.rest);
            self.ends = got.map_err(|error| self.read_error(error))? < wanted;
        }
        if self.rest.is_empty() {
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
                let (offset, byte) = (self.position + at as u64, self.rest[at]);
                return Err(DataError::NotUtf8 { path: self.path.into(), offset, byte });
            }
        };
        let cut = cut(text, self.ends, self.tokenizer);
        Ok(Some(self.take(cut)))
    }

    fn next_of_lines(&mut self) -> Result<Option<Piece>, DataError> {
        while !self.ends {
            let mut line = Vec::new();
            let got = self.reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
            if got.map_err(|error| self.read_error(error))? == 0 {
                self.done = true;
                return Ok(None);
            }
            self.position += 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let text = document(&line).map_err(|reason| {
                let path = self.path.into();
                DataError::BadLine { path, line: self.position, reason }
            })?;
            self.rest = text.into_bytes();
            self.ends = !self.rest.is_empty();
        }
        let text = std::str::from_utf8(&self.rest).unwrap_or_default();
        let cut = cut(text, true, self.tokenizer);
        let piece = self.take(cut);
        self.ends = !piece.last;
        Ok(Some(piece))
    }

    /// Gives `rest` up to the cut and keeps what follows it.
    fn take(&mut self, cut: Cut) -> Piece {
        let after = self.rest.split_off(cut.resume);
        let mut text = std::mem::replace(&mut self.rest, after);
        text.truncate(cut.end);
        if self.kind == InputKind::Text {
            self.position += cut.resume as u64;
        }
        let last = self.ends && self.rest.is_empty();
        self.done |= last && self.kind == InputKind::Text;
        Piece { text: String::from_utf8(text).unwrap_or_default(), last }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let piece = match self.kind {
            InputKind::Text => self.next_of_text(),
            InputKind::JsonLines => self.next_of_lines(),
        };
        self.done |= piece.is_err();
        piece.transpose()
    }
}

/// The `text` of one line.
fn document(line: &[u8]) -> Result<String, String> {
    #[derive(serde::Deserialize)]
    struct Line {
        text: String,
    }
    if line.len() as u64 == LONGEST_LINE {
        return Err(format!("longer than {LONGEST_LINE} bytes"));
    }
    serde_json::from_slice::<Line>(line).map(|line| line.text).map_err(|error| {
        // The parser counts lines within the line; only the column means something here.
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or_default();
        format!("{reason} (column {})", error.column())
    })
}

/// Where a piece ends and where the next begins; the same place unless a space between them is dropped.
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
    if complete && text.len() < PIECE + SEARCH {
        return Cut::at(text.len());
    }
    let (from, to) = (boundary(text, PIECE), boundary(text, PIECE + SEARCH - SURROUNDINGS));
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
