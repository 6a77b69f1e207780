//! Zstandard: a packed file as a stream of what it holds, one block at a time.

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{self, BufRead, Read};

/// The largest window that is unpacked, what `zstd --long=27` makes: it is held in memory.
const LARGEST_WINDOW: u64 = 1 << 27;

/// Bytes that are given out at a time.
const BUFFER: usize = 1 << 17;

/// Unpacks all frames of `source`, one after the other.
pub(crate) struct ZstdReader<R> {
    source: R,
    decoder: FrameDecoder,
    /// Whether a frame is being unpacked.
    inside: bool,
    buffer: Vec<u8>,
    /// What of the buffer is not yet consumed.
    at: usize,
    filled: usize,
}

fn wrong(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

impl<R: BufRead> ZstdReader<R> {
    pub(crate) fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(LARGEST_WINDOW);
        ZstdReader { source, decoder, inside: false, buffer: vec![0; BUFFER], at: 0, filled: 0 }
    }

    /// The packed stream.
    pub(crate) fn source(&self) -> &R {
        &self.source
    }

    /// Puts more into the empty buffer; nothing at the end of the last frame.
    fn refill(&mut self) -> io::Result<()> {
        loop {
            if self.inside {
                (self.at, self.filled) = (0, self.decoder.read(&mut self.buffer)?);
                if self.filled > 0 {
                    return Ok(());
                }
                if !self.decoder.is_finished() {
                    let one = BlockDecodingStrategy::UptoBlocks(1);
                    self.decoder.decode_blocks(&mut self.source, one).map_err(wrong)?;
                    continue;
                }
                self.inside = false;
                let (told, found) = (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
                if told.is_some() && told != found {
                    return Err(wrong("its checksum does not match"));
                }
            }
            if self.source.fill_buf()?.is_empty() {
                return Ok(());
            }
            self.begin()?;
        }
    }

    /// Reads the head of a frame, or skips one that holds something else.
    fn begin(&mut self) -> io::Result<()> {
        match self.decoder.reset(&mut self.source) {
            Ok(()) => {
                self.inside = true;
                Ok(())
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let skipped = io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
                if skipped == u64::from(length) { Ok(()) } else { Err(wrong("it ends inside of a frame")) }
            }
            Err(error) => Err(wrong(error)),
        }
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.fill_buf()?.read(out)?;
        self.consume(got);
        Ok(got)
    }
}

impl<R: BufRead> BufRead for ZstdReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.filled {
            self.refill()?;
        }
        Ok(&self.buffer[self.at..self.filled])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}
