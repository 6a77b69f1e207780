//! What every operation computes, written to be read: naive loops in float64. Tests and benchmarks measure the fast
//! paths against these; letters are those of [`crate::backend`]. Each function is in the file of its operation.

pub use super::activation_pack::packed_values;
pub use super::activation_quant::quantize_activations;
pub use super::attention::{attention, attention_grad};
pub use super::linear::{linear, linear_grad_input, linear_grad_weight, round_bf16, round_fp8, round_int8};
pub use super::linear_grad_int8::{round_grad_columns, round_grad_rows};
pub use super::loss::cross_entropy;
pub use super::matmul::matmul;
pub use super::norm::{rms_norm, rms_norm_grad};
pub use super::rope::rope;
pub use super::scaling::unit_norm;
pub use super::swiglu::{swiglu, swiglu_grad};

use crate::quant::{GroupedShape, Simulation, WeightCodec, WeightFormat, nibble};
use half::{bf16, f16};

/// The values of float32 numbers.
pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// A weight as plain bytes, in the layout of its planes.
#[derive(Clone, Debug)]
pub struct Planes {
    /// Rows, columns, group.
    pub shape: GroupedShape,
    /// How `data` is to be read.
    pub format: WeightFormat,
    /// Floats, bytes or nibbles.
    pub data: Vec<u8>,
    /// f16, or a byte for a power of two, one per group.
    pub scales: Vec<u8>,
    /// f16, one per group.
    pub offsets: Vec<u8>,
}

impl Planes {
    /// What products see: `[rows, cols]`.
    pub fn values(&self) -> Vec<f64> {
        let GroupedShape { rows, cols, group, .. } = self.shape;
        let places = (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col)));
        let group_of = |row: usize, col: usize| row * self.shape.groups_per_row() + col / group;
        let padded = |row: usize, col: usize| row * self.shape.padded_cols() + col;
        let scale = |plane: &[u8], g: usize| f16::from_le_bytes([plane[2 * g], plane[2 * g + 1]]).to_f64();
        // A decoder of its own: what is under test shares no code with what it is held against.
        match self.format.codec() {
            WeightCodec::F32 => match self.format.simulates() {
                None => wide(&self.floats()),
                Some(simulation) => {
                    let floats = self.floats();
                    let run = if simulation.is_per_row() { cols } else { floats.len() };
                    let groups = floats.chunks(run).flat_map(|run| run.chunks(group));
                    groups.flat_map(|group| round_group(group, simulation)).collect()
                }
            },
            WeightCodec::F16 => panic!("only files hold f16"),
            WeightCodec::Bf16 => {
                let bits = |b: &[u8]| bf16::from_le_bytes([b[0], b[1]]).to_f64();
                self.data.chunks_exact(2).map(bits).collect()
            }
            WeightCodec::Int8 => places
                .map(|(r, c)| scale(&self.scales, group_of(r, c)) * f64::from(self.data[padded(r, c)] as i8))
                .collect(),
            WeightCodec::Int4 => places
                .map(|(r, c)| scale(&self.scales, group_of(r, c)) * (f64::from(nibble(&self.data, padded(r, c))) - 8.0))
                .collect(),
            WeightCodec::Int4Offset => places
                .map(|(r, c)| {
                    let (code, g) = (f64::from(nibble(&self.data, padded(r, c))), group_of(r, c));
                    scale(&self.scales, g) * code + scale(&self.offsets, g)
                })
                .collect(),
            WeightCodec::Fp4 => places
                .map(|(r, c)| {
                    const MAGNITUDES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
                    let code = nibble(&self.data, padded(r, c));
                    let sign = if code < 8 { 1.0 } else { -1.0 };
                    let power = 2f64.powi(i32::from(self.scales[group_of(r, c)]) - 127);
                    sign * MAGNITUDES[usize::from(code % 8)] * power
                })
                .collect(),
        }
    }

    fn floats(&self) -> Vec<f32> {
        self.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

/// The four-bit roundings of arXiv 2502.17055, and the symmetric counterpart of its INT4. In float32, as the fast path:
/// which neighbour a quotient is rounded to is part of the definition.
fn round_group(x: &[f32], simulation: Simulation) -> Vec<f64> {
    let (low, high) = x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
    let rounded: Vec<f32> = match simulation {
        Simulation::Int4 { offsets: true } | Simulation::Int4Rows { offsets: true } => {
            let scale = (high - low).max(1e-5) / 15.0;
            let zero = (-(low / scale).round_ties_even()).clamp(0.0, 15.0);
            x.iter().map(|x| scale * (((x / scale).round_ties_even() + zero).clamp(0.0, 15.0) - zero)).collect()
        }
        Simulation::Int4 { offsets: false } | Simulation::Int4Rows { offsets: false } => {
            let scale = high.abs().max(low.abs()).max(1e-5) / 7.0;
            x.iter().map(|x| scale * (x / scale).round_ties_even().clamp(-8.0, 7.0)).collect()
        }
        Simulation::Fp4 => round_but_two(x, |x, most| {
            let step = most.max(1e-6) / 4.0;
            step * (x / step).round_ties_even()
        }),
    };
    wide(&rounded)
}

/// All elements but the two largest (of equal ones the first), each by `round` of it and of the largest of these others.
pub(super) fn round_but_two(x: &[f32], round: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[b].abs().total_cmp(&x[a].abs()));
    let others = order.split_off(2.min(x.len()));
    let most = others.first().map_or(0.0, |&i| x[i].abs());
    let mut out = x.to_vec();
    others.into_iter().for_each(|i| out[i] = round(x[i], most));
    out
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
