//! Products of operands rounded to bfloat16, summed in float32, in an order that every processor keeps: that of the tiles
//! of AMX (`TDPBF16PS`, Intel's manual, volume 2). A sum is made of blocks of [`BLOCK`] products; in a block those of even
//! and of odd numbers are two chains of fused additions that begin at 0, and the chains' sum is added to the blocks before.
//! Products are exact, and [`Operand`] leaves none so small that it or a sum would be subnormal, so processors without AMX
//! come to the same bits, and so do those that do not fuse.
//!
//! Operands are pairs of neighbours along the sum, each pair a word of 32 bits, the former in the lower half; words lie
//! where a float32 does. The left one lies in strips of [`ROWS`] rows, `[block][row][word]`, the right one in panels of [`COLS`]
//! columns, `[block][word][column]`: a kernel reads both from their start to their end, as caches expect it. Last of all
//! [`order_strip`] and [`order_panel`] make of it what this processor's kernel reads.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod fused;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod portable;

pub(crate) use pack::{columns_to_strip, pair, pair_to_panels, round_row, rows_to_strip};

use super::gemm;
use super::isa::{Isa, Level};
use super::tile::TileMut;
use crate::backend::ops::SUM_BLOCK;

/// Rows of a tile.
pub(crate) const ROWS: usize = 32;
/// Columns of a tile.
pub(crate) const COLS: usize = gemm::COLS;
/// Products of a block.
pub(crate) const BLOCK: usize = SUM_BLOCK;
/// Words of a block.
pub(crate) const WORDS: usize = BLOCK / 2;
/// Blocks that a tile is given at once: a panel this deep stays in the first cache.
const DEPTH: usize = 16;

/// The bits of a word's upper half.
const HIGH: u32 = 0xffff_0000;

/// The number in the lower half of a word.
#[inline(always)]
fn former(word: f32) -> f32 {
    f32::from_bits(word.to_bits() << 16)
}

/// The number in the upper half.
#[inline(always)]
fn latter(word: f32) -> f32 {
    f32::from_bits(word.to_bits() & HIGH)
}

/// What an operand is, which decides below which magnitude its elements count as 0. A product of what is left is at least
/// 2^-112 and, of eight bits each, a multiple of 2^-126, as are sums of such: none is subnormal, which AMX takes for 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// An activation or a weight: below 2^-32.
    Value,
    /// A gradient: below 2^-80.
    Gradient,
}

impl Operand {
    /// The bits of the smallest magnitude that is kept.
    const fn least(self) -> u32 {
        let exponent = match self {
            Self::Value => -32,
            Self::Gradient => -80,
        };
        ((127 + exponent) as u32) << 23
    }
}

/// Words of a strip's block, and of a panel's.
pub(crate) const STRIP: usize = ROWS * WORDS;
pub(crate) const PANEL: usize = WORDS * COLS;

/// Gives pairs of words of a strip, or of whole rows of it, the order that tiles on this processor read.
pub(crate) fn order_strip(isa: Isa, words: &mut [f32]) {
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if in_pairs().is_some() => pairs::trade_strip(isa, words),
        _ => {}
    }
}

/// The same for an even number of rows of a panel.
pub(crate) fn order_panel(isa: Isa, words: &mut [f32]) {
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if in_pairs().is_some() => pairs::trade_panel(isa, words),
        _ => {}
    }
}

/// Whether processors with AVX-512 compute tiles in pairs: those that have no AMX, or may not use it.
#[cfg(target_arch = "x86_64")]
fn in_pairs() -> Option<pairs::Detected> {
    if amx::allowed() { None } else { pairs::Detected::new() }
}

/// `out = left right`, or `out += left right` if it `goes_on`: strips and panels of `blocks` blocks, ordered, as many as `out`
/// has rows and columns for. What the strips hold in rows beyond the output's does not matter.
pub(crate) fn product(isa: Isa, left: &[f32], right: &[f32], blocks: usize, out: TileMut<'_>, goes_on: bool) {
    product_by(&Tiles::of(isa), left, right, blocks, out, goes_on);
}

fn product_by(tiles: &Tiles, left: &[f32], right: &[f32], blocks: usize, mut out: TileMut<'_>, goes_on: bool) {
    for from in (0..blocks).step_by(DEPTH) {
        let (depth, goes_on) = (DEPTH.min(blocks - from), goes_on || from > 0);
        for col in (0..out.cols()).step_by(COLS) {
            let right = &right[(col / COLS * blocks + from) * PANEL..];
            for row in (0..out.rows()).step_by(ROWS) {
                let (rows, cols) = (ROWS.min(out.rows() - row), COLS.min(out.cols() - col));
                let left = &left[(row / ROWS * blocks + from) * STRIP..];
                tile(tiles, left, right, depth, out.part(row, col, rows, cols), goes_on);
            }
        }
    }
}

