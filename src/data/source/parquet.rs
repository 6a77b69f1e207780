//! Rows of a Parquet file, one row group in memory at a time.

use super::corpus::Input;
use super::hashing_reader::{Content, HashingReader};
use crate::error::DataError;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

/// Columns of which a row needs one.
const COLUMNS: [&str; 8] =
    ["text", "prompt", "completion", "messages", "conversations", "instruction", "question", "query"];

/// Columns that are read beside those; the others are not even decompressed.
const BESIDE: [&str; 16] = [
    "system",
    "tools",
    "documents",
    "chat_template_kwargs",
    "input",
    "context",
    "output",
    "response",
    "answer",
    "history",
    "functions",
    "images",
    "image",
    "videos",
    "audios",
    "rejected",
];

/// The rows of a file.
pub(crate) struct Rows {
    path: PathBuf,
    rows: RowIter<'static>,
    /// What the file held, known once all rows were read: the reader looks at pieces here and there.
    content: Content,
    input: Input,
}

fn refuse(path: &std::path::Path, error: &ParquetError) -> DataError {
    let reason = format!("not a usable Parquet file: {error}");
    DataError::Read { path: path.into(), source: std::io::Error::other(reason) }
}

impl Rows {
    /// Opens a file that has at least one of the columns.
    pub(crate) fn open(input: &Input) -> Result<Self, DataError> {
        let path = &input.name;
        let read = |source| DataError::Read { path: path.clone(), source };
        let reader = SerializedFileReader::new(File::open(path).map_err(read)?).map_err(|e| refuse(path, &e))?;
        let schema = reader.metadata().file_metadata().schema();
        let fields = schema.get_fields();
        let read_of_it = |name: &str| COLUMNS.contains(&name) || BESIDE.contains(&name);
        let wanted: Vec<_> = fields.iter().filter(|field| read_of_it(field.name())).cloned().collect();
        if !fields.iter().any(|field| COLUMNS.contains(&field.name())) {
            let names: Vec<_> = schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
            let reason = format!("has the columns {}, and none of {}", names.join(", "), COLUMNS.join(", "));
            return Err(read(std::io::Error::other(reason)));
        }
        let projection = parquet::schema::types::Type::group_type_builder(schema.name()).with_fields(wanted).build();
        let projection = projection.map_err(|e| refuse(path, &e))?;
        let rows = RowIter::from_file_into(Box::new(reader)).project(Some(projection)).map_err(|e| refuse(path, &e))?;
        Ok(Rows { path: path.clone(), rows, content: Content { bytes: 0, hash: 0 }, input: input.clone() })
    }

    /// Size and hash of the file, once there are no more rows.
    pub(crate) fn content(&self) -> Content {
        self.content
    }

    /// The next row as an object.
    pub(crate) fn next_row(&mut self) -> Result<Option<Value>, DataError> {
        let row = self.rows.next().transpose().map_err(|error| refuse(&self.path, &error))?;
        if row.is_none() {
            self.content = self.hash()?;
        }
        Ok(row.map(|row| row.to_json_value()))
    }

    fn hash(&self) -> Result<Content, DataError> {
        let mut hashed = HashingReader::open(&self.input)?;
        let mut buffer = vec![0; 1 << 20];
        let failed = |source| DataError::Read { path: self.path.clone(), source };
        while hashed.read(&mut buffer).map_err(failed)? > 0 {}
        Ok(hashed.content())
    }
}
