//! A parameter's planes as rows that can be cut in two: how one update is shared among threads without `unsafe`.

use crate::backend::adam::state;
use crate::backend::cpu::simd::adam::{
    PackedFirstMoments, PackedRows, PackedSecondMoments, PackedWeight, is_supported,
};
use crate::backend::cpu::simd::isa::Isa;
use crate::backend::{Param, StateTensor, Weight};
use crate::memory::{ArenaBorrow, Span};
use crate::quant::{Element, GroupedShape, MomentCodec, QuantGrid};

/// The elements of a stored weight, by their type.
pub enum WeightElements<'a> {
    /// float32, unpadded.
    F32(&'a mut [f32]),
    /// bfloat16 bits, unpadded.
    Bf16(&'a mut [u16]),
    /// Signed bytes, padded.
    Bytes(&'a mut [u8]),
    /// Nibbles, padded.
    Nibbles(&'a mut [u8]),
}

/// The stored weight.
pub struct WeightRows<'a> {
    /// The integers that it is stored as; none for floats.
    pub grid: Option<QuantGrid>,
    /// Floats or codes.
    pub data: WeightElements<'a>,
    /// Low nibbles, padded; empty without residue.
    pub residue: &'a mut [u8],
    /// Scales of the groups as bytes; empty for floats.
    pub scales: &'a mut [u8],
    /// Offsets of the groups as bytes; empty if symmetric.
    pub offsets: &'a mut [u8],
    /// Type of the scales.
    pub scale: Element,
}

/// A stored moment.
pub enum MomentRows<'a> {
    /// float32, unpadded.
    F32(&'a mut [f32]),
    /// One byte per element, padded, with bf16 scales.
    Bytes(MomentCodec, &'a mut [u8], &'a mut [u16]),
    /// One nibble per element, padded, with bf16 scales.
    Nibbles(MomentCodec, &'a mut [u8], &'a mut [u16]),
    /// None: the update needs no state.
    Absent,
    /// Shared second moments of this step, read only: that of an element is the product of its row's number and its
    /// column's factor, or the row's number where there are no factors.
    Shared {
        /// One per row; none where moments are neither read nor written.
        rows: &'a [f32],
        /// One per column, or none.
        factors: &'a [f32],
    },
}

/// Some consecutive rows of a parameter.
pub struct ParamRows<'a> {
    /// Shape of the whole parameter.
    pub shape: GroupedShape,
    /// Number of the first row here.
    pub first: usize,
    /// Whether rows without a gradient are left as they are.
    pub sparse: bool,
    /// Gradient of these rows, unpadded.
    pub grad: &'a [f32],
    /// Weight.
    pub weight: WeightRows<'a>,
    /// First moment.
    pub m: MomentRows<'a>,
    /// Second moment.
    pub v: MomentRows<'a>,
}

/// Cuts a plane with `per_row` elements in each of its rows.
fn cut<T>(plane: &mut [T], rows: usize, per_row: usize) -> (&mut [T], &mut [T]) {
    if plane.is_empty() { (&mut [], &mut []) } else { plane.split_at_mut(rows * per_row) }
}

impl WeightElements<'_> {
    fn split(&mut self, rows: usize, g: GroupedShape) -> (WeightElements<'_>, WeightElements<'_>) {
        fn both<'a, T>(
            parts: (T, T),
            kind: impl Fn(T) -> WeightElements<'a>,
        ) -> (WeightElements<'a>, WeightElements<'a>) {
            (kind(parts.0), kind(parts.1))
        }
        match self {
            Self::F32(data) => both(cut(data, rows, g.cols), WeightElements::F32),
            Self::Bf16(data) => both(cut(data, rows, g.cols), WeightElements::Bf16),
            Self::Bytes(data) => both(cut(data, rows, g.padded_cols()), WeightElements::Bytes),
            Self::Nibbles(data) => both(cut(data, rows, g.padded_cols() / 2), WeightElements::Nibbles),
        }
    }
}

