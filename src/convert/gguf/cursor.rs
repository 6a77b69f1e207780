//! Sequential reading of a GGUF file.

use crate::error::GgufError;

/// Bytes and the position of the next one.
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    pub(super) fn short(&self, what: &'static str, needed: u64) -> GgufError {
        GgufError::Truncated { what, at: self.at, needed, left: self.bytes.len() - self.at }
    }

    pub(super) fn take(&mut self, what: &'static str, len: u64) -> Result<&'a [u8], GgufError> {
        if len > self.rest().len() as u64 {
            return Err(self.short(what, len));
        }
        let taken = &self.rest()[..len as usize];
        self.at += len as usize;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let bytes = self.take(what, N as u64)?;
        Ok(bytes.try_into().expect("as many were taken"))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(super) fn text(&mut self, what: &'static str) -> Result<&'a str, GgufError> {
        let len = self.u64(what)?;
        let at = self.at;
        std::str::from_utf8(self.take(what, len)?).map_err(|_| GgufError::Utf8 { what, at })
    }

    /// Refuses a count of items, each of at least `least` bytes, that exceeds the bytes left.
    pub(super) fn must_hold(&self, what: &'static str, found: u64, least: u64) -> Result<(), GgufError> {
        let max = self.rest().len() as u64 / least;
        if found <= max { Ok(()) } else { Err(GgufError::Count { what, found, max }) }
    }
}
