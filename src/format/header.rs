//! The fixed header: magic, version, lengths and counts. Checked in reading order, before anything is allocated.

use super::align_up;
use super::record::{Field, PLANE_RECORD, TENSOR_RECORD};
use crate::error::FormatError;
use std::mem::{offset_of, size_of};
use xxhash_rust::xxh3::Xxh3;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first eight bytes. The high bit and the line feed reveal a transfer that was not binary.
pub const MAGIC: [u8; 8] = *b"\x89TETRAD\n";
/// The major version that is written and read.
pub const MAJOR: u16 = 1;
/// The newest minor version that is known; a file has the oldest that can say what it holds. Newer ones can be read.
pub const MINOR: u16 = 1;
/// The bit of `required` that says that there are tensors of four-bit floats.
pub(crate) const FP4: u32 = 1;
/// Bits of `required` that this reader supports.
pub(crate) const FEATURES: u32 = FP4;
/// Planes start at multiples of this: a cache line, and the widest vector register.
pub const PLANE_ALIGN: u64 = 64;
/// Regions start at multiples of this: a page, so that one region can be mapped by itself.
pub const REGION_ALIGN: u64 = 4096;

/// Upper bounds, part of the format (SPEC.md, "Caps").
pub mod cap {
    /// Tensors in a file.
    pub const TENSORS: u32 = 65_536;
    /// Plane records in a file.
    pub const PLANES: u32 = 1_048_576;
    /// Attachments in a file.
    pub const ATTACHMENTS: u32 = 64;
    /// Dimensions of a tensor.
    pub const DIMS: usize = 4;
    /// Elements of a tensor, padding included: its length in bits fits 64 bits with room to spare.
    pub const ELEMENTS: u64 = 1 << 48;
    /// Bytes of a name.
    pub const NAME: usize = 255;
    /// Bytes of all tensors' names with their length prefixes.
    pub const NAMES: u64 = TENSORS as u64 * (NAME as u64 + 2);
    /// Bytes of the metadata.
    pub const METADATA: u64 = 16 << 20;
    /// Bytes of all attachments with their names and lengths.
    pub const ATTACHMENTS_LEN: u64 = 256 << 20;
    /// Levels of arrays and objects in the metadata, the outermost counted.
    pub const DEPTH: usize = 32;
    /// State tensors that a file names, of one tensor.
    pub const STATE: usize = 16;
    /// The largest step: every JSON reader represents it exactly.
    pub const STEP: u64 = 1 << 53;
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    pub magic: [u8; 8],
    pub major: U16,
    pub minor: U16,
    pub required: U32,
    pub checksum: U64,
    pub file_len: U64,
    pub head_len: U64,
    pub weights_offset: U64,
    pub optimizer_offset: U64,
    pub tensor_count: U32,
    pub plane_count: U32,
    pub attachment_count: U32,
    pub names_len: U32,
    pub metadata_len: U64,
    pub attachments_len: U64,
    pub reserved: [u8; 40],
}

mod at {
    use super::Field;
    pub const MAGIC: Field = Field::first("magic", 8);
    pub const MAJOR: Field = MAGIC.then("major", 2);
    pub const MINOR: Field = MAJOR.then("minor", 2);
    pub const REQUIRED: Field = MINOR.then("required", 4);
    pub const CHECKSUM: Field = REQUIRED.then("checksum", 8);
    pub const FILE_LEN: Field = CHECKSUM.then("file_len", 8);
    pub const HEAD_LEN: Field = FILE_LEN.then("head_len", 8);
    pub const WEIGHTS_OFFSET: Field = HEAD_LEN.then("weights_offset", 8);
    pub const OPTIMIZER_OFFSET: Field = WEIGHTS_OFFSET.then("optimizer_offset", 8);
    pub const TENSOR_COUNT: Field = OPTIMIZER_OFFSET.then("tensor_count", 4);
    pub const PLANE_COUNT: Field = TENSOR_COUNT.then("plane_count", 4);
    pub const ATTACHMENT_COUNT: Field = PLANE_COUNT.then("attachment_count", 4);
    pub const NAMES_LEN: Field = ATTACHMENT_COUNT.then("names_len", 4);
    pub const METADATA_LEN: Field = NAMES_LEN.then("metadata_len", 8);
    pub const ATTACHMENTS_LEN: Field = METADATA_LEN.then("attachments_len", 8);
    pub const RESERVED: Field = ATTACHMENTS_LEN.then("reserved", 40);
}

/// The fields of the header, in order.
pub const FIELDS: [Field; 16] = [
    at::MAGIC,
    at::MAJOR,
    at::MINOR,
    at::REQUIRED,
    at::CHECKSUM,
    at::FILE_LEN,
    at::HEAD_LEN,
    at::WEIGHTS_OFFSET,
    at::OPTIMIZER_OFFSET,
    at::TENSOR_COUNT,
    at::PLANE_COUNT,
    at::ATTACHMENT_COUNT,
    at::NAMES_LEN,
    at::METADATA_LEN,
    at::ATTACHMENTS_LEN,
    at::RESERVED,
];

/// Bytes of the header.
pub const HEADER: usize = at::RESERVED.end();

