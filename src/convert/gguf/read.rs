//! The reader: checks everything but the tensors' contents, which it does not read. Memory and time are bounded by the
//! length of the file, whatever its counts say.

use super::cursor::Cursor;
use super::value::Value;
use crate::convert::quants::{Kind, tag_name};
use crate::error::GgufError;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Most elements of a tensor.
const MOST_ELEMENTS: u64 = 1 << 48;

/// A tensor: name, shape, type, range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its dimensions, the contiguous one last (GGUF itself writes it first).
    pub dims: Vec<u64>,
    /// Its type.
    pub kind: Kind,
    /// Its range of bytes in the file.
    pub range: Range<usize>,
}

/// An opened file.
#[derive(Debug)]
pub struct Gguf<'a> {
    /// Keys and values, in file order.
    pub metadata: Vec<(&'a str, Value<'a>)>,
    index: HashMap<&'a str, usize>,
    /// Tensors, in file order.
    pub tensors: Vec<TensorInfo>,
}

impl<'a> Gguf<'a> {
    /// Opens a file.
    ///
    /// # Errors
    /// The first thing that is invalid.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(bytes);
        if !bytes.starts_with(b"GGUF") {
            return Err(GgufError::Magic { found: bytes[..bytes.len().min(4)].to_vec() });
        }
        cursor.array::<4>("the magic number")?;
        let version = cursor.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version { found: version });
        }
        let tensor_count = cursor.u64("the number of tensors")?;
        let key_count = cursor.u64("the number of keys")?;
        let (metadata, index) = keys(&mut cursor, key_count)?;
        let alignment = match index.get("general.alignment").map(|&i| metadata[i].1) {
            None => 32,
            Some(value) => value
                .count()
                .filter(|n| n.is_power_of_two() && *n <= 1 << 16)
                .ok_or_else(|| GgufError::Alignment { found: value.describe() })?,
        };
        let tensors = tensors(&mut cursor, tensor_count, alignment)?;
        Ok(Self { metadata, index, tensors })
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.index.get(key).map(|&i| self.metadata[i].1)
    }

    /// A required key, read by `read`.
    ///
    /// # Errors
    /// If it is missing or is not `needed`.
    pub fn need<T>(&self, key: &str, needed: &str, read: impl Fn(Value<'a>) -> Option<T>) -> Result<T, GgufError> {
        self.maybe(key, needed, read)?.ok_or_else(|| GgufError::KeyMissing { key: key.into() })
    }

    /// An optional key.
    ///
    /// # Errors
    /// If it is not `needed`.
    pub fn maybe<T>(
        &self,
        key: &str,
        needed: &str,
        read: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || GgufError::KeyValue { key: key.into(), found: value.describe(), needed: needed.into() };
        read(value).ok_or_else(wrong).map(Some)
    }
}

/// Keys with values, and where each is.
type Keys<'a> = (Vec<(&'a str, Value<'a>)>, HashMap<&'a str, usize>);

fn keys<'a>(cursor: &mut Cursor<'a>, count: u64) -> Result<Keys<'a>, GgufError> {
    // A key takes at least its length, its type and one byte.
    cursor.must_hold("keys", count, 13)?;
    let (mut metadata, mut index) = (Vec::new(), HashMap::new());
    for _ in 0..count {
        let key = cursor.text("a key")?;
        let kind = cursor.u32("a value's type")?;
        let value = cursor.value(&shown(key), kind, 0)?;
        if index.insert(key, metadata.len()).is_some() {
            return Err(GgufError::KeyTwice { key: shown(key) });
        }
        metadata.push((key, value));
    }
    Ok((metadata, index))
}

fn tensors(cursor: &mut Cursor<'_>, count: u64, alignment: u64) -> Result<Vec<TensorInfo>, GgufError> {
    // A record takes at least two lengths, a count, a type and an offset.
    cursor.must_hold("tensors", count, 32)?;
    let (mut found, mut names) = (Vec::new(), HashSet::new());
    for _ in 0..count {
        let (info, offset) = record(cursor)?;
        if !names.insert(info.name.clone()) {
            return Err(GgufError::TensorTwice { tensor: info.name });
        }
        if offset % alignment != 0 {
            return Err(GgufError::Unaligned { tensor: info.name, offset, alignment });
        }
        found.push((info, offset));
    }
    let start = (cursor.at as u64).div_ceil(alignment) * alignment;
    let end = (cursor.bytes.len() as u64).saturating_sub(start);
    let mut tensors = Vec::new();
    for (mut info, offset) in found {
        let len = info.range.len() as u64;
        if offset.checked_add(len).is_none_or(|last| last > end) {
            return Err(GgufError::Outside { tensor: info.name, offset, len, end });
        }
        let first = (start + offset) as usize;
        info.range = first..first + len as usize;
        tensors.push(info);
    }
    disjoint(&tensors)?;
    Ok(tensors)
}

fn disjoint(tensors: &[TensorInfo]) -> Result<(), GgufError> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.range.start);
    match order.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        None => Ok(()),
        Some(pair) => Err(GgufError::Overlap { first: pair[0].name.clone(), second: pair[1].name.clone() }),
    }
}

/// One tensor with the offset of its data; its range still begins at zero.
fn record(cursor: &mut Cursor<'_>) -> Result<(TensorInfo, u64), GgufError> {
    let name = shown(cursor.text("a tensor's name")?);
    let count = cursor.u32("a tensor's dimensions")?;
    if !(1..=4).contains(&count) {
        return Err(GgufError::DimCount { tensor: name, found: count });
    }
    let mut dims = Vec::new();
    for _ in 0..count {
        dims.push(cursor.u64("a tensor's dimensions")?);
    }
    dims.reverse();
    let elements = dims.iter().try_fold(1u64, |product, &n| product.checked_mul(n));
    if !elements.is_some_and(|n| (1..=MOST_ELEMENTS).contains(&n)) {
        return Err(GgufError::Dims { tensor: name, dims });
    }
    let tag = cursor.u32("a tensor's type")?;
    let Some(kind) = Kind::from_tag(tag) else {
        return Err(GgufError::TensorType { tensor: name, found: tag_name(tag) });
    };
    let (cols, block) = (dims[dims.len() - 1], kind.block() as u64);
    if cols % block != 0 {
        return Err(GgufError::Block { tensor: name, cols, kind: kind.name(), block });
    }
    let bytes = elements.unwrap_or(0) / block * kind.block_bytes() as u64;
    let offset = cursor.u64("a tensor's offset")?;
    Ok((TensorInfo { name, dims, kind, range: 0..bytes as usize }, offset))
}

/// A name from a file without control characters, at most 120 characters.
fn shown(name: &str) -> String {
    name.chars().take(120).flat_map(|c| if c.is_control() { c.escape_unicode().collect() } else { vec![c] }).collect()
}
