//! Prepared tokens as a file: layout, writing, and reading without trust.
//!
//! ```text
//! tokens    u16 or u32 each     all inputs, one after the other; of samples u32 with two marks (see `tokens.rs`)
//! sources   u64 each            tokens of each input
//! trailer   64 bytes            `Trailer`; its last field is the xxh3-64 of everything before it
//! ```
//! A shard whose making was interrupted is kept in the same layout under another magic; its table has the finished inputs
//! only, and the rest of the tokens are those of the next input, made of so many batches of it.
//!
//! All numbers are little-endian. The counts stand at the end because they are known at the end: the file is written
//! in one pass. A cache is worth nothing by itself, so whatever is wrong with one it is made again.

use super::tokens::{Bytes, START, TARGET, Tokens, Width};
use crate::store::Map;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};
use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 8] = *b"ttrdtoks";
/// The magic of an unfinished shard. Its last digit is raised when texts are cut into other batches.
const UNFINISHED: [u8; 8] = *b"ttrdpar1";

/// Layout of text, and part of every shard's key: raised when the layout changes, or the tokens of the same text.
pub(crate) const VERSION: u32 = 1;
/// Layout of samples, whose tokens have marks.
pub(crate) const MARKED_VERSION: u32 = 2;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Trailer {
    magic: [u8; 8],
    version: U32,
    /// Bytes of one id: 2 or 4.
    width: U32,
    tokens: U64,
    /// Bytes of text that the tokens stand for.
    text_bytes: U64,
    /// What the tokens were made of.
    key: U128,
    sources: U32,
    /// Of an unfinished shard: batches that are done of the next input.
    batches: U32,
    checksum: U64,
}

/// Size of `Trailer`.
const TRAILER: usize = 64;
const _: () = assert!(size_of::<Trailer>() == TRAILER);

/// Prepared tokens, checked.
#[derive(Clone, Debug)]
pub struct Shard {
    /// The tokens of all inputs.
    pub tokens: Tokens,
    /// Each input's tokens, in order.
    pub inputs: Vec<InputTokens>,
    /// Bytes of text that the tokens (of samples: the learned ones) stand for; 0 if nobody knows.
    pub text_bytes: u64,
    /// Tokens that are targets, if some are not: of samples.
    pub targets: Option<u64>,
    /// Hash of content and tokenizer: the same tokens have the same key.
    pub key: u128,
}

/// The tokens of one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputTokens {
    /// Where they lie in the shard.
    pub range: Range<usize>,
    /// The largest id among them, counted now, not when they were written.
    pub largest: Option<u32>,
}

impl Shard {
    /// Maps the shard at `path` if it is whole and was made for `key`; nothing if there is none or it is not.
    pub(crate) fn open(path: &Path, key: u128) -> Option<Shard> {
        Self::check(Map::open(path).ok()?, key)
    }

    fn check(map: Map, key: u128) -> Option<Shard> {
        let trailer_at = map.len().checked_sub(TRAILER)?;
        let trailer = Trailer::read_from_bytes(&map[trailer_at..]).ok()?;
        if trailer.magic != MAGIC || trailer.key.get() != key {
            return None;
        }
        let width = match (trailer.version.get(), trailer.width.get()) {
            (VERSION, 2) => Width::Two,
            (VERSION, 4) => Width::Four,
            (MARKED_VERSION, 4) => Width::Marked,
            _ => return None,
        };
        let count = usize::try_from(trailer.tokens.get()).ok()?;
        let table_at = count.checked_mul(width.bytes())?;
        let table_bytes = usize::try_from(trailer.sources.get()).ok()?.checked_mul(8)?;
        if table_at.checked_add(table_bytes)? != trailer_at || xxh3_64(&map[..map.len() - 8]) != trailer.checksum.get()
        {
            return None;
        }
        let ranges = ranges(&map[table_at..trailer_at], count)?;
        let tokens = Tokens::new(Bytes::Mapped(map), width, count);
        let sources: Vec<InputTokens> = ranges
            .into_iter()
            .map(|range| InputTokens { largest: tokens.slice(range.clone()).largest(), range })
            .collect();
        // Each input of samples begins with one.
        let starts = |source: &InputTokens| source.range.is_empty() || marks(&tokens, source.range.start) & START != 0;
        if width == Width::Marked && !sources.iter().all(starts) {
            return None;
        }
        let targets = (width == Width::Marked).then(|| count_targets(&tokens));
        Some(Shard { tokens, inputs: sources, text_bytes: trailer.text_bytes.get(), targets, key })
    }
}

