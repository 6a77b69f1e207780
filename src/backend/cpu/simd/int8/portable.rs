//! Integer products in plain loops, compiled for each instruction set.

use super::{COLS, Dots, Groups, LeftRow, Panel, QUAD, ROWS, Range, TileMut};
use crate::backend::cpu::simd::isa::{madd, vectorized};
use crate::backend::cpu::simd::reduce::fold_halves;

vectorized! {
    /// See [`super::tile`].
    pub(super) fn tile(groups: Groups, left: &[f32], panel: &[f32], range: Range, out: TileMut<'_>) {
        let (row, wide, mut out) = (LeftRow::of(groups), Panel::of(groups), out);
        for i in 0..out.rows().min(ROWS) {
            let left = &left[i * row.len()..][..row.len()];
            let mut sums = [0.0f32; COLS];
            let cols = out.cols();
            if range.goes_on {
                sums[..cols].copy_from_slice(out.row(i));
            }
            for g in range.first..range.first + range.count {
                let mut products = [left[row.starts() + g].to_bits().cast_signed(); COLS];
                for k in g * groups.words..(g + 1) * groups.words {
                    let x = left[k].to_bits().to_le_bytes().map(u8::cast_signed);
                    let weights = &panel[k * COLS..][..COLS];
                    for j in 0..COLS {
                        products[j] += four(weights[j].to_bits(), x);
                    }
                }
                let scales = &panel[wide.codes() + g * COLS..][..COLS];
                for j in 0..COLS {
                    sums[j] = madd::<FMA>(products[j] as f32, scales[j] * left[row.scales() + g], sums[j]);
                }
                if groups.offsets {
                    let offsets = &panel[wide.offsets() + g * COLS..][..COLS];
                    for j in 0..COLS {
                        sums[j] = madd::<FMA>(offsets[j], left[row.means() + g], sums[j]);
                    }
                }
            }
            out.row(i).copy_from_slice(&sums[..cols]);
        }
    }
}

/// Four products of a word.
#[inline(always)]
fn four(weights: u32, x: [i8; 4]) -> i32 {
    let w = |i: u32| (weights >> (8 * i) & 0xff).cast_signed();
    w(0) * i32::from(x[0]) + w(1) * i32::from(x[1]) + w(2) * i32::from(x[2]) + w(3) * i32::from(x[3])
}

vectorized! {
    /// See [`super::dots`].
    pub(super) fn dots(dots: Dots<'_>) {
        let groups = dots.groups;
        each_dot::<FMA>(dots, |left, stored, scales| dot::<FMA>(groups, left, stored, scales));
    }
}

/// The bytes of a row of a weight, and where two integers lie in one, what each nibble stands for.
pub(super) type Stored<'a> = (&'a [u8], Option<&'a [u8; 16]>);

/// See [`super::dots`]; `dot` is given a row of activations, one of the weight, and the products of their scales, which four
/// numbers follow: the sum of the products of integers.
#[inline(always)]
pub(super) fn each_dot<const FMA: bool>(dots: Dots<'_>, dot: impl Fn(&[f32], Stored<'_>, &[f32]) -> f32) {
    let Dots { groups, left, w, first, numbers, mut out, goes_on } = dots;
    let (row, integers) = (LeftRow::of(groups), w.integers());
    let (scales, rest) = numbers.split_at_mut(groups.count);
    let (offsets, products) = rest.split_at_mut(groups.count);
    offsets.fill(0.0);
    for j in 0..out.cols() {
        w.integer_scales(first + j, scales, &mut offsets[..if groups.offsets { groups.count } else { 0 }]);
        let stored = (w.integer_bytes(first + j), integers.nibbles.as_ref());
        for t in 0..out.rows() {
            let left = &left[t * row.len()..][..row.len()];
            for ((product, scale), own) in products.iter_mut().zip(&*scales).zip(&left[row.scales()..]) {
                *product = scale * own;
            }
            let mut sum = dot(left, stored, products);
            if groups.offsets || integers.zero != 0 {
                sum += corrections::<FMA>(groups, left, integers.zero, scales, offsets);
            }
            let y = &mut out.row(t)[j];
            *y = if goes_on { *y + sum } else { sum };
        }
    }
}

/// The sums of products of integers.
#[inline(always)]
fn dot<const FMA: bool>(groups: Groups, left: &[f32], stored: Stored<'_>, scales: &[f32]) -> f32 {
    let mut sums = [0.0f32; 4 * QUAD];
    for block in 0..groups.blocks() {
        let (g, quad, b) = (block * 8 / groups.words, block / QUAD, block % QUAD);
        let (weights, words) = (block_of(stored, block), &left[8 * QUAD * quad + 4 * b..]);
        let bytes = |word: usize| words[word].to_bits().to_le_bytes().map(|byte| i32::from(byte.cast_signed()));
        for w in 0..4 {
            let (low, high) = (bytes(w), bytes(4 * QUAD + w));
            let products: i32 = (0..4)
                .map(|i| i32::from(weights[4 * w + i]) * low[i] + i32::from(weights[16 + 4 * w + i]) * high[i])
                .sum();
            sums[4 * b + w] = madd::<FMA>(products as f32, scales[g], sums[4 * b + w]);
        }
    }
    fold_halves(sums)
}

/// The sums of what a group's mean is multiplied by.
#[inline(always)]
fn corrections<const FMA: bool>(groups: Groups, left: &[f32], zero: u8, scales: &[f32], offsets: &[f32]) -> f32 {
    let (mut sums, means) = ([0.0f32; 16], &left[LeftRow::of(groups).means()..]);
    for ((scales, offsets), means) in scales.chunks(16).zip(offsets.chunks(16)).zip(means.chunks(16)) {
        for (((sum, scale), offset), mean) in sums.iter_mut().zip(scales).zip(offsets).zip(means) {
            *sum = madd::<FMA>(madd::<FMA>(-f32::from(zero), *scale, *offset), *mean, *sum);
        }
    }
    fold_halves(sums)
}

/// 32 integers.
#[inline(always)]
fn block_of((bytes, nibbles): Stored<'_>, block: usize) -> [u8; 32] {
    match nibbles {
        None => std::array::from_fn(|i| bytes[32 * block + i] ^ 0x80),
        Some(meanings) => std::array::from_fn(|i| {
            let byte = bytes[16 * block + i % 16];
            meanings[usize::from(if i < 16 { byte & 15 } else { byte >> 4 })]
        }),
    }
}
