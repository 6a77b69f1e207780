//! Records of a `.csv` or `.tsv` file: the first row names the columns.

use super::corpus::Input;
use super::document::KNOWN_BY;
use super::hashing_reader::{Content, TextReader};
use super::json::Json;
use crate::error::DataError;
use std::io::{self, BufRead, Read};

/// Columns that hold JSON.
const JSON: [&str; 7] =
    ["messages", "conversations", "conversation", "tools", "documents", "chat_template_kwargs", "history"];

/// Columns in which an empty field is an empty text; in all others it is absent.
const TEXTS: [&str; 11] = [
    "text",
    "prompt",
    "completion",
    "instruction",
    "input",
    "context",
    "output",
    "question",
    "query",
    "answer",
    "response",
];

/// What may stand between two fields.
const DELIMITERS: [u8; 3] = [b',', b'\t', b';'];

/// The rows of a file.
pub(super) struct Table<'a> {
    reader: csv::Reader<Guarded<'a>>,
    columns: Vec<String>,
    record: csv::StringRecord,
}

/// One row.
pub(super) struct Row {
    /// The line that it begins at.
    pub line: u64,
    /// The row as an object, or what is wrong with it.
    pub record: Result<Json, String>,
}

/// A text that keeps watch over its quotes: the parser takes a file that was cut off inside of them for whole.
pub(super) struct Guarded<'a> {
    reader: TextReader<'a>,
    quotes: Quotes,
    longest: u64,
}

/// Where in a row a text stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Where a quote opens a field.
    #[default]
    FieldStart,
    /// In a field without quotes.
    Plain,
    Quoted,
    /// Behind a quote inside of quotes: their end, or the first of two.
    Quote,
}

#[derive(Clone, Copy, Debug, Default)]
struct Quotes {
    place: Place,
    delimiter: u8,
    /// Bytes of the row so far.
    row: u64,
}

impl Quotes {
    fn pass(&mut self, byte: u8) {
        self.row += 1;
        self.place = match (self.place, byte) {
            (Place::FieldStart, b'"') | (Place::Quote, b'"') => Place::Quoted,
            (Place::Quoted, b'"') => Place::Quote,
            (Place::Quoted, _) => Place::Quoted,
            (_, b'\n' | b'\r') => {
                self.row = 0;
                Place::FieldStart
            }
            (_, byte) if byte == self.delimiter => Place::FieldStart,
            _ => Place::Plain,
        };
    }
}

impl Read for Guarded<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(out)?;
        out[..got].iter().for_each(|byte| self.quotes.pass(*byte));
        if self.quotes.row > self.longest {
            return Err(io::Error::other(format!("has a row of more than {} bytes", self.longest)));
        }
        if got == 0 && !out.is_empty() && self.quotes.place == Place::Quoted {
            return Err(io::Error::other("ends inside of quotes; it was cut, or a quote is not doubled"));
        }
        Ok(got)
    }
}

impl<'a> Table<'a> {
    /// Opens a file with rows of at most `longest` bytes, and reads the names of its columns.
    pub fn open(input: &'a Input, longest: u64) -> Result<Self, DataError> {
        let refuse = |reason: String| DataError::BadLine { path: input.name.clone(), unit: "line", line: 1, reason };
        let mut text = TextReader::open(input)?;
        let delimiter = {
            let first = text.fill_buf().map_err(|source| unread(input, source))?;
            delimiter(first)
        };
        let guarded = Guarded { reader: text, quotes: Quotes { delimiter, ..Quotes::default() }, longest };
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(guarded);
        let header = reader.headers().map_err(|error| failed(input, &error))?;
        let columns: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
        if !columns.iter().any(|column| KNOWN_BY.contains(&column.as_str())) {
            return Err(refuse(format!(
                "names the columns {}, and none of {}",
                columns.join(", "),
                KNOWN_BY.join(", ")
            )));
        }
        let twice = |(at, column): &(usize, &String)| !column.is_empty() && columns[..*at].contains(column);
        if let Some((_, column)) = columns.iter().enumerate().find(twice) {
            return Err(refuse(format!("names the column {column:?} twice")));
        }
        Ok(Table { reader, columns, record: csv::StringRecord::new() })
    }

    /// Size and hash of what was read so far: of the whole file once there are no more rows.
    pub fn content(&self) -> Content {
        self.reader.get_ref().reader.content()
    }

    /// The next row; nothing after the last. An empty field is absent where
    /// it could not be a text.
    pub fn next(&mut self, input: &Input) -> Result<Option<Row>, DataError> {
        if !self.reader.read_record(&mut self.record).map_err(|error| failed(input, &error))? {
            return Ok(None);
        }
        let line = self.record.position().map_or(0, csv::Position::line);
        let field = |(column, text): (&String, &str)| match JSON.contains(&column.as_str()) {
            _ if text.trim().is_empty() && !TEXTS.contains(&column.as_str()) => Ok((column.clone(), Json::Null)),
            true => {
                let json = Json::parse(text.as_bytes());
                Ok((column.clone(), json.map_err(|reason| format!("column {column:?} holds no JSON: {reason}"))?))
            }
            false => Ok((column.clone(), text.into())),
        };
        let object: Result<Vec<_>, String> = self.columns.iter().zip(&self.record).map(field).collect();
        Ok(Some(Row { line, record: object.map(Json::Object) }))
    }
}

/// What stands between the fields of the first line: that by which it names a column that is read.
fn delimiter(text: &[u8]) -> u8 {
    let line = text.split(|byte| [b'\n', b'\r'].contains(byte)).next().unwrap_or_default();
    let names = |delimiter: &u8| {
        line.split(|byte| byte == delimiter).any(|name| {
            let name = String::from_utf8_lossy(name);
            KNOWN_BY.contains(&name.trim().trim_matches('"'))
        })
    };
    DELIMITERS.into_iter().find(names).unwrap_or(b',')
}

/// The error of a row that cannot be read.
fn failed(input: &Input, error: &csv::Error) -> DataError {
    let line = error.position().map_or(0, csv::Position::line);
    let reason = match error.kind() {
        csv::ErrorKind::Utf8 { .. } => "is not UTF-8".to_owned(),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("has {len} fields, and the first line names {expected_len} columns")
        }
        csv::ErrorKind::Io(error) => {
            return unread(input, io::Error::new(error.kind(), error.to_string()));
        }
        _ => error.to_string(),
    };
    DataError::BadLine { path: input.name.clone(), unit: "line", line, reason }
}

/// The error of a read that failed.
fn unread(input: &Input, source: io::Error) -> DataError {
    let path = input.name.clone();
    match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof if input.compressed => {
            DataError::Zstd { path, reason: source.to_string() }
        }
        _ => DataError::Read { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delimiter_is_that_which_names_a_column() {
        for (line, found) in [
            (&b"text,id\nx;y"[..], b','),
            (b"id;text\n", b';'),
            (b"id\t\"prompt\"\tcompletion", b'\t'),
            (b"text", b','),
            (b"a;b", b','),
        ] {
            assert_eq!(delimiter(line), found, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn quotes_are_followed_as_the_parser_follows_them() {
        let end = |text: &str| {
            let mut quotes = Quotes { delimiter: b',', ..Quotes::default() };
            text.bytes().for_each(|byte| quotes.pass(byte));
            quotes.place == Place::Quoted
        };
        assert!(end("a,\"b") && end("\"a\"\"") == end("\"a\"\"b") && end("\"x\n\ny"));
        assert!(!end("a,\"b\"") && !end("5\" disk,x") && !end("\"a\"\"b\"\n") && !end(""));
    }
}
