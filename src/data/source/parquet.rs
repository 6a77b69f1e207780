//! Rows of a Parquet file, one row group in memory at a time.

use super::corpus::Input;
use super::document::{KNOWN_BY, is_read};
use super::hashing_reader::{Content, HashingReader};
use super::json::Json;
use crate::error::DataError;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde::Deserialize;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

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
        // The others are not even decompressed.
        let wanted: Vec<_> = fields.iter().filter(|field| is_read(field.name())).cloned().collect();
        if !fields.iter().any(|field| KNOWN_BY.contains(&field.name())) {
            let names: Vec<_> = schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
            let reason = format!("has the columns {}, and none of {}", names.join(", "), KNOWN_BY.join(", "));
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
    pub(crate) fn next_row(&mut self) -> Result<Option<Json>, DataError> {
        let row = self.rows.next().transpose().map_err(|error| refuse(&self.path, &error))?;
        if row.is_none() {
            self.content = self.hash()?;
        }
        Ok(row.as_ref().map(object))
    }

    fn hash(&self) -> Result<Content, DataError> {
        let mut hashed = HashingReader::open(&self.input)?;
        let mut buffer = vec![0; 1 << 20];
        let failed = |source| DataError::Read { path: self.path.clone(), source };
        while hashed.read(&mut buffer).map_err(failed)? > 0 {}
        Ok(hashed.content())
    }
}

/// A row, or a value of several columns, with its keys in the order of the file.
fn object(row: &Row) -> Json {
    Json::Object(row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect())
}

fn value(field: &Field) -> Json {
    match field {
        Field::Group(row) => object(row),
        Field::ListInternal(list) => Json::List(list.elements().iter().map(value).collect()),
        Field::MapInternal(map) => {
            let key = |key: &Field| match key {
                Field::Str(text) => text.clone(),
                other => other.to_string(),
            };
            Json::Object(map.entries().iter().map(|(name, held)| (key(name), value(held))).collect())
        }
        // Writers that do not say that their bytes are texts.
        Field::Bytes(bytes) => str::from_utf8(bytes.data()).map_or(Json::Unkept, |text| Json::Text(text.into())),
        Field::Float(number) if !number.is_finite() => Json::Unkept,
        Field::Double(number) if !number.is_finite() => Json::Unkept,
        other => Json::deserialize(other.to_json_value()).unwrap_or(Json::Unkept),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    /// Writes one row of required texts and bytes, in the order of the schema's columns.
    fn rows(schema: &str, texts: &[&str]) -> Result<Option<Json>, DataError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.parquet");
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut writer = SerializedFileWriter::new(File::create(&path).unwrap(), schema, Default::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for text in texts {
            let mut column = group.next_column().unwrap().unwrap();
            let written = [ByteArray::from(*text)];
            column.typed::<ByteArrayType>().write_batch(&written, None, None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
        let input = super::super::corpus::Corpus::resolve(&[path.to_string_lossy().into_owned()])?.inputs.remove(0);
        Rows::open(&input)?.next_row()
    }

    #[test]
    fn keys_keep_the_order_of_the_file_and_bytes_are_texts() {
        let call = "required group call { required binary when (UTF8); required binary guests (UTF8); }";
        let schema = format!("message m {{ required group messages {{ {call} }} required binary text; }}");
        let row = rows(&schema, &["tonight", "4", "plain"]).unwrap().unwrap();
        assert_eq!(
            serde_json::to_string(&row).unwrap(),
            r#"{"messages":{"call":{"when":"tonight","guests":"4"}},"text":"plain"}"#
        );
    }

    #[test]
    fn columns_that_say_something_are_read() {
        let columns = ["system_prompt", "question", "response", "id", "options"];
        let schema: String = columns.iter().map(|name| format!("required binary {name} (UTF8); ")).collect();
        let row = rows(&format!("message m {{ {schema} }}"), &columns).unwrap().unwrap();
        let Json::Object(found) = row else { panic!("{row:?}") };
        let found: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(found, ["system_prompt", "question", "response", "options"]);
    }
}
