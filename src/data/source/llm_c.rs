//! Tokens as llm.c keeps them: a header of 256 numbers, then GPT-2's ids in two bytes each or LLaMA 3's in four.

use super::corpus::Input;
use super::hashing_reader::{Content, HashingReader};
use crate::error::DataError;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// Bytes before the first token.
const HEADER: usize = 1024;

/// First number, second number and bytes of an id of the kinds.
const KINDS: [(u32, u32, usize); 2] = [(20240520, 1, 2), (20240801, 7, 4)];

/// Tokens that are read at a time.
const AT_ONCE: u64 = 1 << 20;

/// The tokens of one file.
pub(crate) struct Reader<'a> {
    path: &'a Path,
    reader: HashingReader<'a>,
    /// Bytes of one id.
    pub id_bytes: usize,
    left: u64,
}

impl<'a> Reader<'a> {
    /// Opens `input` and checks its header and its length.
    pub(crate) fn open(input: &'a Input) -> Result<Self, DataError> {
        let path = input.name.as_path();
        let mut reader = HashingReader::open(input)?;
        let size = std::fs::metadata(path).map_err(|source| DataError::Read { path: path.into(), source })?.len();
        let mut header = [0; HEADER];
        let refuse = |reason: String| DataError::LlmC { path: path.into(), reason };
        reader.read_exact(&mut header).map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => refuse(format!("{size} bytes, and llm.c's header alone has {HEADER}")),
            _ => DataError::Read { path: path.into(), source },
        })?;
        let number = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[4 * i + byte]));
        let (magic, version, count) = (number(0), number(1), u64::from(number(2)));
        let kind = KINDS.iter().find(|(known, ..)| *known == magic).ok_or_else(|| {
            refuse(format!("begins with {magic}, and tokens of llm.c with 20240520 (GPT-2) or 20240801 (LLaMA 3)"))
        })?;
        if version != kind.1 {
            return Err(refuse(format!("has version {version}, and {} is read", kind.1)));
        }
        let needed = HEADER as u64 + count * kind.2 as u64;
        if size != needed {
            let verdict = if size < needed { "it was cut" } else { "it holds something else" };
            return Err(refuse(format!("{size} bytes, and its {count} tokens make {needed}; {verdict}")));
        }
        Ok(Reader { path, reader, id_bytes: kind.2, left: count })
    }

    /// Size and hash of what was read so far.
    pub(crate) fn content(&self) -> Content {
        self.reader.content()
    }

    /// The next ids; none after the last.
    pub(crate) fn next_ids(&mut self) -> Result<Vec<u32>, DataError> {
        let count = self.left.min(AT_ONCE);
        self.left -= count;
        let mut bytes = vec![0; count as usize * self.id_bytes];
        let got = self.reader.read_exact(&mut bytes);
        got.map_err(|source| DataError::Read { path: self.path.into(), source })?;
        let id = |bytes: &[u8]| bytes.iter().rev().fold(0, |id, byte| id << 8 | u32::from(*byte));
        Ok(bytes.chunks_exact(self.id_bytes).map(id).collect())
    }
}