/// The same tile `times` times, added to `out`: what a processor does at most. Operands are ordered, and had better begin at
/// cache lines.
pub(crate) fn repeated(
    isa: Isa,
    left: &[f32],
    right: &[f32],
    blocks: usize,
    out: &mut [f32; ROWS * COLS],
    times: usize,
) {
    let tiles = Tiles::of(isa);
    for _ in 0..times {
        tile(&tiles, left, right, blocks, TileMut::new(out, ROWS, COLS, COLS), true);
    }
}

/// What computes tiles on this thread.
enum Tiles {
    #[cfg(target_arch = "x86_64")]
    Amx(amx::Configured),
    #[cfg(target_arch = "x86_64")]
    Pairs(pairs::Detected),
    Without(Isa),
}

impl Tiles {
    fn of(isa: Isa) -> Self {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => match in_pairs() {
                Some(detected) => Self::Pairs(detected),
                None => amx::Configured::new().map_or(Self::Without(isa), Self::Amx),
            },
            _ => Self::Without(isa),
        }
    }

    /// A tile that the output has all of.
    ///
    /// # Panics
    /// If it has not, or an operand is too short.
    fn whole(&self, left: &[f32], right: &[f32], blocks: usize, mut out: TileMut<'_>, goes_on: bool) {
        assert_eq!((out.rows(), out.cols()), (ROWS, COLS), "rows and columns of a whole tile");
        assert!(blocks <= DEPTH, "{blocks} blocks at once");
        assert!(blocks * STRIP <= left.len(), "a left operand cut short");
        assert!(blocks * PANEL <= right.len(), "a right operand cut short");
        let at = (out.as_mut_ptr(), out.stride());
        match self {
            // SAFETY: the assertions above are what the kernel asks for, and the tile is borrowed for writing.
            #[cfg(target_arch = "x86_64")]
            Self::Amx(amx) => unsafe { amx.tile(left, right, blocks, at, goes_on) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Pairs(detected) => unsafe { detected.tile(left, right, blocks, at, goes_on) },
            Self::Without(isa) => match isa.level() {
                // SAFETY: the level proves the features; the rest as above.
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => unsafe { fused::avx512(left, right, blocks, at, goes_on) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => unsafe { fused::avx2(left, right, blocks, at, goes_on) },
                Level::Portable => portable::tile(left, right, blocks, out, goes_on),
            },
        }
    }
}

/// One tile of at most [`ROWS`] x [`COLS`].
fn tile(tiles: &Tiles, left: &[f32], right: &[f32], blocks: usize, mut out: TileMut<'_>, goes_on: bool) {
    let (rows, cols) = (out.rows(), out.cols());
    if (rows, cols) == (ROWS, COLS) {
        return tiles.whole(left, right, blocks, out, goes_on);
    }
    let mut edge = [0.0f32; ROWS * COLS];
    if goes_on {
        (0..rows).for_each(|i| edge[i * COLS..][..cols].copy_from_slice(out.row(i)));
    }
    tiles.whole(left, right, blocks, TileMut::new(&mut edge, ROWS, COLS, COLS), goes_on);
    (0..rows).for_each(|i| out.row(i).copy_from_slice(&edge[i * COLS..][..cols]));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Repeatable bits.
    fn bits(state: &mut u64) -> u32 {
        *state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (*state >> 32) as u32
    }

    /// Floats of magnitudes from `2^least` to 2^27, some zero.
    fn numbers(count: usize, least: i32, state: &mut u64) -> Vec<f32> {
        let first = (127 + least) as u32;
        let one = |bits: u32| match bits % 17 {
            0 => 0.0,
            _ => f32::from_bits(bits & 0x807f_ffff | (first + (bits >> 8) % (154 - first)) << 23),
        };
        (0..count).map(|_| one(bits(state))).collect()
    }

    /// The order of sums by the letter, on operands that were rounded.
    fn chains(left: &[f32], right: &[f32], old: f32) -> f32 {
        left.chunks(BLOCK).zip(right.chunks(BLOCK)).fold(portable::normal(old), |sum, (left, right)| {
            let mut chains = [0.0f32; 2];
            for (k, (a, b)) in left.iter().zip(right).enumerate() {
                chains[k % 2] = a.mul_add(*b, chains[k % 2]);
            }
            portable::normal(sum + (chains[0] + chains[1]))
        })
    }

    /// All the ways this processor has of computing tiles.
    fn ways(isa: Isa) -> Vec<Tiles> {
        let mut ways = vec![Tiles::Without(isa)];
        #[cfg(target_arch = "x86_64")]
        if isa.level() == Level::Avx512 {
            ways.extend(pairs::Detected::new().map(Tiles::Pairs));
            ways.extend(amx::Configured::new().map(Tiles::Amx));
        }
        ways
    }

    fn rounded(x: f32, operand: Operand) -> f32 {
        latter(f32::from_bits(pack::round(x, operand)))
    }

    #[test]
    fn every_processor_sums_in_one_order() {
        let mut state = 7;
        for (rows, cols, inner) in [(1usize, 1usize, 1usize), (32, 32, 32), (33, 40, 100), (5, 70, 513), (70, 16, 64)] {
            let blocks = inner.div_ceil(BLOCK);
            let (mut a, b) = (numbers(rows * inner, -100, &mut state), numbers(cols * inner, -100, &mut state));
            // Also sums that are subnormal, or may become so, and rows to which nothing is added.
            let old = numbers(rows * cols, -127, &mut state);
            a.chunks_mut(inner).skip(2).step_by(5).for_each(|row| row.fill(0.0));
            let row = |i: usize, x: &[f32], operand| {
                x[i * inner..][..inner].iter().map(|&x| rounded(x, operand)).collect::<Vec<_>>()
            };
            for isa in Isa::available() {
                let mut left = vec![f32::NAN; rows.div_ceil(ROWS) * blocks * STRIP];
                for (rows, strip) in a.chunks(ROWS * inner).zip(left.chunks_mut(blocks * STRIP)) {
                    rows_to_strip(isa, rows, (inner, 0), inner, Operand::Gradient, strip);
                }
                let mut side = vec![0.0; cols * blocks * WORDS];
                for (row, words) in b.chunks(inner).zip(side.chunks_mut(blocks * WORDS)) {
                    round_row(isa, row, Operand::Value, words);
                }
                let panel = blocks * PANEL;
                let mut right = vec![0.0; cols.div_ceil(COLS) * panel];
                gemm::columns_to_panels(isa, &side, blocks * WORDS, cols, blocks * WORDS, panel, &mut right);
                // Of a processor with instructions for bfloat16 also what it does without.
                for (tiles, goes_on) in ways(isa).iter().flat_map(|tiles| [(tiles, false), (tiles, true)]) {
                    let (mut left, mut right) = (left.clone(), right.clone());
                    #[cfg(target_arch = "x86_64")]
                    if let Tiles::Pairs(_) = tiles {
                        pairs::trade_strip(isa, &mut left);
                        pairs::trade_panel(isa, &mut right);
                    }
                    let mut out = old.clone();
                    product_by(tiles, &left, &right, blocks, TileMut::new(&mut out, rows, cols, cols), goes_on);
                    for (at, &found) in out.iter().enumerate() {
                        let (i, j) = (at / cols, at % cols);
                        let old = if goes_on { old[at] } else { 0.0 };
                        let expected = chains(&row(i, &a, Operand::Gradient), &row(j, &b, Operand::Value), old);
                        let same = found.to_bits() == expected.to_bits() || found == 0.0 && expected == 0.0;
                        assert!(same, "{}: ({i}, {j}) of {rows} x {cols}: {found:e}, not {expected:e}", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn operands_are_rounded_to_the_nearest_and_small_ones_to_zero() {
        let of = |x: f32| rounded(x, Operand::Value);
        assert_eq!([1.0, -2.5, 0.0].map(of), [1.0, -2.5, 0.0]);
        // 2^-8 of 1 is half of the last place: to the even neighbour.
        assert_eq!([1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.0 + 1.1 / 256.0].map(of), [1.0, 1.015625, 1.0078125]);
        assert_eq!([f32::INFINITY, f32::MAX, -f32::MAX].map(of), [f32::INFINITY, f32::INFINITY, -f32::INFINITY]);
        for nan in [f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(u32::MAX)] {
            assert!(of(nan).is_nan() && rounded(nan, Operand::Gradient).is_nan());
        }
        for (operand, exponent) in [(Operand::Value, -32), (Operand::Gradient, -80)] {
            let least = 2f32.powi(exponent);
            assert_eq!(rounded(least, operand), least);
            assert_eq!(rounded(-least.next_down(), operand), 0.0);
        }
    }
}
