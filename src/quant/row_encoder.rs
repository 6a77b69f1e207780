//! A row of float32 into the planes of a weight: the one encoder of every format. Rounds to nearest.

use super::{
    GroupedShape, PAD_NIBBLE, QuantGrid, Rounding, WeightCodec, WeightFormat, bf16_stochastic, fp4, low_byte, pack,
};
use half::f16;

/// The bytes of one row of each plane, little-endian; empty where the format has no such plane.
pub struct RowPlanes<'a> {
    /// Floats or codes.
    pub data: &'a mut [u8],
    /// Scales of the row's groups.
    pub scales: &'a mut [u8],
    /// Offsets of the row's groups.
    pub offsets: &'a mut [u8],
    /// The four bits below each code.
    pub residue: &'a mut [u8],
}

impl<'a> RowPlanes<'a> {
    /// The rows of planes that have `count` of them; those of a plane that does not exist are empty.
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn rows(planes: &'a mut [Vec<u8>; 4], count: usize) -> Vec<Self> {
        let [data, scales, offsets, residue] = planes.each_mut().map(|plane| {
            let bytes = plane.len() / count;
            let mut rows: Vec<&mut [u8]> = if bytes == 0 { Vec::new() } else { plane.chunks_mut(bytes).collect() };
            rows.resize_with(count, Default::default);
            rows
        });
        let rows = data.into_iter().zip(scales).zip(offsets).zip(residue);
        rows.map(|(((data, scales), offsets), residue)| Self { data, scales, offsets, residue }).collect()
    }
}

/// Encodes rows of one weight.
#[derive(Clone, Debug)]
pub struct RowEncoder {
    format: WeightFormat,
    shape: GroupedShape,
    grid: Option<QuantGrid>,
    /// Stored integers of a row, padded.
    stored: Vec<f32>,
    nibbles: Vec<u8>,
}

impl RowEncoder {
    /// An encoder of rows of a weight.
    pub fn new(format: WeightFormat, shape: GroupedShape) -> Self {
        let padded = if format.is_quantized() { shape.padded_cols() } else { 0 };
        let (stored, nibbles) = (vec![0.0; padded], vec![0; padded]);
        Self { format, shape, grid: format.grid(), stored, nibbles }
    }

    /// The same with scales as near to the values as the codes allow, without room for training.
    pub fn tight(mut self) -> Self {
        self.grid = self.grid.map(|grid| QuantGrid { target: grid.tight, ..grid });
        self
    }

    /// Encodes a row of `cols` values. A bfloat16 half way between two goes up.
    ///
    /// # Panics
    /// If `values` or a plane has another length than the shape says.
    pub fn encode(&mut self, values: &[f32], out: &mut RowPlanes) {
        assert_eq!(values.len(), self.shape.cols, "values of a row");
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, as was just asked.
            return unsafe { self.encode_avx2(values, out) };
        }
        self.encode_anywhere(values, out);
    }

    /// The code for every x86 processor calls a function to round down.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn encode_avx2(&mut self, values: &[f32], out: &mut RowPlanes) {
        self.encode_anywhere(values, out);
    }

    #[inline(always)]
    fn encode_anywhere(&mut self, values: &[f32], out: &mut RowPlanes) {
        match (self.format.codec(), self.grid) {
            (WeightCodec::F16, _) => write(out.data, values, |x| f16::from_f32(x).to_le_bytes()),
            (WeightCodec::Bf16, _) => write(out.data, values, |x| bf16_stochastic(x, 0.5).to_le_bytes()),
            (_, None) => write(out.data, values, f32::to_le_bytes),
            (codec, Some(grid)) => {
                self.quantize(values, &grid, codec.has_offsets(), out);
                self.store(codec, out);
            }
        }
    }

    /// Encodes a row whose stored integers are known, of elements beyond its end too; scales and offsets stay as they are.
    ///
    /// # Panics
    /// If the format has no stored integers, or a plane or `stored` has another length than the shape says.
    pub fn encode_stored(&mut self, stored: &[f32], out: &mut RowPlanes) {
        assert!(self.grid.is_some(), "stored integers of a format of floats");
        self.stored.copy_from_slice(stored);
        self.store(self.format.codec(), out);
    }

    #[inline(always)]
    fn quantize(&mut self, values: &[f32], grid: &QuantGrid, offsets: bool, out: &mut RowPlanes) {
        let group = self.shape.group;
        let element = self.format.scale();
        for (i, values) in values.chunks(group).enumerate() {
            let stored = &mut self.stored[i * group..][..values.len()];
            let scale = grid.quantize(values, offsets, Rounding::Nearest, stored);
            scale.write(element, out.scales, out.offsets, i);
        }
    }

    /// Stored integers into the planes of codes.
    #[inline(always)]
    fn store(&mut self, codec: WeightCodec, out: &mut RowPlanes) {
        if codec == WeightCodec::Int8 {
            assert_eq!(out.data.len(), self.stored.len(), "bytes of a row");
            out.data.iter_mut().zip(&self.stored).for_each(|(out, &q)| *out = byte(q));
        } else if self.format.has_residue() {
            self.pack(|q| code(codec, q >> 4), out.data);
            self.pack(|q| q & 15, out.residue);
        } else {
            self.pack(|q| code(codec, q), out.data);
        }
    }

    /// A row of nibbles, `part` of every stored integer.
    #[inline(always)]
    fn pack(&mut self, part: impl Fn(u8) -> u8, plane: &mut [u8]) {
        for (nibble, &q) in self.nibbles.iter_mut().zip(&self.stored) {
            *nibble = part(byte(q));
        }
        self.nibbles[self.shape.cols..].fill(PAD_NIBBLE);
        pack(&self.nibbles, plane);
    }
}