impl Shard {
    /// Bytes of text per token (of samples: per target), 1 for bytes; nothing where nobody knows.
    pub fn bytes_per_token(&self) -> Option<f64> {
        let tokens = self.targets.unwrap_or(self.tokens.len() as u64);
        (self.text_bytes > 0).then(|| self.text_bytes as f64 / tokens.max(1) as f64)
    }
}

/// One token with its marks.
fn marks(tokens: &Tokens, at: usize) -> u32 {
    let mut id = [0];
    tokens.read_marked(at, &mut id);
    id[0]
}

/// Tokens that are targets: learned, and not the first of their sample.
fn count_targets(tokens: &Tokens) -> u64 {
    let mut buffer = [0; 4096];
    let mut sum = 0;
    for at in (0..tokens.len()).step_by(buffer.len()) {
        let part = &mut buffer[..4096.min(tokens.len() - at)];
        tokens.read_marked(at, part);
        sum += part.iter().filter(|id| **id & (TARGET | START) == TARGET).count() as u64;
    }
    sum
}

/// The ranges of the sources, if their lengths add up to `count`.
fn ranges(table: &[u8], count: usize) -> Option<Vec<Range<usize>>> {
    let mut at = 0usize;
    let mut ranges = Vec::with_capacity(table.len() / 8);
    for entry in table.chunks_exact(8) {
        let len = usize::try_from(u64::from_le_bytes(entry.try_into().ok()?)).ok()?;
        let end = at.checked_add(len)?;
        ranges.push(at..end);
        at = end;
    }
    (at == count).then_some(ranges)
}

/// What an unfinished shard holds.
pub(crate) struct Part {
    /// Tokens of each finished input.
    pub inputs: Vec<u64>,
    /// Tokens of the next one.
    current: u64,
    /// Batches that they were made of.
    pub batches: u32,
    /// Bytes of text so far; nothing if nobody knows.
    pub text_bytes: Option<u64>,
    /// Bytes of the tokens, with which the file begins.
    pub token_bytes: u64,
    /// Their hash.
    hash: Xxh3,
}

impl Part {
    /// Reads the unfinished shard in `file`; nothing if it is not whole, or was not made for `key` with ids as wide as
    /// `width`.
    pub(super) fn read(file: &mut (impl Read + Seek), key: u128, width: Width) -> io::Result<Option<Self>> {
        let len = file.seek(SeekFrom::End(0))?;
        let Some(trailer_at) = len.checked_sub(TRAILER as u64) else { return Ok(None) };
        let mut end = [0; TRAILER];
        file.seek(SeekFrom::Start(trailer_at))?;
        file.read_exact(&mut end)?;
        let Ok(trailer) = Trailer::read_from_bytes(&end) else { return Ok(None) };
        let (tokens, sources) = (trailer.tokens.get(), u64::from(trailer.sources.get()));
        let token_bytes = tokens.checked_mul(width.bytes() as u64);
        let Some(token_bytes) = token_bytes.filter(|bytes| bytes.checked_add(8 * sources) == Some(trailer_at)) else {
            return Ok(None);
        };
        file.seek(SeekFrom::Start(0))?;
        let mut hash = Xxh3::new();
        let (mut buffer, mut left) = (vec![0; 1 << 20], token_bytes);
        while left > 0 {
            let piece = &mut buffer[..left.min(1 << 20) as usize];
            file.read_exact(piece)?;
            hash.update(piece);
            left -= piece.len() as u64;
        }
        let mut table = vec![0; 8 * sources as usize];
        file.read_exact(&mut table)?;
        let mut whole = hash.clone();
        whole.update(&table);
        whole.update(&end[..TRAILER - 8]);
        let made_for = (trailer.magic, trailer.key.get(), trailer.width.get() as usize);
        let inputs: Vec<u64> =
            table.chunks_exact(8).map(|n| n.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))).collect();
        let finished = inputs.iter().try_fold(0u64, |sum, tokens| sum.checked_add(*tokens));
        let current = finished.and_then(|finished| tokens.checked_sub(finished));
        let sound = made_for == (UNFINISHED, key, width.bytes()) && whole.digest() == trailer.checksum.get();
        let text_bytes = Some(trailer.text_bytes.get()).filter(|bytes| *bytes != u64::MAX);
        let batches = trailer.batches.get();
        let part = current.map(|current| Part { inputs, current, batches, text_bytes, token_bytes, hash });
        Ok(part.filter(|_| sound))
    }
}

