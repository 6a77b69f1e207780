//! Reading a file and its hash in one pass.

use super::corpus::Input;
use super::zstd::ZstdReader;
use crate::error::DataError;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use xxhash_rust::xxh3::Xxh3;

/// Size and hash of a file: what must not change between the pass that looks for prepared tokens and the pass that
/// prepares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub bytes: u64,
    pub hash: u128,
}

/// A buffered reader of an input that hashes what passes through.
pub(crate) struct HashingReader<'a> {
    inner: Box<dyn BufRead + Send + 'a>,
    hash: Xxh3,
    bytes: u64,
}

impl<'a> HashingReader<'a> {
    pub(crate) fn open(input: &'a Input) -> Result<Self, DataError> {
        let inner: Box<dyn BufRead + Send + 'a> = match &input.held {
            Some(bytes) => Box::new(&bytes[..]),
            None => {
                let file = File::open(&input.name);
                let file = file.map_err(|source| DataError::Read { path: input.name.clone(), source })?;
                Box::new(BufReader::with_capacity(1 << 20, file))
            }
        };
        Ok(HashingReader { inner, hash: Xxh3::new(), bytes: 0 })
    }

    /// Size and hash of what was read so far.
    pub(crate) fn content(&self) -> Content {
        Content { bytes: self.bytes, hash: self.hash.digest128() }
    }
}

/// U+FEFF as the editors of Windows put it before a text: a mark of the encoding, and no part of the text.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The text that an input holds, decompressed where it is compressed and without its byte order mark; the hash is that of
/// the file as it lies.
pub(crate) struct TextReader<'a> {
    encoded: Encoded<'a>,
    /// Whether the beginning was looked at.
    begun: bool,
    /// Bytes of the mark that was passed over.
    skipped: u64,
}

enum Encoded<'a> {
    Plain(Box<HashingReader<'a>>),
    Zstd(Box<ZstdReader<HashingReader<'a>>>),
}

impl<'a> TextReader<'a> {
    pub(crate) fn open(input: &'a Input) -> Result<Self, DataError> {
        let file = HashingReader::open(input)?;
        let encoded = match input.compressed {
            true => Encoded::Zstd(Box::new(ZstdReader::new(file))),
            false => Encoded::Plain(Box::new(file)),
        };
        Ok(TextReader { encoded, begun: false, skipped: 0 })
    }

    /// Size and hash of what was read of the file so far.
    pub(crate) fn content(&self) -> Content {
        match &self.encoded {
            Encoded::Plain(file) => file.content(),
            Encoded::Zstd(frames) => frames.source().content(),
        }
    }

    /// Bytes before the text.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The error of a read that failed.
    pub(crate) fn error(&self, path: &std::path::Path, source: io::Error) -> DataError {
        match (&self.encoded, source.kind()) {
            (Encoded::Zstd(_), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                DataError::Zstd { path: path.into(), reason: source.to_string() }
            }
            _ => DataError::Read { path: path.into(), source },
        }
    }
}

impl Read for TextReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.fill_buf()?.read(out)?;
        self.consume(got);
        Ok(got)
    }
}

impl BufRead for TextReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if !std::mem::replace(&mut self.begun, true) {
            let head = self.encoded.reader().fill_buf()?;
            if is_utf_16(head) {
                let advice = "is UTF-16, and UTF-8 is read; convert it, for example with `iconv -f UTF-16 -t UTF-8`";
                return Err(io::Error::other(advice));
            }
            if head.starts_with(BYTE_ORDER_MARK) {
                self.skipped = BYTE_ORDER_MARK.len() as u64;
                self.encoded.reader().consume(BYTE_ORDER_MARK.len());
            }
        }
        self.encoded.reader().fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.encoded.reader().consume(amount);
    }
}

/// Whether a text has two bytes to a character. Without a mark that is told by every other byte of its beginning, which is
/// zero: as UTF-8 it would be a text, and zeros be learned.
fn is_utf_16(head: &[u8]) -> bool {
    let head = &head[..head.len().min(64) & !1];
    let zeros = |from: usize| head.iter().skip(from).step_by(2).all(|byte| *byte == 0);
    head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") || (head.len() >= 8 && zeros(0) != zeros(1))
}

impl Encoded<'_> {
    fn reader(&mut self) -> &mut dyn BufRead {
        match self {
            Encoded::Plain(file) => &mut **file,
            Encoded::Zstd(frames) => &mut **frames,
        }
    }
}

impl Read for HashingReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(out)?;
        self.hash.update(&out[..got]);
        self.bytes += got as u64;
        Ok(got)
    }
}

impl BufRead for HashingReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        // What is consumed is what `fill_buf` gave last, and it gives the same again without reading.
        if let Ok(bytes) = self.inner.fill_buf() {
            self.hash.update(&bytes[..amount]);
            self.bytes += amount as u64;
        }
        self.inner.consume(amount);
    }
}
