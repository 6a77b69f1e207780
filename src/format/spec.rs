//! What a tensor is: name, shape, and how its weight is stored.

use super::header::{FP4, cap};
use super::record::TensorRecord;
use crate::error::FormatError;
use crate::quant::{GROUPS, GroupedShape, WeightCodec};
use zerocopy::little_endian::{U32, U64};

/// The codecs of weights and the tags that name them in a tensor record: the one table of both.
const CODECS: [(WeightCodec, u8); 7] = [
    (WeightCodec::F32, 1),
    (WeightCodec::F16, 2),
    (WeightCodec::Bf16, 3),
    (WeightCodec::Int8, 4),
    (WeightCodec::Int4, 5),
    (WeightCodec::Int4Offset, 6),
    (WeightCodec::Fp4, 7),
];

/// Tags up to this are in files of any kind, those above in files that require the feature of four-bit floats.
const PLAIN: u8 = 6;

/// The features that a reader of a tensor of this codec must know.
pub(crate) fn codec_features(codec: WeightCodec) -> u32 {
    if codec_tag(codec) > PLAIN { FP4 } else { 0 }
}

/// The byte that names a codec in a tensor record.
pub fn codec_tag(codec: WeightCodec) -> u8 {
    CODECS.iter().find(|row| row.0 == codec).map_or(0, |row| row.1)
}

/// The codec that a byte of a tensor record names.
pub fn codec_from_tag(tag: u8) -> Option<WeightCodec> {
    CODECS.iter().find(|row| row.1 == tag).map(|row| row.0)
}

/// A tensor's name, shape and storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// 1 to 255 characters of `A-Z a-z 0-9 _ - .`, with no empty part between dots.
    pub name: String,
    /// One to four dimensions, the last one contiguous; two if the tensor has groups.
    pub dims: Vec<u64>,
    /// The code of the weight.
    pub storage: WeightCodec,
    /// Elements per group, of the weight or of quantized state; 0 if nothing is grouped.
    pub group: u32,
}

impl TensorSpec {
    /// An ungrouped tensor.
    pub fn plain(name: impl Into<String>, dims: &[u64], storage: WeightCodec) -> Self {
        Self { name: name.into(), dims: dims.to_vec(), storage, group: 0 }
    }

    /// A matrix `[rows, cols]` in groups along `cols`.
    pub fn grouped(name: impl Into<String>, rows: u64, cols: u64, storage: WeightCodec, group: u32) -> Self {
        Self { name: name.into(), dims: vec![rows, cols], storage, group }
    }

    /// Product of all dimensions but the last (1 for a vector); saturates.
    pub fn rows(&self) -> u64 {
        let leading = self.dims.len().saturating_sub(1);
        self.dims[..leading].iter().fold(1, |product, &d| product.saturating_mul(d))
    }

    /// The last dimension.
    pub fn cols(&self) -> u64 {
        self.dims.last().copied().unwrap_or(0)
    }

    /// Elements without padding; saturates.
    pub fn elements(&self) -> u64 {
        self.rows().saturating_mul(self.cols())
    }

    /// Groups in one row; 0 if ungrouped.
    pub fn groups_per_row(&self) -> u64 {
        if self.group == 0 { 0 } else { self.cols().div_ceil(self.group.into()) }
    }

    /// Groups in all; 0 if ungrouped; saturates.
    pub fn groups(&self) -> u64 {
        self.rows().saturating_mul(self.groups_per_row())
    }

    /// Elements with every row padded to whole groups; the elements themselves if ungrouped; saturates.
    pub fn padded_elements(&self) -> u64 {
        if self.group == 0 { self.elements() } else { self.groups().saturating_mul(self.group.into()) }
    }

    /// The shape of its planes; `None` if ungrouped, or if it exceeds the address space.
    pub fn grouped_shape(&self) -> Option<GroupedShape> {
        if self.group == 0 {
            return None;
        }
        usize::try_from(self.padded_elements()).ok()?;
        Some(GroupedShape::new(self.rows() as usize, self.cols() as usize, self.group as usize))
    }

    /// `[4, 96]`.
    pub fn shape(&self) -> String {
        format!("{:?}", self.dims)
    }

    /// R12 to R14 for tensor `tensor`.
    pub(crate) fn check(&self, tensor: usize) -> Result<(), FormatError> {
        let grouped = self.group != 0 || self.storage.is_grouped();
        let (min, max) = if grouped { (2, 2) } else { (1, cap::DIMS) };
        let storage = if grouped && !self.storage.is_grouped() { "grouped" } else { self.storage.name() };
        if !(min..=max).contains(&self.dims.len()) {
            return Err(FormatError::DimCount { tensor, found: self.dims.len(), storage, min, max });
        }
        if let Some(axis) = self.dims.iter().position(|&d| d == 0) {
            return Err(FormatError::DimZero { tensor, axis });
        }
        let group = self.group as usize;
        let known = GROUPS.contains(&group) && self.storage.block().is_none_or(|block| block == group);
        if !known && (self.group != 0 || self.storage.is_grouped()) {
            let allowed = match self.storage.block() {
                Some(_) => "32",
                None if self.storage.is_grouped() => "32, 64, 128 or 256",
                None => "0, 32, 64, 128 or 256",
            };
            return Err(FormatError::Group { tensor, found: self.group, storage: self.storage.name(), allowed });
        }
        if self.padded_elements() > cap::ELEMENTS {
            return Err(FormatError::Elements { tensor, shape: self.shape(), max: cap::ELEMENTS });
        }
        Ok(())
    }

    /// The record of tensor `tensor` at byte `at` of a file that requires `features`, without its name; R5 and R11 to
    /// R14.
    pub(crate) fn from_record(
        record: &TensorRecord,
        tensor: usize,
        at: u64,
        features: u32,
    ) -> Result<Self, FormatError> {
        let storage = codec_from_tag(record.storage).filter(|&codec| codec_features(codec) & !features == 0);
        let Some(storage) = storage else {
            let max = if features & FP4 != 0 { CODECS.len() as u8 } else { PLAIN };
            return Err(FormatError::Storage { tensor, found: record.storage, max });
        };
        if let Some(i) = record.reserved.iter().position(|&b| b != 0) {
            return Err(FormatError::Reserved { at: at + 2 + i as u64, found: record.reserved[i] });
        }
        let found = usize::from(record.dim_count);
        if found > cap::DIMS {
            let storage = storage.name();
            return Err(FormatError::DimCount { tensor, found, storage, min: 1, max: cap::DIMS });
        }
        let (dims, unused) = record.dims.split_at(found);
        if let Some(i) = unused.iter().position(|d| d.get() != 0) {
            return Err(FormatError::DimUnused { tensor, axis: found + i, found: unused[i].get(), used: found });
        }
        let dims = dims.iter().map(|d| d.get()).collect();
        let spec = Self { name: String::new(), dims, storage, group: record.group.get() };
        spec.check(tensor)?;
        Ok(spec)
    }

    /// The inverse of [`from_record`](Self::from_record); dimensions beyond the fourth are refused before.
    pub(crate) fn to_record(&self) -> TensorRecord {
        let mut dims = [U64::new(0); cap::DIMS];
        for (to, from) in dims.iter_mut().zip(&self.dims) {
            to.set(*from);
        }
        let (storage, dim_count) = (codec_tag(self.storage), self.dims.len() as u8);
        TensorRecord { storage, dim_count, reserved: [0; 2], group: U32::new(self.group), dims }
    }
}
