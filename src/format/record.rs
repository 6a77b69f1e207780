//! The fixed-size records of the directory, and the chain of field offsets that describes every record.

use std::mem::{offset_of, size_of};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// One field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name in SPEC.md.
    pub name: &'static str,
    /// Its offset in the record.
    pub at: usize,
    /// Its bytes.
    pub size: usize,
}

impl Field {
    /// The first field of a record.
    pub(crate) const fn first(name: &'static str, size: usize) -> Self {
        Self { name, at: 0, size }
    }

    /// The field that follows this one.
    pub(crate) const fn then(self, name: &'static str, size: usize) -> Self {
        Self { name, at: self.end(), size }
    }

    /// Offset of the byte after it.
    pub const fn end(self) -> usize {
        self.at + self.size
    }
}

/// A tensor: shape and storage. Its name is in the list of names, its planes are the plane records that name it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct TensorRecord {
    pub storage: u8,
    pub dim_count: u8,
    pub reserved: [u8; 2],
    pub group: U32,
    pub dims: [U64; 4],
}

/// A plane: its tensor, kind, element type and offset.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct PlaneRecord {
    pub tensor: U32,
    pub kind: u8,
    pub element: u8,
    pub flags: u8,
    pub reserved: u8,
    pub offset: U64,
    pub len: U64,
    pub checksum: U64,
}

/// The flag of planes that a reader may skip if it does not know their kind.
pub(crate) const OPTIONAL: u8 = 1;

mod tensor {
    use super::Field;
    pub const STORAGE: Field = Field::first("storage", 1);
    pub const DIM_COUNT: Field = STORAGE.then("dim_count", 1);
    pub const RESERVED: Field = DIM_COUNT.then("reserved", 2);
    pub const GROUP: Field = RESERVED.then("group", 4);
    pub const DIMS: Field = GROUP.then("dims", 32);
}

mod plane {
    use super::Field;
    pub const TENSOR: Field = Field::first("tensor", 4);
    pub const KIND: Field = TENSOR.then("kind", 1);
    pub const ELEMENT: Field = KIND.then("element", 1);
    pub const FLAGS: Field = ELEMENT.then("flags", 1);
    pub const RESERVED: Field = FLAGS.then("reserved", 1);
    pub const OFFSET: Field = RESERVED.then("offset", 8);
    pub const LEN: Field = OFFSET.then("len", 8);
    pub const CHECKSUM: Field = LEN.then("checksum", 8);
}

/// The fields of a tensor record, in order.
pub const TENSOR_FIELDS: [Field; 5] =
    [tensor::STORAGE, tensor::DIM_COUNT, tensor::RESERVED, tensor::GROUP, tensor::DIMS];

/// The fields of a plane record, in order.
pub const PLANE_FIELDS: [Field; 8] = [
    plane::TENSOR,
    plane::KIND,
    plane::ELEMENT,
    plane::FLAGS,
    plane::RESERVED,
    plane::OFFSET,
    plane::LEN,
    plane::CHECKSUM,
];

/// Bytes of a tensor record.
pub const TENSOR_RECORD: usize = tensor::DIMS.end();

/// Bytes of a plane record.
pub const PLANE_RECORD: usize = plane::CHECKSUM.end();

const _: () = {
    assert!(TENSOR_RECORD == 40 && size_of::<TensorRecord>() == TENSOR_RECORD);
    assert!(offset_of!(TensorRecord, reserved) == tensor::RESERVED.at);
    assert!(offset_of!(TensorRecord, group) == tensor::GROUP.at);
    assert!(offset_of!(TensorRecord, dims) == tensor::DIMS.at);
    assert!(PLANE_RECORD == 32 && size_of::<PlaneRecord>() == PLANE_RECORD);
    assert!(offset_of!(PlaneRecord, kind) == plane::KIND.at);
    assert!(offset_of!(PlaneRecord, element) == plane::ELEMENT.at);
    assert!(offset_of!(PlaneRecord, flags) == plane::FLAGS.at);
    assert!(offset_of!(PlaneRecord, reserved) == plane::RESERVED.at);
    assert!(offset_of!(PlaneRecord, offset) == plane::OFFSET.at);
    assert!(offset_of!(PlaneRecord, len) == plane::LEN.at);
    assert!(offset_of!(PlaneRecord, checksum) == plane::CHECKSUM.at);
};
