//! Attachments: named files stored unchanged, such as `tokenizer.json`.

use super::name;
use crate::error::FormatError;
use byteorder::{ByteOrder, LittleEndian, WriteBytesExt};
use std::collections::HashMap;
use std::ops::Range;

/// A named file to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Attachment<'a> {
    /// Its name, such as `tokenizer.json`, by the rules of tensor names.
    pub name: &'a str,
    /// Its content.
    pub bytes: &'a [u8],
}

/// Names and ranges of `count` attachments in `section`, which starts at byte `start` of the file; R16, R17, R32.
pub(crate) fn parse(section: &[u8], count: u32, start: u64) -> Result<Vec<(String, Range<u64>)>, FormatError> {
    let mut rest = section;
    let mut found = Vec::new();
    let mut names = HashMap::new();
    for index in 0..count as usize {
        let short = |needed, left: &[u8]| FormatError::AttachmentShort { index, needed, left: left.len() as u64 };
        let name = name::take(&mut rest).map_err(|needed| short(needed, rest))?;
        let name = name::check(name, "attachment", index)?;
        name::register(&mut names, name, "attachment", index)?;
        if rest.len() < 8 {
            return Err(short(8, rest));
        }
        let len = LittleEndian::read_u64(rest);
        rest = &rest[8..];
        if len > rest.len() as u64 {
            return Err(short(len, rest));
        }
        let at = start + (section.len() - rest.len()) as u64;
        rest = &rest[len as usize..];
        found.push((name.to_owned(), at..at + len));
    }
    match rest.len() {
        0 => Ok(found),
        left => Err(FormatError::AttachmentsLeft { left: left as u64 }),
    }
}

/// Appends an attachment.
pub(crate) fn put(out: &mut Vec<u8>, attachment: &Attachment<'_>) {
    name::put(out, attachment.name);
    out.write_u64::<LittleEndian>(attachment.bytes.len() as u64).expect("a vector takes every write");
    out.extend_from_slice(attachment.bytes);
}
