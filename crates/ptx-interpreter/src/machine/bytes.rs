//! Products of fragments whose elements are bytes.

use super::block::Shared;
use super::warp::Warp;
use super::{FULL, LANES};
use crate::code::Instruction;

/// Row and column of each element that a lane holds of D.
const CORNERS: [(usize, usize); 4] = [(0, 0), (0, 1), (8, 0), (8, 1)];

/// Bits of a product below the largest of those that are added, which are kept. What is known of Hopper's tensor cores is that
/// they add products of eight-bit floats so; other devices keep more, and what is right with these is right with all.
const KEPT: i32 = 13;

/// A and B, the values of whose bytes `value` gives.
struct Operands {
    a: [[f64; 32]; 16],
    b: [[f64; 8]; 32],
}

impl Operands {
    fn products(&self, row: usize, column: usize) -> [f64; 32] {
        std::array::from_fn(|k| self.a[row][k] * self.b[k][column])
    }
}

impl Warp {
    /// D = A B + C with A 16x32, B 32x8 of signed bytes, C and D 16x8 integers modulo 2^32.
    pub(super) fn mma_s8(&mut self, shared: &Shared, i: &Instruction) {
        let operands = self.operands(shared, i, |byte| f64::from(byte.cast_signed()));
        self.sums(shared, i, |sum, row, column| {
            let products: f64 = operands.products(row, column).iter().sum();
            sum.wrapping_add((products as i32).cast_unsigned())
        });
    }

    /// The same of floats with four bits of exponent and three of mantissa. Products and what they are added to are cut to
    /// [`KEPT`] bits below the largest of them; their sum is rounded once.
    pub(super) fn mma_e4m3(&mut self, shared: &Shared, i: &Instruction) {
        let operands = self.operands(shared, i, e4m3);
        self.sums(shared, i, |sum, row, column| {
            let (products, before) = (operands.products(row, column), f64::from(f32::from_bits(sum)));
            let terms = || products.iter().copied().chain([before]);
            let most = terms().fold(0.0f64, |most, term| most.max(term.abs()));
            let unit = if most > 0.0 && most.is_finite() { 2f64.powi(most.log2().floor() as i32 - KEPT) } else { 1.0 };
            let all = terms().map(|term| (term / unit).trunc()).sum::<f64>() * unit;
            if all.is_nan() { 0x7fff_ffff } else { (all as f32).to_bits() }
        });
    }

    fn operands(&self, shared: &Shared, i: &Instruction, value: impl Fn(u8) -> f64) -> Operands {
        let lists = &shared.kernel.lists[i.d as usize + 4..i.d as usize + 10];
        let mut all = Operands { a: [[0.0; 32]; 16], b: [[0.0; 8]; 32] };
        for lane in 0..LANES {
            let (g, t) = (lane / 4, 4 * (lane % 4));
            let bytes = |slot: u32| self.registers.narrow(slot)[lane].to_le_bytes().map(&value);
            for (k, (row, column)) in [(0, 0), (8, 0), (0, 16), (8, 16)].into_iter().enumerate() {
                all.a[g + row][t + column..t + column + 4].copy_from_slice(&bytes(lists[k]));
            }
            for (k, row) in [0, 16].into_iter().enumerate() {
                bytes(lists[4 + k]).into_iter().enumerate().for_each(|(byte, x)| all.b[t + row + byte][g] = x);
            }
        }
        all
    }

    /// Each element of D from the bits of C's, its row and its column.
    fn sums(&mut self, shared: &Shared, i: &Instruction, of: impl Fn(u32, usize, usize) -> u32) {
        let lists = &shared.kernel.lists[i.d as usize..i.d as usize + 14];
        // D may lie where C does, each in another's place.
        let before: [[u32; LANES]; 4] = std::array::from_fn(|k| *self.registers.narrow(lists[10 + k]));
        for (k, (row, column)) in CORNERS.into_iter().enumerate() {
            let after = |lane: usize| of(before[k][lane], lane / 4 + row, 2 * (lane % 4) + column);
            self.registers.put(lists[k], FULL, &std::array::from_fn(after));
        }
    }
}

fn e4m3(byte: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f64::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa * 2f64.powi(-9),
        _ => (8.0 + mantissa) * 2f64.powi(exponent - 10),
    };
    if byte >> 7 != 0 { -magnitude } else { magnitude }
}
