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
        let inner: Box<dyn BufRead + Send> = match input.bundled {
            Some(bytes) => Box::new(bytes),
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

/// What an input holds, unpacked where it is packed; the hash is that of the file as it lies.
pub(crate) enum TextReader<'a> {
    Plain(Box<HashingReader<'a>>),
    Zstd(Box<ZstdReader<HashingReader<'a>>>),
}

impl<'a> TextReader<'a> {
    pub(crate) fn open(input: &'a Input) -> Result<Self, DataError> {
        let file = HashingReader::open(input)?;
        Ok(if input.compressed {
            TextReader::Zstd(Box::new(ZstdReader::new(file)))
        } else {
            TextReader::Plain(Box::new(file))
        })
    }

    /// Size and hash of what was read of the file so far.
    pub(crate) fn content(&self) -> Content {
        match self {
            TextReader::Plain(file) => file.content(),
            TextReader::Zstd(unzip) => unzip.source().content(),
        }
    }

    /// The error of a read that failed.
    pub(crate) fn error(&self, path: &std::path::Path, source: io::Error) -> DataError {
        match (self, source.kind()) {
            (TextReader::Zstd(_), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                DataError::Zstd { path: path.into(), reason: source.to_string() }
            }
            _ => DataError::Read { path: path.into(), source },
        }
    }
}

impl Read for TextReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            TextReader::Plain(file) => file.read(out),
            TextReader::Zstd(unzip) => unzip.read(out),
        }
    }
}

impl BufRead for TextReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            TextReader::Plain(file) => file.fill_buf(),
            TextReader::Zstd(unzip) => unzip.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        match self {
            TextReader::Plain(file) => file.consume(amount),
            TextReader::Zstd(unzip) => unzip.consume(amount),
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
