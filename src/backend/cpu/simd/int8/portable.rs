//! Integer products in plain loops, compiled for each instruction set.

use super::{COLS, Groups, LeftRow, Panel, ROWS, Range, TileMut};
use crate::backend::cpu::simd::isa::{madd, vectorized};
use crate::backend::cpu::simd::reduce::fold_halves;
use crate::quant::RowDecoder;

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
    pub(super) fn dots(
        groups: Groups,
        left: &[f32],
        weights: (&RowDecoder<'_>, usize),
        numbers: &mut [f32],
        out: TileMut<'_>,
        goes_on: bool,
    ) {
        let ((w, first), mut out) = (weights, out);
        let (row, nibbles) = (LeftRow::of(groups).len(), w.integers().nibbles);
        let (scales, offsets) = numbers.split_at_mut(groups.count);
        let offsets = &mut offsets[..if groups.offsets { groups.count } else { 0 }];
        for j in 0..out.cols() {
            w.integer_scales(first + j, scales, offsets);
            let stored = (w.integer_bytes(first + j), nibbles.as_ref());
            for t in 0..out.rows() {
                let sum = dot::<FMA>(groups, &left[t * row..][..row], stored, scales, offsets);
                let y = &mut out.row(t)[j];
                *y = if goes_on { *y + sum } else { sum };
            }
        }
    }
}

#[inline(always)]
fn dot<const FMA: bool>(
    groups: Groups,
    left: &[f32],
    stored: (&[u8], Option<&[u8; 16]>),
    scales: &[f32],
    offsets: &[f32],
) -> f32 {
    let row = LeftRow::of(groups);
    let (mut sums, mut means) = ([0.0f32; 16], [0.0f32; 16]);
    for (g, scale) in scales.iter().enumerate() {
        let (from, to) = (g * groups.words / 8, (g + 1) * groups.words / 8);
        // A group of one block has half of the lanes.
        let first = from % 2 * 8;
        let mut products = [0i32; 16];
        products[first] = left[row.starts() + g].to_bits().cast_signed();
        for block in from..to {
            let (words, weights) = (&left[8 * block..][..8], block_of(stored, block));
            for l in 0..8 {
                let x = words[l].to_bits().to_le_bytes().map(u8::cast_signed);
                for b in 0..4 {
                    products[block % 2 * 8 + l] += i32::from(weights[4 * l + b]) * i32::from(x[b]);
                }
            }
        }
        for l in first..first + groups.words.min(16) {
            sums[l] = madd::<FMA>(products[l] as f32, scale * left[row.scales() + g], sums[l]);
        }
    }
    if offsets.is_empty() {
        return fold_halves(sums);
    }
    for (g, &offset) in offsets.iter().enumerate() {
        means[g % 16] = madd::<FMA>(offset, left[row.means() + g], means[g % 16]);
    }
    fold_halves(sums) + fold_halves(means)
}

/// 32 integers.
#[inline(always)]
fn block_of((bytes, nibbles): (&[u8], Option<&[u8; 16]>), block: usize) -> [u8; 32] {
    match nibbles {
        None => std::array::from_fn(|i| bytes[32 * block + i] ^ 0x80),
        Some(meanings) => std::array::from_fn(|i| {
            let byte = bytes[16 * block + i % 16];
            meanings[usize::from(if i < 16 { byte & 15 } else { byte >> 4 })]
        }),
    }
}
