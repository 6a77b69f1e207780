//! Filling parameters from floats: initial values, and what an importer brings.

use super::{Model, table};
use crate::backend::{Backend, Moment, Param, Weight};
use crate::quant::{PAD_NIBBLE, RngKey, RngUse, RowEncoder, RowPlanes, WeightPlane};

/// Sets a weight from float32 rows: `row(r, out)` fills row `r` (`out` has `cols` elements). Rounds to nearest.
pub fn fill(backend: &mut dyn Backend, weight: &Weight, row: &mut dyn FnMut(usize, &mut [f32])) {
    let shape = weight.shape;
    let mut values = vec![0.0; shape.cols];
    let mut encoder = RowEncoder::new(weight.format, shape);
    let mut planes = WeightPlane::ALL.map(|plane| {
        let bytes = weight.format.plane(plane).map_or(0, |layout| layout.row_bytes(shape));
        vec![0; bytes]
    });
    for r in 0..shape.rows {
        row(r, &mut values);
        let [data, scales, offsets, residue] = planes.each_mut().map(Vec::as_mut_slice);
        encoder.encode(&values, &mut RowPlanes { data, scales, offsets, residue });
        for (plane, bytes) in WeightPlane::ALL.into_iter().zip(&planes).filter(|(_, bytes)| !bytes.is_empty()) {
            backend.upload(bytes, weight.span(plane).part(r * bytes.len(), bytes.len()));
        }
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
        param.weight.planes().into_iter().chain(param.state.planes()).for_each(|span| backend.rest(span));
    }
}

/// Moments that are zero: all bytes zero, but a signed nibble's zero is 8.
fn zero_state(param: &Param, backend: &mut dyn Backend) {
    let s = &param.state;
    s.planes().into_iter().filter(|span| !span.is_none()).for_each(|span| backend.zero(span));
    if s.m_kind == Moment::Int4 && !s.m.is_none() {
        backend.upload(&vec![PAD_NIBBLE * 17; s.m.bytes], s.m);
    }
}
