//! The safetensors container: eight bytes of length, a JSON header, data. Knows no model.
//!
//! The header is read by a visitor that keeps only what is needed, so memory is bounded by the header's length, and
//! that by the file's.

use super::Sink;
use super::gguf::TensorInfo;
use super::quants::Kind;
use crate::error::SafetensorsError;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use std::io::{self, Write};

/// Most bytes of a header: the format's own limit.
const MOST_HEADER: u64 = 100_000_000;

/// Most elements of a tensor.
const MOST_ELEMENTS: u64 = 1 << 48;

/// One entry of the header.
#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The entries in the order of the text; `__metadata__` is skipped.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = members.next_key::<String>()? {
                    if name == "__metadata__" {
                        members.next_value::<serde::de::IgnoredAny>()?;
                    } else {
                        entries.push((name, members.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// The tensors of a file, in the order of their data, which is not read.
///
/// # Errors
/// The first thing that is invalid.
pub fn parse(bytes: &[u8]) -> Result<Vec<TensorInfo>, SafetensorsError> {
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(SafetensorsError::Short { found: bytes.len() });
    };
    let len = u64::from_le_bytes(*len);
    let max = MOST_HEADER.min(rest.len() as u64);
    if len > max || len < 2 {
        return Err(SafetensorsError::HeaderLen { found: len, max });
    }
    let (header, data) = rest.split_at(len as usize);
    let Header(entries) =
        serde_json::from_slice(header).map_err(|e| SafetensorsError::Json { reason: shown(&e.to_string()) })?;
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    for (name, entry) in entries {
        let tensor = shown(&name);
        if !names.insert(tensor.clone()) {
            return Err(SafetensorsError::TensorTwice { tensor });
        }
        tensors.push(info(tensor, entry, data.len() as u64, 8 + len)?);
    }
    tensors.sort_by_key(|tensor| tensor.range.start);
    let mut expected = 8 + len;
    for tensor in &tensors {
        let begin = tensor.range.start as u64;
        if begin != expected {
            let origin = 8 + len;
            let (expected, begin) = (expected - origin, begin - origin);
            return Err(SafetensorsError::Hole { tensor: tensor.name.clone(), expected, begin });
        }
        expected = tensor.range.end as u64;
    }
    match bytes.len() as u64 - expected {
        0 => Ok(tensors),
        left => Err(SafetensorsError::Left { left }),
    }
}

/// A text in the `__metadata__` of a file that [`parse`] has read.
pub fn told(bytes: &[u8], key: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__")]
        told: serde_json::Map<String, serde_json::Value>,
    }
    let (len, rest) = bytes.split_first_chunk::<8>()?;
    let header = rest.get(..usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    let Header { told } = serde_json::from_slice(header).ok()?;
    told.get(key)?.as_str().map(str::to_owned)
}

fn info(tensor: String, entry: Entry, len: u64, origin: u64) -> Result<TensorInfo, SafetensorsError> {
    let kind = match entry.dtype.as_str() {
        "F32" => Kind::F32,
        "F16" => Kind::F16,
        "BF16" => Kind::Bf16,
        other => return Err(SafetensorsError::TensorType { tensor, found: shown(other) }),
    };
    let elements = entry.shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n));
    let elements = match elements {
        Some(n) if (1..=MOST_ELEMENTS).contains(&n) && (1..=4).contains(&entry.shape.len()) => n,
        _ => return Err(SafetensorsError::Dims { tensor, dims: entry.shape }),
    };
    let [begin, end] = entry.data_offsets;
    if begin > end || end > len {
        return Err(SafetensorsError::Outside { tensor, begin, end, len });
    }
    let (found, needed) = (end - begin, elements * kind.block_bytes() as u64);
    if found != needed {
        return Err(SafetensorsError::Len { tensor, found, needed });
    }
    let range = (origin + begin) as usize..(origin + end) as usize;
    Ok(TensorInfo { name: tensor, dims: entry.shape, kind, range })
}

/// Text from a file for a message: without control characters, at most 160 characters.
fn shown(text: &str) -> String {
    text.chars().take(160).flat_map(|c| if c.is_control() { c.escape_unicode().collect() } else { vec![c] }).collect()
}

/// The header of a file of these tensors, in this order: `(name, dims, kind)`, bytes of each.
pub fn header(tensors: &[(String, Vec<u64>, Kind)]) -> Vec<u8> {
    let mut told = serde_json::Map::new();
    told.insert("format".into(), "pt".into());
    header_with(told, tensors)
}

/// The same with other texts in its `__metadata__`.
pub fn header_with(told: serde_json::Map<String, serde_json::Value>, tensors: &[(String, Vec<u64>, Kind)]) -> Vec<u8> {
    let mut map = serde_json::Map::new();
    map.insert("__metadata__".into(), told.into());
    let mut end = 0;
    for (name, dims, kind) in tensors {
        let begin = end;
        end += dims.iter().product::<u64>() * kind.block_bytes() as u64;
        let entry = serde_json::json!({ "dtype": kind.name(), "shape": dims, "data_offsets": [begin, end] });
        map.insert(name.clone(), entry);
    }
    let mut json = serde_json::to_vec(&map).expect("a JSON value is JSON");
    // The data begins at a multiple of eight, which some readers require.
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(&json);
    out
}

/// Writes a file of these tensors; `send` sends the bytes of tensor `i`.
///
/// # Errors
/// Those of `out` and `send`.
pub fn write(
    out: &mut impl Write,
    tensors: &[(String, Vec<u64>, Kind)],
    send: &mut dyn FnMut(usize, &mut Sink) -> io::Result<()>,
) -> io::Result<()> {
    out.write_all(&header(tensors))?;
    (0..tensors.len()).try_for_each(|i| send(i, &mut |bytes| out.write_all(bytes)))
}
