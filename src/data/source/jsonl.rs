//! The documents of a file, one by one.

use super::array::{self, Elements};
use super::corpus::{Input, InputKind};
use super::csv::Table;
use super::document::Document;
use super::hashing_reader::{Content, TextReader};
#[cfg(feature = "parquet")]
use super::parquet::Rows;
use crate::error::DataError;
use std::io::{self, BufRead, Read};
use std::path::Path;

/// Longest document: it is held whole while it is cut.
const LONGEST: u64 = 1 << 26;

impl Input {
    /// How many documents it holds; each of them is read.
    ///
    /// # Errors
    /// A file that cannot be read, a document that is none.
    ///
    /// # Panics
    /// If it is llm.c's, which has no documents.
    pub fn count_documents(&self) -> Result<u64, DataError> {
        assert!(self.kind != InputKind::LlmC, "llm.c's files hold tokens");
        let (mut documents, mut count) = (Documents::open(self)?, 0);
        while documents.next_document()?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}

/// The documents of one input, in order.
pub(crate) struct Documents<'a> {
    path: &'a Path,
    reader: Reader<'a>,
    /// Lines or rows read.
    line: u64,
    /// Documents read.
    count: u64,
    /// Whether anything stood in one of them.
    has_content: bool,
}

enum Reader<'a> {
    /// One to a line.
    Lines(TextReader<'a>),
    /// The elements of one array.
    Array(TextReader<'a>, Elements),
    /// The rows of a table.
    Table(Box<Table<'a>>, &'a Input),
    /// The file is one, and whether it was read.
    Whole(TextReader<'a>, bool),
    #[cfg(feature = "parquet")]
    Rows(Box<Rows>),
}

impl<'a> Documents<'a> {
    /// Opens `input`, which is not llm.c's.
    pub(crate) fn open(input: &'a Input) -> Result<Self, DataError> {
        let reader = match input.kind {
            InputKind::Text => Reader::Whole(TextReader::open(input)?, false),
            InputKind::Csv => Reader::Table(Box::new(Table::open(input, LONGEST)?), input),
            #[cfg(feature = "parquet")]
            InputKind::Parquet => Reader::Rows(Box::new(Rows::open(input)?)),
            _ => {
                let mut reader = TextReader::open(input)?;
                let array = array::begins(&mut reader).map_err(|error| reader.error(&input.name, error))?;
                match array {
                    true => Reader::Array(reader, Elements::new(LONGEST as usize)),
                    false => Reader::Lines(reader),
                }
            }
        };
        Ok(Documents { path: &input.name, reader, line: 0, count: 0, has_content: false })
    }

    /// Size and hash of what was read so far: of the whole file once there are no more documents.
    pub(crate) fn content(&self) -> Content {
        match &self.reader {
            Reader::Lines(reader) | Reader::Whole(reader, _) | Reader::Array(reader, _) => reader.content(),
            Reader::Table(table, _) => table.content(),
            #[cfg(feature = "parquet")]
            Reader::Rows(rows) => rows.content(),
        }
    }

    /// The line of the document that was given last.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// An error about the document that was given last.
    pub(crate) fn refuse(&self, reason: String) -> DataError {
        self.refuse_at(self.line, reason)
    }

    /// An error about the document at `line`.
    pub(crate) fn refuse_at(&self, line: u64, reason: String) -> DataError {
        let unit = match self.reader {
            #[cfg(feature = "parquet")]
            Reader::Rows(_) => "row",
            Reader::Array(..) => "record",
            _ => "line",
        };
        DataError::BadLine { path: self.path.into(), unit, line, reason }
    }

    /// The next document, nothing after the last. Empty lines are none.
    ///
    /// # Errors
    /// What cannot be read; and a file in which there was nothing, which would be passed over among others.
    pub(crate) fn next_document(&mut self) -> Result<Option<Document>, DataError> {
        let found = self.read_document()?;
        match &found {
            Some(document) => {
                self.count += 1;
                self.has_content |= document.bytes() > 0;
            }
            None if self.has_content => {}
            None => return Err(DataError::NoContent { path: self.path.into(), found: self.nothing() }),
        }
        Ok(found)
    }

    /// What a file holds in which there was nothing.
    fn nothing(&self) -> String {
        match (&self.reader, self.count) {
            (_, 1..) if !matches!(self.reader, Reader::Whole(..)) => match self.count {
                1 => "its only text is empty".into(),
                count => format!("its {count} texts are all empty"),
            },
            (Reader::Table(..), _) => "has a first line that names columns, and no rows".into(),
            (Reader::Array(..), _) => "is an array without records".into(),
            (Reader::Whole(..), _) => "holds no text".into(),
            #[cfg(feature = "parquet")]
            (Reader::Rows(_), _) => "has no rows".into(),
            (Reader::Lines(_), _) => "has no lines but empty ones".into(),
        }
    }

    fn read_document(&mut self) -> Result<Option<Document>, DataError> {
        let found = match &mut self.reader {
            Reader::Lines(reader) => match next_line(reader, self.path, &mut self.line)? {
                Some(line) if line.len() as u64 == LONGEST => Some(Err(format!("longer than {LONGEST} bytes"))),
                line => line.map(|line| Document::parse(&line)),
            },
            Reader::Array(reader, elements) => {
                self.line += 1;
                match elements.next(reader) {
                    Ok(element) => element.map(|element| Document::parse(&element)),
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => Some(Err(error.to_string())),
                    Err(error) => return Err(reader.error(self.path, error)),
                }
            }
            Reader::Table(table, input) => match table.next(input)? {
                Some(row) => {
                    self.line = row.line;
                    Some(row.record.and_then(Document::of_row))
                }
                None => None,
            },
            Reader::Whole(reader, read) => match std::mem::replace(read, true) {
                true => None,
                false => return whole(reader, self.path).map(Some),
            },
            #[cfg(feature = "parquet")]
            Reader::Rows(rows) => {
                self.line += 1;
                rows.next_row()?.map(Document::of_row)
            }
        };
        found.transpose().map_err(|reason| self.refuse(reason))
    }
}

/// The next line that is not empty.
fn next_line(reader: &mut TextReader<'_>, path: &Path, number: &mut u64) -> Result<Option<Vec<u8>>, DataError> {
    loop {
        let mut line = Vec::new();
        let got = reader.by_ref().take(LONGEST).read_until(b'\n', &mut line);
        if got.map_err(|error| reader.error(path, error))? == 0 {
            return Ok(None);
        }
        *number += 1;
        if !line.trim_ascii().is_empty() {
            return Ok(Some(line));
        }
    }
}

/// A file as one document.
fn whole(reader: &mut TextReader<'_>, path: &Path) -> Result<Document, DataError> {
    let mut bytes = Vec::new();
    let got = reader.by_ref().take(LONGEST).read_to_end(&mut bytes);
    if got.map_err(|error| reader.error(path, error))? as u64 == LONGEST {
        let reason = format!("is one sample of {LONGEST} bytes or more; cut it into lines of a .jsonl file");
        return Err(DataError::BadLine { path: path.into(), unit: "line", line: 1, reason });
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Document::Text(text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            Err(DataError::NotUtf8 {
                path: path.into(),
                offset: reader.skipped() + at as u64,
                byte: error.as_bytes()[at],
            })
        }
    }
}