const _: () = {
    assert!(HEADER == 128 && size_of::<Header>() == HEADER);
    assert!(offset_of!(Header, major) == at::MAJOR.at);
    assert!(offset_of!(Header, minor) == at::MINOR.at);
    assert!(offset_of!(Header, required) == at::REQUIRED.at);
    assert!(offset_of!(Header, checksum) == at::CHECKSUM.at);
    assert!(offset_of!(Header, file_len) == at::FILE_LEN.at);
    assert!(offset_of!(Header, head_len) == at::HEAD_LEN.at);
    assert!(offset_of!(Header, weights_offset) == at::WEIGHTS_OFFSET.at);
    assert!(offset_of!(Header, optimizer_offset) == at::OPTIMIZER_OFFSET.at);
    assert!(offset_of!(Header, tensor_count) == at::TENSOR_COUNT.at);
    assert!(offset_of!(Header, plane_count) == at::PLANE_COUNT.at);
    assert!(offset_of!(Header, attachment_count) == at::ATTACHMENT_COUNT.at);
    assert!(offset_of!(Header, names_len) == at::NAMES_LEN.at);
    assert!(offset_of!(Header, metadata_len) == at::METADATA_LEN.at);
    assert!(offset_of!(Header, attachments_len) == at::ATTACHMENTS_LEN.at);
    assert!(offset_of!(Header, reserved) == at::RESERVED.at);
};

/// Checks the header of a file of `file_len` bytes that begins with `head` (the whole head or more of the file).
pub(crate) fn parse(head: &[u8], file_len: u64) -> Result<Header, FormatError> {
    let Ok((header, _)) = Header::read_from_prefix(head) else {
        return Err(FormatError::TooShort { len: file_len, header: HEADER as u64 });
    };
    identity(&header)?;
    if let Some(i) = header.reserved.iter().position(|&b| b != 0) {
        return Err(FormatError::Reserved { at: (at::RESERVED.at + i) as u64, found: header.reserved[i] });
    }
    match (file_len, header.file_len.get()) {
        (len, stated) if len < stated => return Err(FormatError::CutShort { len, stated }),
        (len, stated) if len > stated => return Err(FormatError::Trailing { len, stated }),
        _ => {}
    }
    counts(&header)?;
    sections(&header, file_len)?;
    let head_len = header.head_len.get() as usize;
    let Some(head) = head.get(..head_len) else {
        return Err(FormatError::HeadOutside { found: head_len as u64, len: head.len() as u64 });
    };
    let (found, stated) = (checksum(head), header.checksum.get());
    if found != stated {
        return Err(FormatError::HeadChecksum { found, stated });
    }
    // The sum cannot wrap: head_len lies inside the file.
    let expected = align_up(head_len as u64, REGION_ALIGN).unwrap_or(u64::MAX);
    let found = header.weights_offset.get();
    if found != expected {
        return Err(FormatError::WeightsOffset { found, head: head_len as u64, expected });
    }
    Ok(header)
}

/// R2 to R4: whether this is a file this reader may read.
fn identity(header: &Header) -> Result<(), FormatError> {
    if header.magic != MAGIC {
        let found: Vec<String> = header.magic.iter().map(|b| format!("{b:02x}")).collect();
        return Err(FormatError::Magic { found: found.join(" ") });
    }
    if header.major.get() != MAJOR {
        let (major, minor) = (header.major.get(), header.minor.get());
        return Err(FormatError::Version { major, minor, known: MAJOR });
    }
    if header.required.get() & !FEATURES != 0 {
        return Err(FormatError::Feature { found: header.required.get(), known: FEATURES });
    }
    Ok(())
}

/// R7: counts within their caps.
fn counts(header: &Header) -> Result<(), FormatError> {
    let counts = [
        ("tensors", header.tensor_count, 1, cap::TENSORS),
        ("planes", header.plane_count, 1, cap::PLANES),
        ("attachments", header.attachment_count, 0, cap::ATTACHMENTS),
    ];
    for (what, found, min, max) in counts {
        if !(min..=max).contains(&found.get()) {
            return Err(FormatError::Count { what, found: found.get().into(), min: min.into(), max: max.into() });
        }
    }
    Ok(())
}

/// R8: section lengths within their caps, their sum, and the sum within the file.
fn sections(header: &Header, file_len: u64) -> Result<(), FormatError> {
    let sections = [
        ("names", u64::from(header.names_len.get()), 3, cap::NAMES),
        ("metadata", header.metadata_len.get(), 2, cap::METADATA),
        ("attachments", header.attachments_len.get(), 0, cap::ATTACHMENTS_LEN),
    ];
    for (what, found, min, max) in sections {
        if !(min..=max).contains(&found) {
            return Err(FormatError::SectionLen { what, found, min, max });
        }
    }
    // All terms are capped by now, so that nothing wraps.
    let records = u64::from(header.tensor_count.get()) * TENSOR_RECORD as u64
        + u64::from(header.plane_count.get()) * PLANE_RECORD as u64;
    let sum = HEADER as u64 + records + sections.iter().map(|s| s.1).sum::<u64>();
    let found = header.head_len.get();
    if found != sum {
        return Err(FormatError::HeadLen { found, sum });
    }
    if found > file_len {
        return Err(FormatError::HeadOutside { found, len: file_len });
    }
    Ok(())
}

/// xxh3-64 of the head with its own checksum field read as zero.
///
/// # Panics
/// If `head` is shorter than the header.
pub(crate) fn checksum(head: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&head[..at::CHECKSUM.at]);
    hash.update(&[0; at::CHECKSUM.size]);
    hash.update(&head[at::CHECKSUM.end()..]);
    hash.digest()
}
