//! Operands rounded and laid in words.

use super::{BLOCK, COLS, HIGH, Operand, ROWS, STRIP, WORDS};
use crate::backend::cpu::simd::gemm;
use crate::backend::cpu::simd::isa::{Isa, vectorized};
use crate::backend::cpu::simd::tile::TileMut;
use zerocopy::{FromBytes, IntoBytes};

const SIGN: u32 = 1 << 31;

/// The nearest bfloat16 in the upper half, halves to the even neighbour; the lower half is anything.
#[inline(always)]
pub(super) fn round(x: f32, operand: Operand) -> u32 {
    const INFINITE: u32 = f32::INFINITY.to_bits();
    const NAN: u32 = 0x7fc0_0000;
    let bits = x.to_bits();
    let magnitude = bits & !SIGN;
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let kept = if magnitude < operand.least() { 0 } else { rounded };
    if magnitude > INFINITE { NAN } else { kept }
}

vectorized! {
    /// A row along the sum, and zeros to the end of `words`.
    ///
    /// # Panics
    /// If `words` are too few.
    pub(crate) fn round_row(x: &[f32], operand: Operand, words: &mut [f32]) {
        round_into(x, operand, words);
    }
}

/// The same in line.
#[inline(always)]
fn round_into(x: &[f32], operand: Operand, words: &mut [f32]) {
    // The former of a pair is in the lower half, so on a little-endian machine the words are the numbers as they follow each
    // other.
    const { assert!(cfg!(target_endian = "little")) };
    let halves = <[u16]>::mut_from_bytes(words.as_mut_bytes()).expect("a word is two halves");
    let (halves, padding) = halves.split_at_mut(x.len());
    for (half, &x) in halves.iter_mut().zip(x) {
        *half = (round(x, operand) >> 16) as u16;
    }
    padding.fill(0);
}

vectorized! {
    /// Up to [`ROWS`] rows become a strip: of each `count` numbers, and zeros to the end of its blocks. `at` is the rows'
    /// length and the first number.
    ///
    /// # Panics
    /// If the strip has no room for them.
    pub(crate) fn rows_to_strip(
        rows: &[f32],
        at: (usize, usize),
        count: usize,
        operand: Operand,
        strip: &mut [f32],
    ) {
        let (stride, from) = at;
        for (i, row) in rows.chunks(stride).enumerate() {
            for (block, x) in row[from..from + count].chunks(BLOCK).enumerate() {
                let words = strip[block * STRIP + i * WORDS..].first_chunk_mut::<WORDS>().expect("a strip has whole blocks");
                match x.first_chunk::<BLOCK>() {
                    Some(x) => round_into(x, operand, words),
                    None => round_into(x, operand, words),
                }
            }
        }
    }
}

vectorized! {
    /// Pairs of the elements of two rows that follow each other along the sum, zero where a row ends; one that is not there is
    /// empty.
    ///
    /// # Panics
    /// If a row is longer than `words`.
    pub(crate) fn pair(low: &[f32], high: &[f32], operand: Operand, words: &mut [f32]) {
        assert!(low.len().max(high.len()) <= words.len(), "rows that are longer than their words");
        pair_into(low, high, operand, words);
    }
}

vectorized! {
    /// The same, as word `k` of the panels that are the rows of `panels`.
    ///
    /// # Panics
    /// If a row is longer than all of them together.
    pub(crate) fn pair_to_panels(low: &[f32], high: &[f32], operand: Operand, k: usize, panels: &mut TileMut<'_>) {
        assert!(low.len().max(high.len()) <= panels.rows() * COLS, "rows that are longer than their panels");
        for p in 0..panels.rows() {
            let words = panels.row(p)[k * COLS..].first_chunk_mut::<COLS>().expect("a panel has whole words");
            pair_into(rest(low, p * COLS), rest(high, p * COLS), operand, words);
        }
    }
}

/// Up to [`COLS`] elements from `from` on.
#[inline(always)]
fn rest(row: &[f32], from: usize) -> &[f32] {
    let row = &row[from.min(row.len())..];
    &row[..COLS.min(row.len())]
}

#[inline(always)]
fn pair_into(low: &[f32], high: &[f32], operand: Operand, words: &mut [f32]) {
    let word = |low: f32, high: f32| f32::from_bits(round(low, operand) >> 16 | round(high, operand) & HIGH);
    let count = words.len();
    if (low.len(), high.len()) == (count, count) {
        for ((to, &low), &high) in words.iter_mut().zip(low).zip(high) {
            *to = word(low, high);
        }
        return;
    }
    for (i, to) in words.iter_mut().enumerate() {
        *to = word(low.get(i).copied().unwrap_or(0.0), high.get(i).copied().unwrap_or(0.0));
    }
}

/// A block of a strip that is given transposed: its [`WORDS`] rows of words, `stride` apart and [`ROWS`] long.
///
/// # Panics
/// If one of them is too short.
pub(crate) fn columns_to_strip(isa: Isa, words: &[f32], stride: usize, strip: &mut [f32]) {
    gemm::transpose_block(isa, words, stride, TileMut::new(strip, ROWS, WORDS, WORDS));
}
