//! Filling parameters from floats: initial values, and what an importer brings.

use super::{Model, table};
use crate::backend::{Backend, Param, Scheme, Weight, WeightKind};
use crate::memory::Span;
use crate::quant::{GroupedShape, PAD_NIBBLE, QuantGrid, RngKey, RngUse, Rounding, bf16_stochastic, pack};
use half::f16;
use zerocopy::IntoBytes;

/// Sets a weight from float32 rows: `row(r, out)` fills row `r` (`out` has `cols` elements). Rounds to nearest.
pub fn fill(backend: &mut dyn Backend, weight: &Weight, row: &mut dyn FnMut(usize, &mut [f32])) {
    let g = weight.shape;
    let mut values = vec![0.0; g.cols];
    let mut packed = PackedRow::new(g);
    for r in 0..g.rows {
        row(r, &mut values);
        match weight.kind {
            WeightKind::F32 | WeightKind::Int4Simulated => {
                backend.upload(values.as_bytes(), weight.data.part(4 * r * g.cols, 4 * g.cols));
            }
            WeightKind::Bf16 => {
                // One half of the last bit: to nearest.
                let bits: Vec<u16> = values.iter().map(|&x| bf16_stochastic(x, 0.5)).collect();
                backend.upload(bits.as_bytes(), weight.data.part(2 * r * g.cols, 2 * g.cols));
            }
            WeightKind::Int8 => {
                packed.quantize(&values, &QuantGrid::INT8, false);
                let bytes: Vec<i8> = packed.b.iter().map(|&b| b as i32 as i8).collect();
                backend.upload(bytes.as_bytes(), row_of(weight.data, r, g.padded_cols()));
                backend.upload(packed.scales.as_bytes(), row_of(weight.scales, r, 2 * g.groups_per_row()));
            }
            WeightKind::Int4 => fill_int4(backend, weight, r, &values, &mut packed),
        }
    }
}

fn row_of(span: Span, row: usize, bytes: usize) -> Span {
    span.part(row * bytes, bytes)
}

fn fill_int4(backend: &mut dyn Backend, weight: &Weight, r: usize, values: &[f32], packed: &mut PackedRow) {
    let g = weight.shape;
    let fine = !weight.residue.is_none();
    let grid = if fine { QuantGrid::INT4 } else { QuantGrid::CODES };
    packed.quantize(values, &grid, weight.scheme == Scheme::Asymmetric);
    let half = g.padded_cols() / 2;
    if fine {
        backend.upload(packed.nibbles(|b| b >> 4), row_of(weight.data, r, half));
        backend.upload(packed.nibbles(|b| b & 15), row_of(weight.residue, r, half));
    } else {
        backend.upload(packed.nibbles(|b| b), row_of(weight.data, r, half));
    }
    backend.upload(packed.scales.as_bytes(), row_of(weight.scales, r, 2 * g.groups_per_row()));
    if !weight.offsets.is_none() {
        backend.upload(packed.offsets.as_bytes(), row_of(weight.offsets, r, 2 * g.groups_per_row()));
    }
}

/// One row on its way into planes.
struct PackedRow {
    shape: GroupedShape,
    /// Stored numbers, padded.
    b: Vec<f32>,
    scales: Vec<u16>,
    offsets: Vec<u16>,
    codes: Vec<u8>,
    plane: Vec<u8>,
}

impl PackedRow {
    fn new(g: GroupedShape) -> Self {
        Self {
            shape: g,
            b: vec![0.0; g.padded_cols()],
            scales: vec![0; g.groups_per_row()],
            offsets: vec![0; g.groups_per_row()],
            codes: vec![0; g.padded_cols()],
            plane: vec![0; g.padded_cols() / 2],
        }
    }

    fn quantize(&mut self, values: &[f32], grid: &QuantGrid, asymmetric: bool) {
        for (i, values) in values.chunks(self.shape.group).enumerate() {
            let b = &mut self.b[i * self.shape.group..][..values.len()];
            let group_scale = grid.quantize(values, asymmetric, Rounding::Nearest, b);
            self.scales[i] = f16::from_f32(group_scale.scale).to_bits();
            self.offsets[i] = f16::from_f32(group_scale.offset.unwrap_or(0.0)).to_bits();
        }
    }

    /// A nibble plane of `part` of every stored number.
    fn nibbles(&mut self, part: impl Fn(u8) -> u8) -> &[u8] {
        for (code, &b) in self.codes.iter_mut().zip(&self.b) {
            *code = part(b as i32 as u8);
        }
        self.codes[self.shape.cols..].fill(PAD_NIBBLE);
        pack(&self.codes, &mut self.plane);
        &self.plane
    }
}

/// Gives a placed model its first values: gains are 1, biases 0, matrices normal with `init_std`, moments zero.
pub fn initialize(model: &Model, backend: &mut dyn Backend) {
    for (entry, param) in table(&model.settings).iter().zip(model.stored.all()) {
        let key = RngKey { seed: model.settings.seed, step: 0, tensor: param.id, usage: RngUse::Init };
        let (std, padded) = (model.settings.model.init_std as f32, param.weight.shape.padded_cols() as u64);
        fill(backend, &param.weight, &mut |row, values| {
            if !entry.role.is_vector() {
                key.normal(row as u64 * padded, values);
                values.iter_mut().for_each(|x| *x *= std);
            } else {
                values.fill(if entry.role.is_norm() { 1.0 } else { 0.0 });
            }
        });
        zero_state(param, backend);
        param.weight.planes().into_iter().chain(param.state.planes()).for_each(|span| backend.advise_cold(span));
    }
}

/// State tensors that are zero.
fn zero_state(param: &Param, backend: &mut dyn Backend) {
    for tensor in param.state.tensors() {
        match tensor.spec.format.codec.zero_byte() {
            0 => backend.zero(tensor.data),
            byte => backend.upload(&vec![byte; tensor.data.bytes], tensor.data),
        }
        if !tensor.scales.is_none() {
            backend.zero(tensor.scales);
        }
    }
}