/// A stored integer as a byte, in two's complement; 0 for what is not a number. `as` would do the same one by one.
#[inline(always)]
fn byte(q: f32) -> u8 {
    low_byte(if q.is_nan() { 0.0 } else { q })
}

/// The code of a stored integer.
#[inline(always)]
fn code(codec: WeightCodec, q: u8) -> u8 {
    if codec == WeightCodec::Fp4 { fp4::code(q) } else { q }
}

#[inline(always)]
fn write<const N: usize>(out: &mut [u8], values: &[f32], bytes: impl Fn(f32) -> [u8; N]) {
    assert_eq!(out.len(), N * values.len(), "bytes of a row");
    out.chunks_exact_mut(N).zip(values).for_each(|(out, &x)| out.copy_from_slice(&bytes(x)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Levels, RngKey, RngUse, RowDecoder, WeightPlane};

    const FORMATS: [WeightFormat; 10] = [
        WeightFormat::F32,
        WeightFormat::of(WeightCodec::F16),
        WeightFormat::BF16,
        WeightFormat::INT8,
        WeightFormat::INT4,
        WeightFormat::INT4.with_residue(false),
        WeightFormat::INT4_OFFSET,
        WeightFormat::INT4_OFFSET.with_residue(false),
        WeightFormat::FP4,
        WeightFormat::FP4.with_residue(false),
    ];

    /// What is encoded and decoded again is at most half a step of the format's grid away, in every group, for rows
    /// that end within a block, a group, or with one.
    #[test]
    fn rows_come_back_rounded_to_the_nearest() {
        for format in FORMATS {
            for cols in [5, 32, 100, 128, 200] {
                let shape = GroupedShape::new(3, cols, 64);
                let mut planes = WeightPlane::ALL.map(|plane| vec![0; format.plane_bytes(plane, shape)]);
                let mut encoder = RowEncoder::new(format, shape);
                let key = RngKey { seed: cols as u64, step: 0, tensor: 0, usage: RngUse::Init };
                let mut values = vec![0.0; 3 * cols.next_multiple_of(4)];
                key.normal(0, &mut values);
                values.truncate(3 * cols);
                for (r, values) in values.chunks(cols).enumerate() {
                    let [data, scales, offsets, residue] = planes.each_mut().map(|plane| {
                        let bytes = plane.len() / 3;
                        &mut plane[r * bytes..][..bytes]
                    });
                    encoder.encode(values, &mut RowPlanes { data, scales, offsets, residue });
                }
                let decoder = RowDecoder::new(format, shape, |plane| &planes[plane as usize]);
                let mut found = vec![0.0; cols];
                for (r, values) in values.chunks(cols).enumerate() {
                    if format.has_residue() {
                        decoder.read_trained(r, &mut found);
                        assert_near(format, values, &found, format.grid().map(|grid| 0.5 / grid.steps_per_scale));
                    }
                    decoder.read(r, 0, &mut found);
                    // A code is the trained value rounded: half a step away, and half of one of the residue's.
                    let steps = if format.has_residue() { 0.5 + 1.0 / 32.0 } else { 0.5 };
                    assert_near(format, values, &found, format.grid().map(|_| steps));
                }
            }
        }
    }

    /// Values of all sizes, and what they become by the code for every processor.
    #[test]
    fn every_instruction_set_gives_the_same_bytes() {
        for format in FORMATS {
            let shape = GroupedShape::new(1, 200, 64);
            let mut values = [0.0; 200];
            RngKey { seed: 8, step: 0, tensor: 0, usage: RngUse::Init }.normal(0, &mut values);
            for (i, value) in values.iter_mut().enumerate() {
                *value *= [1.0, 0.02, 1e-7, 3e4, 0.0][i / 40];
            }
            let mut encoder = RowEncoder::new(format, shape);
            let mut bytes = |encode: fn(&mut RowEncoder, &[f32], &mut RowPlanes)| {
                let mut planes = WeightPlane::ALL.map(|plane| vec![0; format.plane_bytes(plane, shape)]);
                let [data, scales, offsets, residue] = planes.each_mut().map(Vec::as_mut_slice);
                encode(&mut encoder, &values, &mut RowPlanes { data, scales, offsets, residue });
                planes
            };
            assert_eq!(bytes(RowEncoder::encode), bytes(RowEncoder::encode_anywhere), "{format:?}");
        }
    }

    /// `scales`: how many scales of its group (at most the largest magnitude over `target`) a value may be away.
    fn assert_near(format: WeightFormat, values: &[f32], found: &[f32], scales: Option<f32>) {
        for (values, found) in values.chunks(64).zip(found.chunks(64)) {
            let most = values.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (x, y) in values.iter().zip(found) {
                let bound = match (format.grid(), scales) {
                    // A power of two is at most twice as large, and the widest gap of four-bit floats is two scales.
                    (Some(grid), Some(scales)) if grid.levels == Levels::E2m1 => 4.0 * scales * most / grid.target,
                    (Some(grid), Some(scales)) => 1.002 * scales * most / grid.target,
                    _ => x.abs() / 256.0,
                };
                assert!((x - y).abs() <= bound, "{format:?}: {x} became {y}");
            }
        }
    }
}