impl<'a> WeightRows<'a> {
    /// All rows of a weight.
    pub fn claim(slices: &mut ArenaBorrow<'a>, w: &Weight) -> Self {
        let data = match w.format.codec().element() {
            Element::F32 => WeightElements::F32(slices.write(w.data)),
            Element::Bf16 => WeightElements::Bf16(slices.write(w.data)),
            Element::I8 => WeightElements::Bytes(slices.write(w.data)),
            Element::Nibble => WeightElements::Nibbles(slices.write(w.data)),
            other => panic!("no weight is trained as {}", other.name()),
        };
        let (residue, scales, offsets) = (slices.write(w.residue), slices.write(w.scales), slices.write(w.offsets));
        Self { grid: w.format.grid(), data, residue, scales, offsets, scale: w.format.scale() }
    }
}

impl WeightRows<'_> {
    /// The first `rows` rows of a weight of shape `g`, and the others.
    pub fn split(&mut self, rows: usize, g: GroupedShape) -> (WeightRows<'_>, WeightRows<'_>) {
        let (grid, scale) = (self.grid, self.scale);
        let of_groups = g.groups_per_row() * scale.bits() as usize / 8;
        let (data_a, data_b) = self.data.split(rows, g);
        let (residue_a, residue_b) = cut(self.residue, rows, g.padded_cols() / 2);
        let (scales_a, scales_b) = cut(self.scales, rows, of_groups);
        let (offsets_a, offsets_b) = cut(self.offsets, rows, of_groups);
        (
            WeightRows { grid, data: data_a, residue: residue_a, scales: scales_a, offsets: offsets_a, scale },
            WeightRows { grid, data: data_b, residue: residue_b, scales: scales_b, offsets: offsets_b, scale },
        )
    }
}

impl<'a> MomentRows<'a> {
    /// All rows of a state tensor that has one element per weight.
    pub fn claim(slices: &mut ArenaBorrow<'a>, tensor: &StateTensor) -> Self {
        let StateTensor { spec, data, scales } = *tensor;
        match spec.format.codec.moment() {
            None => Self::F32(slices.write(data)),
            Some(codec) if spec.format.codec.element() == Element::Nibble => {
                Self::Nibbles(codec, slices.write(data), slices.write(scales))
            }
            Some(codec) => Self::Bytes(codec, slices.write(data), slices.write(scales)),
        }
    }
}

impl MomentRows<'_> {
    /// The first `rows` rows of a tensor of shape `g`, and the others.
    pub fn split(&mut self, rows: usize, g: GroupedShape) -> (MomentRows<'_>, MomentRows<'_>) {
        let (groups, padded) = (g.groups_per_row(), g.padded_cols());
        match self {
            Self::F32(data) => {
                let (a, b) = cut(data, rows, g.cols);
                (MomentRows::F32(a), MomentRows::F32(b))
            }
            Self::Bytes(codec, codes, scales) => {
                let ((a, b), (sa, sb)) = (cut(codes, rows, padded), cut(scales, rows, groups));
                (MomentRows::Bytes(*codec, a, sa), MomentRows::Bytes(*codec, b, sb))
            }
            Self::Nibbles(codec, codes, scales) => {
                let ((a, b), (sa, sb)) = (cut(codes, rows, padded / 2), cut(scales, rows, groups));
                (MomentRows::Nibbles(*codec, a, sa), MomentRows::Nibbles(*codec, b, sb))
            }
            Self::Absent => (MomentRows::Absent, MomentRows::Absent),
            Self::Shared { rows: numbers, factors } => {
                let (a, b) = numbers.split_at(rows.min(numbers.len()));
                (MomentRows::Shared { rows: a, factors }, MomentRows::Shared { rows: b, factors })
            }
        }
    }
}

