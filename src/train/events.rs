//! TensorBoard event files: the numbers of `metrics.jsonl` as scalars.
//!
//! A file is a sequence of records: the length of the data and its checksum, the data and its checksum. The data is a
//! message `Event` of protocol buffers (`tensorflow/core/util/event.proto`), of which three fields beside the time are
//! written: the version of the file, a summary with one scalar, and the mark that later steps of earlier files count no
//! more.

use super::metrics::Line;
use crate::error::StoreError;
use crate::store::{Output, remove, time};
use std::io::{self, Write};
use std::path::Path;

/// What a file of this version begins with.
const VERSION: &str = "brain.Event:2";

/// How TensorBoard tells its files.
const PREFIX: &str = "events.out.tfevents.";

/// Wire types of protocol buffers.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

/// An event file that is being written.
#[derive(Debug)]
pub struct Events {
    output: Output,
}

impl Events {
    /// Starts a file in `dir` for the steps after `step`: what TensorBoard has read of later ones is dropped there. A run from
    /// step 0 deletes the files of the run before it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(dir: &Path, step: u64) -> Result<Self, StoreError> {
        let now = time();
        if step == 0 {
            remove_old(dir).map_err(|e| StoreError::io(dir, "delete the events of an earlier run there", e))?;
        }
        // TensorBoard reads the files of a folder in the order of their names.
        let path = dir.join(format!("{PREFIX}{:010}.{:09}.run", now.as_secs(), now.subsec_nanos()));
        let output = Output::create_new(&path);
        let output = output.map_err(|e| StoreError::io(&path, "keep TensorBoard's events there", e))?;
        let mut events = Self { output };
        let mut first = stamp(0);
        bytes(&mut first, 3, VERSION.as_bytes());
        events.record(&first)?;
        if step > 0 {
            // SessionLog { status: START }
            let mut start = stamp(step + 1);
            bytes(&mut start, 7, &[1 << 3, 1]);
            events.record(&start)?;
        }
        Ok(events)
    }

    /// Appends every number of a line.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&mut self, line: &Line) -> Result<(), StoreError> {
        let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(line) else { return Ok(()) };
        for (name, value) in &fields {
            if let (Some(value), Some(tag)) = (value.as_f64(), tag(name)) {
                let (mut scalar, mut summary, mut event) = (Vec::new(), Vec::new(), stamp(line.step));
                bytes(&mut scalar, 1, tag.as_bytes());
                key(&mut scalar, 2, FIXED32);
                scalar.extend((value as f32).to_le_bytes());
                bytes(&mut summary, 1, &scalar);
                bytes(&mut event, 5, &summary);
                self.record(&event)?;
            }
        }
        Ok(())
    }

    /// One record; one write, so that a reader never sees half of it.
    fn record(&mut self, data: &[u8]) -> Result<(), StoreError> {
        let length = (data.len() as u64).to_le_bytes();
        let record = [&length[..], &masked(&length), data, &masked(data)].concat();
        self.output.write_all(&record).map_err(|e| StoreError::io(self.output.path(), "append to it", e))
    }

    /// Returns once every record is on the disk.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.output.sync().map_err(|e| StoreError::io(self.output.path(), "sync it", e))
    }
}

fn remove_old(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// What a metric is called on TensorBoard, where the part before the slash is the group it is shown in; nothing for what is
/// no curve.
fn tag(name: &str) -> Option<String> {
    match name {
        "step" | "time" | "event" => None,
        name if Line::CODES.contains(&name) => Some(format!("codes/{name}")),
        name => match name.strip_prefix("val_") {
            Some(name) => Some(format!("validation/{name}")),
            None => Some(format!("train/{name}")),
        },
    }
}

/// An event with its time and step.
fn stamp(step: u64) -> Vec<u8> {
    let mut event = Vec::new();
    key(&mut event, 1, FIXED64);
    event.extend(time().as_secs_f64().to_le_bytes());
    key(&mut event, 2, VARINT);
    varint(&mut event, step);
    event
}

fn key(out: &mut Vec<u8>, field: u32, wire: u32) {
    varint(out, u64::from(field << 3 | wire));
}

fn bytes(out: &mut Vec<u8>, field: u32, content: &[u8]) {
    key(out, field, BYTES);
    varint(out, content.len() as u64);
    out.extend(content);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The checksum of a record: CRC-32C, rotated and shifted, so that one of data that holds checksums differs from them.
fn masked(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields of a message: number, wire type, and the content.
    fn fields(mut data: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
        fn number(data: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = data[0];
                *data = &data[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        }
        let mut found = Vec::new();
        while !data.is_empty() {
            let key = number(&mut data);
            let length = match key & 7 {
                1 => 8,
                2 => number(&mut data) as usize,
                5 => 4,
                _ => {
                    found.push((key >> 3, 0, number(&mut data).to_le_bytes().to_vec()));
                    continue;
                }
            };
            found.push((key >> 3, key & 7, data[..length].to_vec()));
            data = &data[length..];
        }
        found
    }

    /// The messages of a file, each checksum checked bit by bit.
    fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
        let crc = |data: &[u8]| {
            let mut crc = !0u32;
            for byte in data {
                crc ^= u32::from(*byte);
                for _ in 0..8 {
                    crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                }
            }
            let crc = !crc;
            crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
        };
        let mut found = Vec::new();
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            assert_eq!(file[8..12], crc(&file[..8]));
            let data = &file[12..12 + length];
            assert_eq!(file[12 + length..16 + length], crc(data));
            found.push(data.to_vec());
            file = &file[16 + length..];
        }
        found
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = Events::create(dir.path(), 300).unwrap();
        let line = Line { step: 301, loss: Some(2.5), lr: Some(1e-3), event: Some("x".into()), ..Line::default() };
        events.write(&line).unwrap();
        events.write(&Line { step: 301, val_loss: Some(2.25), moved_codes: Some(0.5), ..Line::default() }).unwrap();
        let records = records(&std::fs::read(events.output.path()).unwrap());
        let messages: Vec<_> = records.iter().map(|record| fields(record)).collect();
        assert_eq!(messages[0][2], (3, 2, VERSION.into()), "the version comes first");
        assert_eq!(messages[1][1..], [(2, 0, 301u64.to_le_bytes().to_vec()), (7, 2, vec![8, 1])]);
        let mut scalars = Vec::new();
        for message in &messages[2..] {
            let time = f64::from_le_bytes(message[0].2[..].try_into().unwrap());
            assert!(message[0].0 == 1 && time > 1.7e9, "seconds since 1970");
            assert_eq!(message[1], (2, 0, 301u64.to_le_bytes().to_vec()));
            let value = &fields(&message[2].2)[0].2;
            let value = fields(value);
            let number = f32::from_le_bytes(value[1].2[..].try_into().unwrap());
            scalars.push((String::from_utf8(value[0].2.clone()).unwrap(), number));
        }
        let expected = [("train/loss", 2.5), ("train/lr", 1e-3), ("validation/loss", 2.25), ("codes/moved_codes", 0.5)];
        scalars.sort_by(|a, b| a.0.cmp(&b.0));
        let mut expected = expected.map(|(tag, value)| (tag.to_owned(), value));
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(scalars, expected);
    }

    #[test]
    fn the_checksum_is_that_of_the_published_vector() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }
}
