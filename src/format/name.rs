//! Names of tensors and attachments: a length of 16 bits, then the bytes.

use super::header::cap;
use crate::error::FormatError;
use byteorder::{ByteOrder, LittleEndian, WriteBytesExt};
use std::collections::HashMap;

/// What a name belongs to, for messages.
pub(crate) type Owner = &'static str;

/// Takes the next name off `rest`; `None` if it does not hold all of it, with the bytes it would need.
pub(crate) fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], u64> {
    if rest.len() < 2 {
        return Err(2);
    }
    let len = usize::from(LittleEndian::read_u16(rest));
    if rest.len() < 2 + len {
        return Err(2 + len as u64);
    }
    let (name, after) = rest[2..].split_at(len);
    *rest = after;
    Ok(name)
}

/// Appends a name; one that is too long is cut, and refused by [`check`] when the layout is checked.
pub(crate) fn put(out: &mut Vec<u8>, name: &str) {
    let len = name.len().min(usize::from(u16::MAX));
    out.write_u16::<LittleEndian>(len as u16).expect("a vector takes every write");
    out.extend_from_slice(&name.as_bytes()[..len]);
}

/// R16: a name that is safe to print, to compare and to make a file name of.
pub(crate) fn check(name: &[u8], what: Owner, index: usize) -> Result<&str, FormatError> {
    if name.is_empty() || name.len() > cap::NAME {
        return Err(FormatError::NameLen { what, index, found: name.len(), max: cap::NAME });
    }
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"_-.".contains(b);
    if let Some(at) = name.iter().position(|b| !allowed(b)) {
        return Err(FormatError::NameByte { what, index, at, byte: name[at] });
    }
    if name.split(|&b| b == b'.').any(<[u8]>::is_empty) {
        return Err(FormatError::NameDots { what, index });
    }
    Ok(std::str::from_utf8(name).expect("ASCII is UTF-8"))
}

/// R17: registers a name under its index.
pub(crate) fn register(
    index: &mut HashMap<String, usize>,
    name: &str,
    what: Owner,
    at: usize,
) -> Result<(), FormatError> {
    match index.insert(name.into(), at) {
        Some(first) => Err(FormatError::NameTwice { what, first, second: at, name: name.into() }),
        None => Ok(()),
    }
}