/// Writes a shard front to back.
pub(crate) struct Writer<'a> {
    out: &'a mut dyn Write,
    width: Width,
    hash: Xxh3,
    /// Tokens of the finished inputs.
    inputs: Vec<u64>,
    /// Tokens of the input at hand.
    current: u64,
    buffer: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, width: Width) -> Self {
        Writer { out, width, hash: Xxh3::new(), inputs: Vec::new(), current: 0, buffer: Vec::new() }
    }

    /// Goes on behind the tokens of an unfinished shard, which `out` holds already.
    pub(crate) fn behind(out: &'a mut dyn Write, width: Width, part: Part) -> Self {
        Writer { inputs: part.inputs, current: part.current, hash: part.hash, ..Self::new(out, width) }
    }

    /// Appends `ids`, each of them within the width.
    pub(crate) fn tokens(&mut self, ids: &[u32]) -> io::Result<()> {
        self.buffer.clear();
        self.width.write(ids, &mut self.buffer);
        self.current += ids.len() as u64;
        self.hash.update(&self.buffer);
        self.out.write_all(&self.buffer)
    }

    /// Ends the input at hand.
    pub(crate) fn end_input(&mut self) {
        self.inputs.push(std::mem::take(&mut self.current));
    }

    /// Ends the shard.
    pub(crate) fn finish(self, key: u128, text_bytes: u64) -> io::Result<()> {
        self.end(MAGIC, key, text_bytes, 0)
    }

    /// Ends an unfinished shard, of whose input at hand so many batches are done.
    pub(crate) fn pause(self, key: u128, text_bytes: Option<u64>, batches: u32) -> io::Result<()> {
        self.end(UNFINISHED, key, text_bytes.unwrap_or(u64::MAX), batches)
    }

    fn end(mut self, magic: [u8; 8], key: u128, text_bytes: u64, batches: u32) -> io::Result<()> {
        let table: Vec<u8> = self.inputs.iter().flat_map(|tokens| tokens.to_le_bytes()).collect();
        let mut trailer = Trailer {
            magic,
            version: U32::new(if self.width == Width::Marked { MARKED_VERSION } else { VERSION }),
            width: U32::new(self.width.bytes() as u32),
            tokens: U64::new(self.inputs.iter().sum::<u64>() + self.current),
            text_bytes: U64::new(text_bytes),
            key: U128::new(key),
            sources: U32::new(self.inputs.len() as u32),
            batches: U32::new(batches),
            checksum: U64::new(0),
        };
        self.hash.update(&table);
        self.hash.update(&trailer.as_bytes()[..TRAILER - 8]);
        trailer.checksum = U64::new(self.hash.digest());
        self.out.write_all(&table)?;
        self.out.write_all(trailer.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::shard::IGNORE;

    const KEY: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;

    /// A shard of two inputs with five and two tokens, as bytes.
    fn small(width: Width) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, width);
        writer.tokens(&[1, 2, 300]).unwrap();
        writer.tokens(&[4, 5]).unwrap();
        writer.end_input();
        writer.tokens(&[65_535, 7]).unwrap();
        writer.end_input();
        writer.finish(KEY, 99).unwrap();
        bytes
    }

    fn open(bytes: &[u8], key: u128) -> Option<Shard> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Shard::open(file.path(), key)
    }

    #[test]
    fn a_written_shard_comes_back() {
        for width in [Width::Two, Width::Four] {
            let shard = open(&small(width), KEY).unwrap();
            assert_eq!(shard.tokens.to_vec(), [1, 2, 300, 4, 5, 65_535, 7]);
            let sources =
                [InputTokens { range: 0..5, largest: Some(300) }, InputTokens { range: 5..7, largest: Some(65_535) }];
            assert_eq!(shard.inputs, sources);
            assert_eq!(shard.text_bytes, 99);
        }
    }

    /// Two samples in two inputs; of the second the middle is not learned.
    fn marked() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, Width::Marked);
        writer.tokens(&[1 | START | TARGET, 70_000 | TARGET]).unwrap();
        writer.end_input();
        writer.tokens(&[3 | START, 4, 5 | TARGET]).unwrap();
        writer.end_input();
        writer.finish(KEY, 9).unwrap();
        bytes
    }

    #[test]
    fn samples_come_back_with_their_marks() {
        let shard = open(&marked(), KEY).unwrap();
        assert_eq!((shard.tokens.to_vec(), shard.tokens.samples()), (vec![1, 70_000, 3, 4, 5], vec![0, 2, 5]));
        let mut targets = [0; 5];
        shard.tokens.read_targets(0, &mut targets);
        assert_eq!(targets, [1, 70_000, IGNORE, IGNORE, 5]);
        assert_eq!((shard.targets, shard.inputs[0].largest), (Some(2), Some(70_000)), "a first token is no target");
        assert_eq!(open(&small(Width::Four), KEY).unwrap().targets, None);
    }

    #[test]
    fn a_sample_that_reaches_across_inputs_is_noticed_despite_a_right_checksum() {
        let mut broken = marked();
        // The mark of the third token, where the second input begins.
        broken[4 * 2 + 3] = 0;
        let end = broken.len() - 8;
        let checksum = xxh3_64(&broken[..end]);
        broken[end..].copy_from_slice(&checksum.to_le_bytes());
        assert!(open(&broken, KEY).is_none());
    }

    #[test]
    fn a_shard_of_other_text_is_not_taken() {
        assert!(open(&small(Width::Two), KEY + 1).is_none());
    }

    #[test]
    fn every_truncation_every_extension_and_every_flipped_bit_is_noticed() {
        let whole = small(Width::Two);
        for len in 0..whole.len() {
            assert!(open(&whole[..len], KEY).is_none(), "cut to {len}");
        }
        assert!(open(&[&whole[..], &[0]].concat(), KEY).is_none());
        for bit in 0..whole.len() * 8 {
            let mut broken = whole.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&broken, KEY).is_none(), "bit {bit}");
        }
    }

    /// A trailer whose checksum is right but whose counts are not: no arithmetic may wrap, nothing may be read.
    #[test]
    fn counts_that_contradict_the_size_are_noticed_despite_a_right_checksum() {
        let whole = small(Width::Two);
        let at = whole.len() - TRAILER;
        for (field, value) in [(12, 3u64), (16, u64::MAX), (16, 8), (16, 1 << 63), (48, u32::MAX as u64), (48, 1)] {
            let mut broken = whole.clone();
            let bytes = if field == 16 { 8 } else { 4 };
            broken[at + field..at + field + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
            let end = broken.len() - 8;
            let checksum = xxh3_64(&broken[..end]);
            broken[end..].copy_from_slice(&checksum.to_le_bytes());
            assert!(open(&broken, KEY).is_none(), "field {field} = {value}");
        }
    }
}
