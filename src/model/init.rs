//! Filling parameters from floats: initial values, and what an importer brings.

use super::{Init, Model, ParamSpec, magnitude};
use crate::backend::{Backend, Param, Weight};
use crate::memory::Span;
use crate::quant::{RngKey, RngUse, RowEncoder, RowPlanes, WeightPlane};
use rayon::prelude::*;

/// Sets a weight from float32 rows: `row(r, out)` fills row `r` (`out` has `cols` elements). Rounds to nearest.
pub fn fill(backend: &mut dyn Backend, weight: &Weight, row: &mut dyn FnMut(usize, &mut [f32])) {
    let mut values = vec![0.0; weight.shape.cols];
    let mut encoder = RowEncoder::new(weight.format, weight.shape);
    let mut planes = room(weight, 1);
    for r in 0..weight.shape.rows {
        row(r, &mut values);
        let [data, scales, offsets, residue] = planes.each_mut().map(Vec::as_mut_slice);
        encoder.encode(&values, &mut RowPlanes { data, scales, offsets, residue });
        upload(backend, weight, r, &planes);
    }
}

/// The same where rows do not depend on each other: by all threads of the caller's pool.
fn fill_rows(backend: &mut dyn Backend, weight: &Weight, row: impl Fn(usize, &mut [f32]) + Sync) {
    let shape = weight.shape;
    let at_once = (PIECE / shape.cols).min(shape.rows).max(1);
    let mut planes = room(weight, at_once);
    for first in (0..shape.rows).step_by(at_once) {
        let count = at_once.min(shape.rows - first);
        for (plane, kind) in planes.iter_mut().zip(WeightPlane::ALL) {
            plane.truncate(count * row_bytes(weight, kind));
        }
        let rows = RowPlanes::rows(&mut planes, count);
        let tools = || (RowEncoder::new(weight.format, shape), vec![0.0; shape.cols]);
        rows.into_par_iter().enumerate().for_each_init(tools, |(encoder, values), (r, mut planes)| {
            row(first + r, values);
            encoder.encode(values, &mut planes);
        });
        upload(backend, weight, first, &planes);
    }
}

/// Weights that threads make before they are uploaded.
const PIECE: usize = 1 << 18;

fn row_bytes(weight: &Weight, plane: WeightPlane) -> usize {
    weight.format.plane(plane).map_or(0, |layout| layout.row_bytes(weight.shape))
}

/// Room for so many rows of a weight's planes.
fn room(weight: &Weight, count: usize) -> [Vec<u8>; 4] {
    WeightPlane::ALL.map(|plane| vec![0; count * row_bytes(weight, plane)])
}

/// Rows to their places from row `first` on, except planes that another rank holds.
fn upload(backend: &mut dyn Backend, weight: &Weight, first: usize, planes: &[Vec<u8>; 4]) {
    let planes = WeightPlane::ALL.into_iter().zip(planes).filter(|(_, bytes)| !bytes.is_empty());
    for (plane, bytes) in planes.filter(|(plane, _)| !weight.span(*plane).is_away()) {
        backend.upload(bytes, weight.span(plane).part(first * row_bytes(weight, plane), bytes.len()));
    }
}

/// Gives a placed model its first values: gains are 1, biases 0, matrices normal with `init_std`, moments zero. Beside an
/// adapter the base is left as it is; where B begins at 0 the model begins as the base.
pub fn initialize(model: &Model, backend: &mut dyn Backend) {
    initialize_but(model, backend, |_| false);
}

/// The same for parameters of which those that are `given` get their weights afterwards, every plane: of them only the moments are
/// set. First values of all were half of the processor time that a fine-tune of SmolLM2's shape took to start.
pub(crate) fn initialize_but(model: &Model, backend: &mut dyn Backend, given: impl Fn(&ParamSpec) -> bool) {
    let frozen = |spec: &ParamSpec| !model.settings.adapters.is_empty() && !spec.kind.is_adapter();
    for (spec, param) in model.specs.iter().zip(&model.stored).filter(|(spec, _)| !frozen(spec)) {
        zero_state(param, backend);
        param.state.planes().for_each(|span| backend.advise_cold(span));
        if given(spec) {
            continue;
        }
        let key = RngKey { seed: model.settings.seed, step: 0, tensor: param.id, usage: RngUse::Init };
        let (std, padded) = (model.settings.model.init_std as f32, param.weight.shape.padded_cols() as u64);
        fill_rows(backend, &param.weight, |row, values| match spec.kind.init() {
            Init::Normal => {
                key.normal(row as u64 * padded, values);
                values.iter_mut().for_each(|x| *x *= std);
            }
            Init::StandardNormal => key.normal(row as u64 * padded, values),
            Init::Uniform => {
                key.uniform_row(row as u64 * padded, values);
                let most = 1.0 / (values.len() as f32).sqrt();
                values.iter_mut().for_each(|x| *x = most * (2.0 * *x - 1.0));
            }
            Init::Prefix => {
                key.uniform_row(row as u64 * padded, values);
                values.iter_mut().for_each(|x| *x *= 0.01);
            }
            Init::Ones => values.fill(1.0),
            Init::Zeros | Init::Measured => values.fill(0.0),
        });
        param.weight.planes().into_iter().for_each(|span| backend.advise_cold(span));
    }
    magnitude::initialize(model, backend);
}

/// State tensors that are zero, where this rank holds them.
fn zero_state(param: &Param, backend: &mut dyn Backend) {
    for tensor in param.state.tensors().filter(|tensor| !tensor.data.is_away()) {
        match tensor.spec.format.codec.zero_byte() {
            0 => backend.zero(tensor.data),
            byte => repeat(backend, byte, tensor.data),
        }
        if !tensor.scales.is_none() {
            backend.zero(tensor.scales);
        }
    }
}

/// Sets all bytes of a span.
fn repeat(backend: &mut dyn Backend, byte: u8, span: Span) {
    let piece = [byte; 1 << 14];
    for from in (0..span.bytes).step_by(piece.len()) {
        let count = piece.len().min(span.bytes - from);
        backend.upload(&piece[..count], span.part(from, count));
    }
}
