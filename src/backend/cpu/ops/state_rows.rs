//! What rules do with state tensors, group by group: decode, move, store. Written once, in the order that every backend
//! keeps, and vectorized by the compiler; no operation in it may be contracted or reordered.

use super::apply_update::{At, MAX, groups};
use super::param_rows::MomentRows;
use crate::backend::cpu::simd::isa::Isa;
use crate::backend::cpu::simd::uniform::uniform;
use crate::backend::{DirectionArgs, MomentumArgs};
use crate::quant::{GroupedShape, MomentCodec, RngKey, RngUse, pack, unpack};

/// [`crate::backend::Backend::momentum`] for some rows, `first` the number of the first.
#[inline(always)]
pub fn momentum_rows(
    isa: Isa,
    (shape, first): (GroupedShape, usize),
    state: &mut MomentRows,
    x: &mut [f32],
    args: &MomentumArgs,
    key: RngKey,
) {
    let (mut m, mut u, mut codes) = ([0.0; MAX], [0.0; MAX], [0; MAX]);
    for at in groups(shape, first, x.len() / shape.cols) {
        load_moment(state, at, &mut m, &mut codes);
        let x = &mut x[at.plain..at.plain + at.real];
        for (x, s) in x.iter_mut().zip(&mut m) {
            let (old, new) = (*s, args.keep * *s + args.add * *x);
            let result = args.of_x * *x + args.of_old * old + args.of_new * new;
            *x = if args.sign != 0 { sign(result) } else { result };
            *s = new;
        }
        // A group's padding must not disturb its scale.
        m[at.real..at.size].fill(0.0);
        uniform(isa, &key, at.number, &mut u[..at.size]);
        store_moment(state, at, &mut m, &u, &mut codes, false);
    }
}

/// [`crate::backend::Backend::adam_direction`] for some rows, `first` the number of the first.
#[inline(always)]
pub fn direction_rows(
    isa: Isa,
    (shape, first): (GroupedShape, usize),
    [m, v]: [&mut MomentRows; 2],
    x: &mut [f32],
    args: &DirectionArgs,
    id: u32,
) {
    let ([mut ms, mut vs, mut u], mut codes) = ([[0.0; MAX]; 3], [0; MAX]);
    let key = |usage| RngKey { seed: args.seed, step: args.number, tensor: id, usage };
    for at in groups(shape, first, x.len() / shape.cols) {
        load_moment(m, at, &mut ms, &mut codes);
        load_moment(v, at, &mut vs, &mut codes);
        let x = &mut x[at.plain..at.plain + at.real];
        // Compact second moments are stored by their roots.
        let rooted = !matches!(v, MomentRows::F32(_));
        for ((x, m), v) in x.iter_mut().zip(&mut ms).zip(&mut vs) {
            *m = args.beta1 * *m + args.one_minus_beta1 * *x;
            let moment = args.beta2 * *v + args.one_minus_beta2 * (*x * *x);
            let root = moment.sqrt();
            *x = args.factor * *m / (root * args.root + args.eps);
            *v = if rooted { root } else { moment };
        }
        // A group's padding must not disturb its scale.
        ms[at.real..at.size].fill(0.0);
        vs[at.real..at.size].fill(0.0);
        uniform(isa, &key(RngUse::M), at.number, &mut u[..at.size]);
        store_moment(m, at, &mut ms, &u, &mut codes, false);
        uniform(isa, &key(RngUse::V), at.number, &mut u[..at.size]);
        store_moment(v, at, &mut vs, &u, &mut codes, rooted);
    }
}

/// [`crate::backend::Backend::load_state`] for some rows.
#[inline(always)]
pub fn load_rows(shape: GroupedShape, state: &MomentRows, out: &mut [f32]) {
    let (mut m, mut codes) = ([0.0; MAX], [0; MAX]);
    for at in groups(shape, 0, out.len() / shape.cols) {
        load_moment(state, at, &mut m, &mut codes);
        out[at.plain..at.plain + at.real].copy_from_slice(&m[..at.real]);
    }
}

/// -1, 0 or 1; 0 for what is not a number.
#[inline(always)]
fn sign(x: f32) -> f32 {
    f32::from(u8::from(x > 0.0)) - f32::from(u8::from(x < 0.0))
}

/// A group of a moment, decoded.
#[inline(always)]
pub(super) fn load_moment(moment: &MomentRows, at: At, out: &mut [f32; MAX], codes: &mut [u8; MAX]) {
    match moment {
        MomentRows::F32(data) => out[..at.real].copy_from_slice(&data[at.plain..at.plain + at.real]),
        MomentRows::Bytes(codec, bytes, scales) => {
            codec.decode(&bytes[at.padded..at.padded + at.size], scales[at.group], &mut out[..at.size]);
        }
        MomentRows::Nibbles(codec, plane, scales) => {
            unpack(&plane[at.padded / 2..(at.padded + at.size) / 2], &mut codes[..at.size]);
            codec.from_nibbles(&mut codes[..at.size]);
            codec.decode(&codes[..at.size], scales[at.group], &mut out[..at.size]);
        }
        MomentRows::Absent => {}
        MomentRows::Shared { rows, factors: [] } => out[..at.real].fill(rows[at.row]),
        MomentRows::Shared { rows, factors } => {
            let number = rows[at.row];
            for (out, factor) in out.iter_mut().zip(&factors[at.col..at.col + at.real]) {
                *out = number * factor;
            }
        }
    }
}

/// Stores a group of a moment, of which compact second moments may be given as their roots (`rooted`); `u` decides how its
/// numbers are rounded.
#[inline(always)]
pub(super) fn store_moment(
    moment: &mut MomentRows,
    at: At,
    values: &mut [f32; MAX],
    u: &[f32; MAX],
    codes: &mut [u8; MAX],
    rooted: bool,
) {
    let values = &mut values[..at.size];
    let mut encode = |codec: &MomentCodec, codes: &mut [u8]| match rooted {
        true => codec.encode_roots(values, u, codes),
        false => codec.encode(values, u, codes),
    };
    match moment {
        MomentRows::F32(data) => data[at.plain..at.plain + at.real].copy_from_slice(&values[..at.real]),
        MomentRows::Bytes(codec, bytes, scales) => {
            scales[at.group] = encode(codec, &mut bytes[at.padded..at.padded + at.size]);
        }
        MomentRows::Nibbles(codec, plane, scales) => {
            let codes = &mut codes[..at.size];
            scales[at.group] = encode(codec, codes);
            codec.to_nibbles(codes);
            pack(codes, &mut plane[at.padded / 2..(at.padded + at.size) / 2]);
        }
        // Made from the state's means, which are stored already; or there is nothing to store.
        MomentRows::Shared { .. } | MomentRows::Absent => {}
    }
}
