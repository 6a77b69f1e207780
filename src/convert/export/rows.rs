//! Rows of a tensor in the types of other formats.

use crate::convert::names::RowOrder;
use crate::convert::quants::Kind;
use crate::format::{Decoder, File, PlaneKind, Role};
use crate::quant::{BLOCK, WeightFormat, WeightPlane};
use half::{bf16, f16};
use rayon::prelude::*;
use std::io;

/// A type of floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatType {
    /// bfloat16: half the bytes, and eight bits of every value.
    Bf16,
    /// IEEE half precision.
    F16,
    /// float32: every trained value exactly.
    F32,
}

impl FloatType {
    /// As a tensor's type.
    pub fn kind(self) -> Kind {
        match self {
            Self::Bf16 => Kind::Bf16,
            Self::F16 => Kind::F16,
            Self::F32 => Kind::F32,
        }
    }

    /// Its name in torch.
    pub fn torch(self) -> &'static str {
        match self {
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
        }
    }
}

/// Bytes of one piece.
const PIECE: usize = 1 << 20;

/// Sends all rows of tensor `tensor` as `kind`, in the order of rows of the target format.
///
/// # Errors
/// Those of `sink`; a value that `kind` cannot hold.
pub fn send(
    file: &File<'_>,
    tensor: usize,
    kind: Kind,
    order: RowOrder,
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let spec = &file.tensors()[tensor].spec;
    let (rows, cols) = (spec.rows() as usize, spec.cols() as usize);
    let row_bytes = kind.row_bytes(cols);
    let at_once = (PIECE / row_bytes).clamp(1, rows);
    let mut piece = vec![0; at_once * row_bytes];
    for first in (0..rows).step_by(at_once) {
        let count = at_once.min(rows - first);
        let piece = &mut piece[..count * row_bytes];
        let encoded = piece.par_chunks_mut(row_bytes).enumerate().with_min_len(16).try_for_each_init(
            || vec![0.0; cols],
            |values, (i, out)| encode(file, tensor, order.ours(first + i), kind, values, out),
        );
        encoded.map_err(|()| {
            let name = &spec.name;
            io::Error::other(format!("a value of {name} exceeds the range of {}; ask for f32", kind.name()))
        })?;
        sink(piece)?;
    }
    Ok(())
}

fn encode(
    file: &File<'_>,
    tensor: usize,
    row: usize,
    kind: Kind,
    values: &mut [f32],
    out: &mut [u8],
) -> Result<(), ()> {
    let codec = file.tensors()[tensor].spec.storage;
    if codec.is_grouped() && kind == Kind::of(codec) {
        repack(file, tensor, row, kind, out);
        return Ok(());
    }
    let decoder = Decoder::new(file, tensor, Role::Weight).expect("every tensor has the planes of its weight");
    decoder.row(row, values);
    match kind {
        Kind::F32 => each(out, values, |x| x.to_le_bytes()),
        Kind::Bf16 => each(out, values, |x| bf16::from_f32(x).to_le_bytes()),
        Kind::F16 => each(out, values, |x| f16::from_f32(x).to_le_bytes()),
        Kind::Q8_0 => out.chunks_exact_mut(34).zip(values.chunks_exact(32)).for_each(|(out, x)| q8_0(x, out)),
        Kind::Q4_0 => out.chunks_exact_mut(18).zip(values.chunks_exact(32)).for_each(|(out, x)| q4_0(x, out)),
        other => unreachable!("{} is not written", other.name()),
    }
    let most = if kind == Kind::F32 || kind == Kind::Bf16 { f32::MAX } else { f16::MAX.to_f32() };
    if values.iter().all(|x| x.abs() <= most) { Ok(()) } else { Err(()) }
}

fn each<const N: usize>(out: &mut [u8], values: &[f32], bytes: impl Fn(f32) -> [u8; N]) {
    for (out, &x) in out.chunks_exact_mut(N).zip(values) {
        out.copy_from_slice(&bytes(x));
    }
}

/// Copies groups into blocks of 32, bit for bit; each block of a larger group gets the group's scale.
fn repack(file: &File<'_>, tensor: usize, row: usize, kind: Kind, out: &mut [u8]) {
    let bytes = |plane| file.plane(tensor, plane).map(|view| view.bytes);
    let spec = &file.tensors()[tensor].spec;
    let (codec, g) = (spec.storage, spec.grouped_shape().expect("quantized tensors have groups"));
    let data = bytes(PlaneKind::of_weight(codec, WeightPlane::Data)).unwrap_or_default();
    let scales = bytes(PlaneKind::Scales).unwrap_or_default();
    let offsets = bytes(PlaneKind::Offsets);
    let block_data = BLOCK * codec.element().bits() as usize / 8;
    let scale = WeightFormat::of(codec).scale().bits() as usize / 8;
    let first = row * g.padded_cols() / BLOCK;
    for (b, out) in out.chunks_exact_mut(kind.block_bytes()).enumerate() {
        let group = row * g.groups_per_row() + BLOCK * b / g.group;
        out[..scale].copy_from_slice(&scales[scale * group..][..scale]);
        if let Some(offsets) = offsets {
            out[scale..2 * scale].copy_from_slice(&offsets[scale * group..][..scale]);
        }
        let at = out.len() - block_data;
        out[at..].copy_from_slice(&data[(first + b) * block_data..][..block_data]);
    }
}

/// Scale that puts the largest magnitude at 127.
fn q8_0(values: &[f32], out: &mut [u8]) {
    let most = values.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let d = f16::from_f32(most / 127.0);
    let inverse = if d.to_f32() > 0.0 { 1.0 / d.to_f32() } else { 0.0 };
    out[..2].copy_from_slice(&d.to_le_bytes());
    for (out, x) in out[2..].iter_mut().zip(values) {
        *out = (x * inverse).round().clamp(-127.0, 127.0) as i8 as u8;
    }
}

/// Scale that puts the value of the largest magnitude at code 0, as ggml does.
fn q4_0(values: &[f32], out: &mut [u8]) {
    let most = values.iter().copied().fold(0.0f32, |most, x| if x.abs() > most.abs() { x } else { most });
    let d = f16::from_f32(most / -8.0);
    let inverse = if d.to_f32() == 0.0 { 0.0 } else { 1.0 / d.to_f32() };
    out[..2].copy_from_slice(&d.to_le_bytes());
    let code = |x: f32| ((x * inverse + 8.5).floor()).clamp(0.0, 15.0) as u8;
    for j in 0..16 {
        out[2 + j] = code(values[j]) | code(values[j + 16]) << 4;
    }
}
