//! Floats. Results that are not a number are the one NaN that the hardware gives.

use super::block::Shared;
use super::integer::orders;
use super::registers::{Registers, bits};
use super::{LANES, mixed};
use crate::code::{Approximation, Comparison, Float, Instruction, Type};

const NAN: u32 = 0x7fff_ffff;
const NAN_WIDE: u64 = 0x7fff_ffff_ffff_ffff;

fn canonical(x: f32) -> u32 {
    if x.is_nan() { NAN } else { x.to_bits() }
}

fn canonical_wide(x: f64) -> u64 {
    if x.is_nan() { NAN_WIDE } else { x.to_bits() }
}

/// A sum rounded to the nearest, and what rounding lost, which is exact unless the sum is infinite (Knuth's two-sum).
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let rest = sum - a;
    (sum, (a - (sum - rest)) + (b - rest))
}

/// `p + c` rounded to float32 towards negative infinity; both are exact.
fn down(p: f64, c: f64) -> f32 {
    let (sum, lost) = two_sum(p, c);
    if !sum.is_finite() {
        return sum as f32;
    }
    if sum == 0.0 && lost == 0.0 {
        // Zeros of both signs, or what cancels, give -0 in this direction.
        let negative = p != 0.0 || p.is_sign_negative() || c.is_sign_negative();
        return if negative { -0.0 } else { 0.0 };
    }
    let near = sum as f32;
    let above = f64::from(near) > sum || f64::from(near) == sum && lost < 0.0;
    if above { near.next_down() } else { near }
}

/// -0 is below +0, and a number wins against what is none.
fn smaller(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == b => f32::from_bits(a.to_bits() | b.to_bits()),
        _ => {
            if a < b {
                a
            } else {
                b
            }
        }
    }
}

fn larger(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == b => f32::from_bits(a.to_bits() & b.to_bits()),
        _ => {
            if a > b {
                a
            } else {
                b
            }
        }
    }
}

pub(super) fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

impl Registers {
    #[inline(always)]
    pub(super) fn float(&mut self, op: Float, i: &Instruction, mask: u32) {
        let f = f32::from_bits;
        match op {
            Float::Add => self.map2(i, mask, |a, b| canonical(f(a) + f(b))),
            Float::Sub => self.map2(i, mask, |a, b| canonical(f(a) - f(b))),
            Float::Mul => self.map2(i, mask, |a, b| canonical(f(a) * f(b))),
            Float::Div => self.map2(i, mask, |a, b| canonical(f(a) / f(b))),
            Float::Fma => self.map3(i, mask, |a, b, c| canonical(f(a).mul_add(f(b), f(c)))),
            Float::AddDown => self.map2(i, mask, |a, b| canonical(down(f(a).into(), f(b).into()))),
            // A product of two float32 is a float64.
            Float::FmaDown => {
                self.map3(i, mask, |a, b, c| canonical(down(f64::from(f(a)) * f64::from(f(b)), f(c).into())));
            }
            Float::Min => self.map2(i, mask, |a, b| canonical(smaller(f(a), f(b)))),
            Float::Max => self.map2(i, mask, |a, b| canonical(larger(f(a), f(b)))),
            Float::Neg => self.map1(i, mask, |a| a ^ 1 << 31),
            Float::Abs => self.map1(i, mask, |a| a & !(1 << 31)),
            // The sign of a, the magnitude of b.
            Float::CopySign => self.map2(i, mask, |a, b| b & !(1 << 31) | a & 1 << 31),
            Float::Sqrt => self.map1(i, mask, |a| canonical(f(a).sqrt())),
            Float::Reciprocal => self.map1(i, mask, |a| canonical(1.0 / f(a))),
        }
    }

    pub(super) fn float_wide(&mut self, op: Float, i: &Instruction, mask: u32) {
        let f = f64::from_bits;
        match op {
            Float::Add => self.map2_wide(i, mask, |a, b| canonical_wide(f(a) + f(b))),
            Float::Sub => self.map2_wide(i, mask, |a, b| canonical_wide(f(a) - f(b))),
            Float::Mul => self.map2_wide(i, mask, |a, b| canonical_wide(f(a) * f(b))),
            Float::Div => self.map2_wide(i, mask, |a, b| canonical_wide(f(a) / f(b))),
            Float::Fma => self.map3_wide(i, mask, |a, b, c| canonical_wide(f(a).mul_add(f(b), f(c)))),
            Float::Min => self.map2_wide(i, mask, |a, b| canonical_wide(f(a).min(f(b)))),
            Float::Max => self.map2_wide(i, mask, |a, b| canonical_wide(f(a).max(f(b)))),
            Float::Neg => self.map1_wide(i, mask, |a| a ^ 1 << 63),
            Float::Abs => self.map1_wide(i, mask, |a| a & !(1 << 63)),
            Float::CopySign => self.map2_wide(i, mask, |a, b| b & !(1 << 63) | a & 1 << 63),
            Float::Sqrt => self.map1_wide(i, mask, |a| canonical_wide(f(a).sqrt())),
            Float::Reciprocal => self.map1_wide(i, mask, |a| canonical_wide(1.0 / f(a))),
            Float::AddDown | Float::FmaDown => unreachable!("the decoder knows them of float32 only"),
        }
    }

