//! `dump --bytes`: every byte of the file, exactly once, in order.

use crate::cli::output::json_line;
use serde_json::json;
use std::io::{self, Write};
use tetrad::format::{
    Field, File, HEADER_FIELDS, PLANE_FIELDS, PlaneKind, TENSOR_FIELDS, codec_from_tag, element_name,
};

/// Metadata bytes shown on a line.
const TEXT: usize = 64;

/// A run of bytes and what it is.
struct Span {
    offset: u64,
    len: u64,
    what: String,
    value: String,
}

/// Walks through the file; what it has passed, it has shown.
struct Cursor<'f, 'a, 'w> {
    file: &'f File<'a>,
    at: u64,
    show: &'w mut dyn FnMut(Span) -> io::Result<()>,
}

impl Cursor<'_, '_, '_> {
    /// The next `len` bytes, described by `value`.
    fn next(&mut self, len: u64, what: String, value: impl FnOnce(&[u8]) -> String) -> io::Result<()> {
        let bytes = &self.file.bytes()[self.at as usize..][..len as usize];
        let span = Span { offset: self.at, len, what, value: value(bytes) };
        self.at += len;
        (self.show)(span)
    }

    /// A record, field by field.
    fn record(&mut self, prefix: &str, fields: &[Field]) -> io::Result<()> {
        for field in fields {
            self.next(field.size as u64, format!("{prefix}.{}", field.name), |bytes| describe(field.name, bytes))?;
        }
        Ok(())
    }

    /// Zeros up to `to`, if there are any.
    fn padding(&mut self, to: u64) -> io::Result<()> {
        if to == self.at { Ok(()) } else { self.next(to - self.at, "padding".into(), |_| "0".into()) }
    }

    /// A length prefix of `size` bytes and what it measures.
    fn prefixed(&mut self, what: &str, size: u64, value: impl FnOnce(&[u8]) -> String) -> io::Result<()> {
        let at = self.at as usize;
        let len = number(&self.file.bytes()[at..at + size as usize]);
        self.next(size, format!("{what} length"), |_| len.to_string())?;
        if len == 0 { Ok(()) } else { self.next(len, what.into(), value) }
    }

    fn walk(&mut self) -> io::Result<()> {
        let head = self.file.head();
        self.record("header", &HEADER_FIELDS)?;
        for i in 0..head.tensors.len() {
            self.record(&format!("tensor {i}"), &TENSOR_FIELDS)?;
        }
        for i in 0..head.planes.len() {
            self.record(&format!("plane {i}"), &PLANE_FIELDS)?;
        }
        for i in 0..head.tensors.len() {
            self.prefixed(&format!("name {i}"), 2, plain)?;
        }
        while self.at < head.sections.metadata.end {
            let len = (head.sections.metadata.end - self.at).min(TEXT as u64);
            self.next(len, "metadata".into(), plain)?;
        }
        for i in 0..head.attachments.len() {
            self.prefixed(&format!("attachment {i} name"), 2, plain)?;
            self.prefixed(&format!("attachment {i}"), 8, |bytes| format!("{} bytes", bytes.len()))?;
        }
        for plane in &head.planes {
            self.padding(plane.offset)?;
            let tensor = &head.tensors[plane.tensor];
            let what = format!("{}:{}", tensor.spec.name, tensor.plane_name(plane.kind));
            self.next(plane.len, what, |_| format!("{}, xxh3 {:016x}", plane.element_name(), plane.checksum))?;
        }
        // The walk is driven by the reader's own tables; that it ends here is what "exactly once" means.
        assert_eq!(self.at, head.file_len(), "the walk covers the file");
        Ok(())
    }
}

/// Little-endian, of up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
}

/// Printable ASCII as it is, everything else escaped; bytes that are no UTF-8 on their own (a line may cut a character) too.
fn plain(bytes: &[u8]) -> String {
    let shown = |c: char| if (' '..='~').contains(&c) { c.to_string() } else { c.escape_unicode().to_string() };
    match std::str::from_utf8(bytes) {
        Ok(text) => text.chars().map(shown).collect(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// A field of a record, by its name.
fn describe(name: &str, bytes: &[u8]) -> String {
    let n = number(&bytes[..bytes.len().min(8)]);
    let tag = |known: Option<String>| known.map_or(n.to_string(), |known| format!("{n} = {known}"));
    match name {
        "magic" => bytes.escape_ascii().to_string(),
        "checksum" => format!("{n:016x}"),
        "reserved" => "0".into(),
        "storage" => tag(codec_from_tag(n as u8).map(|s| s.name().into())),
        "kind" => format!("0x{n:02x} = {}", PlaneKind::from_tag(n as u8).name()),
        "element" => tag(Some(element_name(n as u8))),
        "dims" => format!("{:?}", bytes.chunks(8).map(number).collect::<Vec<_>>()),
        _ => n.to_string(),
    }
}

fn walk(file: &File<'_>, show: &mut dyn FnMut(Span) -> io::Result<()>) -> io::Result<()> {
    Cursor { file, at: 0, show }.walk()
}

/// `offset  length  what  value`, one line per run.
pub(super) fn text(out: &mut dyn Write, file: &File<'_>) -> io::Result<()> {
    walk(file, &mut |span| {
        let Span { offset, len, what, value } = span;
        writeln!(out, "{offset:>10}  {len:>8}  {what:<28}  {value}")
    })
}

/// One JSON array, written run by run.
pub(super) fn json(out: &mut dyn Write, file: &File<'_>) -> io::Result<()> {
    write!(out, "[")?;
    walk(file, &mut |span| {
        let value = json!({ "offset": span.offset, "len": span.len, "what": span.what, "value": span.value });
        write!(out, "{}\n{}", if span.offset == 0 { "" } else { "," }, json_line(&value))
    })?;
    writeln!(out, "\n]")
}