impl<'a> ParamRows<'a> {
    /// All rows of a parameter, claimed for the whole step. Shared second moments are not known yet:
    /// [`super::factored::Means::advance`] makes them.
    pub fn claim(slices: &mut ArenaBorrow<'a>, param: &Param, grad: Span, sparse: bool) -> Self {
        let m = param.state.get(state::M).expect("the fused pass has a first moment");
        let m = MomentRows::claim(slices, m);
        let v = match param.state.get(state::V) {
            Some(v) => MomentRows::claim(slices, v),
            None => MomentRows::Shared { rows: &[], factors: &[] },
        };
        Self { sparse, m, v, ..Self::claim_weight(slices, param, grad) }
    }

    /// All rows of a parameter's weight, without its state.
    pub fn claim_weight(slices: &mut ArenaBorrow<'a>, param: &Param, direction: Span) -> Self {
        let w = &param.weight;
        let weight = WeightRows::claim(slices, w);
        let (m, v) = (MomentRows::Absent, MomentRows::Absent);
        Self { shape: w.shape, first: 0, sparse: false, grad: slices.read(direction), weight, m, v }
    }
}

/// Whether a row has a gradient.
#[inline(always)]
pub fn is_touched(grad: &[f32]) -> bool {
    // All bits together, rather than up to the first that is set: this has a vector form. The sign of a zero says nothing.
    grad.iter().fold(0, |bits, g| bits | g.to_bits()) << 1 != 0
}

impl ParamRows<'_> {
    /// The same rows for a step in registers, if they are stored so that there is one.
    pub fn packed(&mut self, isa: Isa) -> Option<PackedRows<'_>> {
        let (shape, first) = (self.shape, (self.first * self.shape.cols) as u64);
        let whole = shape.cols.is_multiple_of(shape.group) && is_supported(isa, shape.group);
        if self.sparse || !whole {
            return None;
        }
        let WeightRows { grid, data, residue, scales, offsets, .. } = &mut self.weight;
        let weight = match data {
            WeightElements::Nibbles(codes) if offsets.is_empty() => {
                let grid = grid.as_ref().filter(|grid| **grid == QuantGrid::INT4)?;
                PackedWeight::Codes { grid, codes, residue, scales }
            }
            WeightElements::Bf16(data) => PackedWeight::Bf16(data),
            _ => return None,
        };
        let (m, m_scales) = match &mut self.m {
            MomentRows::Nibbles(MomentCodec::M4, codes, scales) => (PackedFirstMoments::Nibbles(codes), scales),
            MomentRows::Bytes(MomentCodec::M8, codes, scales) => (PackedFirstMoments::Bytes(codes), scales),
            _ => return None,
        };
        let v = match &mut self.v {
            MomentRows::Nibbles(MomentCodec::V4, codes, scales) => PackedSecondMoments::Own(codes, scales),
            MomentRows::Shared { rows, factors } => PackedSecondMoments::Shared(rows, factors),
            _ => return None,
        };
        let (cols, group, grad) = (shape.cols, shape.group, self.grad);
        Some(PackedRows { cols, group, first, grad, weight, m, m_scales, v })
    }

    /// Rows here.
    pub fn len(&self) -> usize {
        self.grad.len() / self.shape.cols
    }

    /// The first `rows` rows and the others.
    pub fn split(&mut self, rows: usize) -> (ParamRows<'_>, ParamRows<'_>) {
        let (shape, sparse) = (self.shape, self.sparse);
        let (grad_a, grad_b) = self.grad.split_at(rows * shape.cols);
        let (weight_a, weight_b) = self.weight.split(rows, shape);
        let (m_a, m_b) = self.m.split(rows, shape);
        let (v_a, v_b) = self.v.split(rows, shape);
        (
            ParamRows { shape, first: self.first, sparse, grad: grad_a, weight: weight_a, m: m_a, v: v_a },
            ParamRows { shape, first: self.first + rows, sparse, grad: grad_b, weight: weight_b, m: m_b, v: v_b },
        )
    }
}