    #[inline(always)]
    pub(super) fn compare_floats(&self, comparison: Comparison, unordered: bool, ty: Type, i: &Instruction) -> u32 {
        let none = match ty {
            Type::F64 => {
                let (a, b) = (self.wide(i.a).map(f64::from_bits), self.wide(i.b).map(f64::from_bits));
                return with_nan(comparison, unordered, bits(|l| a[l].is_nan() || b[l].is_nan()), |l| (a[l], b[l]));
            }
            _ => (self.floats(i.a), self.floats(i.b)),
        };
        let (a, b) = none;
        with_nan(comparison, unordered, bits(|l| a[l].is_nan() || b[l].is_nan()), |l| (a[l], b[l]))
    }

    /// The hardware's fast functions; their results differ from the nearest by as much as the launch says.
    pub(super) fn approximate(&mut self, shared: &Shared, op: Approximation, i: &Instruction, mask: u32) {
        let x = self.floats(i.a);
        let seed = shared.launch.manner.disturbed.map(|seed| mixed(seed, op as u64));
        let most = if op == Approximation::Reciprocal { 1 } else { 2 };
        let mut values = [0; LANES];
        for lane in 0..LANES {
            let exact = nearest(op, flushed(x[lane]));
            // The same for the same argument, as from a table.
            let near = seed.map_or(exact, |seed| moved(exact, most, mixed(seed, x[lane].to_bits().into())));
            values[lane] = canonical(flushed(near));
        }
        self.put(i.d, mask, &values);
    }
}

/// In float64, whose own functions are far nearer than a unit in the last place of a float32.
fn nearest(op: Approximation, x: f32) -> f32 {
    let wide = f64::from(x);
    let y = match op {
        Approximation::Reciprocal => 1.0 / wide,
        Approximation::ReciprocalRoot => 1.0 / wide.sqrt(),
        Approximation::Exp2 => wide.exp2(),
        Approximation::Log2 => wide.log2(),
    };
    y as f32
}

/// Up to `most` units in the last place away; zeros, infinities and what is no number stay.
fn moved(y: f32, most: i32, number: u64) -> f32 {
    if !y.is_normal() {
        return y;
    }
    let by = (number % (2 * most as u64 + 1)) as i32 - most;
    let near = f32::from_bits(y.to_bits().wrapping_add_signed(by));
    if near.is_finite() { near } else { y }
}

#[inline(always)]
fn with_nan<T: PartialOrd>(comparison: Comparison, unordered: bool, nan: u32, of: impl Fn(usize) -> (T, T)) -> u32 {
    match comparison {
        Comparison::Numbers => !nan,
        Comparison::NotNumbers => nan,
        _ => {
            let ordered = orders(comparison, of) & !nan;
            if unordered { ordered | nan } else { ordered }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_rounded_down_are_the_largest_below() {
        let third = 1.0f32 / 3.0;
        for (a, b) in
            [(1.0f32, 2f32.powi(-30)), (1.0, -(2f32.powi(-30))), (third, third), (1e30, -1e-30), (-1.0, 1e-40)]
        {
            let found = down(a.into(), b.into());
            let exact = |x: f32| f64::from(x) <= f64::from(a) + f64::from(b);
            // These sums are exact in float64 or differ from it by less than a float32 can show.
            let (_, lost) = two_sum(a.into(), b.into());
            assert!(exact(found) && !(exact(found.next_up()) && lost >= 0.0), "{a} + {b} = {found}");
        }
        assert!(down(1.0, -1.0).is_sign_negative() && down(0.0, 0.0).is_sign_positive());
        assert!(down(0.0, -0.0).is_sign_negative());
        assert_eq!(down(f64::from(f32::MAX), 1.0), f32::MAX);
    }

    #[test]
    fn zeros_have_an_order_and_numbers_win() {
        assert!(smaller(0.0, -0.0).is_sign_negative() && larger(-0.0, 0.0).is_sign_positive());
        assert_eq!((smaller(f32::NAN, 2.0), larger(2.0, f32::NAN)), (2.0, 2.0));
    }

    #[test]
    fn a_disturbance_is_at_most_what_it_says() {
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..200 {
            let by = moved(1.5, 2, mixed(7, number)).to_bits() as i32 - 1.5f32.to_bits() as i32;
            seen.insert(by);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [-2, -1, 0, 1, 2]);
        assert_eq!(moved(0.0, 2, 1), 0.0);
        assert!(moved(f32::INFINITY, 2, 4).is_infinite());
    }
}
