//! Integers of 16, 32 and 64 bits.

use super::registers::{Registers, bits};
use super::{LANES, Problem};
use crate::code::{Comparison, Instruction, Integer, Op, Type};

impl Registers {
    #[inline(always)]
    pub(super) fn integer(&mut self, op: Integer, ty: Type, i: &Instruction, mask: u32) {
        match ty {
            Type::U32 => self.unsigned(op, i, mask, 32),
            Type::S32 => self.signed(op, i, mask, 32),
            Type::U16 => self.unsigned(op, i, mask, 16),
            Type::S16 => self.signed(op, i, mask, 16),
            Type::U64 => self.unsigned_wide(op, i, mask),
            _ => self.signed_wide(op, i, mask),
        }
    }

    /// Of 16 or 32 bits; what is beyond is zero before and after.
    #[inline(always)]
    fn unsigned(&mut self, op: Integer, i: &Instruction, mask: u32, width: u32) {
        let cut = move |x: u32| if width == 16 { x & 0xffff } else { x };
        match op {
            Integer::Add => self.map2(i, mask, |a, b| cut(a.wrapping_add(b))),
            Integer::Sub => self.map2(i, mask, |a, b| cut(a.wrapping_sub(b))),
            Integer::MulLow => self.map2(i, mask, |a, b| cut(a.wrapping_mul(b))),
            Integer::MulHigh => self.map2(i, mask, |a, b| ((u64::from(a) * u64::from(b)) >> width) as u32),
            // Division by zero gives no defined value; the hardware gives ones.
            Integer::Div => self.map2(i, mask, |a, b| a.checked_div(b).unwrap_or(cut(u32::MAX))),
            Integer::Rem => self.map2(i, mask, |a, b| a.checked_rem(b).unwrap_or(cut(u32::MAX))),
            Integer::Min => self.map2(i, mask, u32::min),
            Integer::Max => self.map2(i, mask, u32::max),
            Integer::And => self.map2(i, mask, |a, b| a & b),
            Integer::Or => self.map2(i, mask, |a, b| a | b),
            Integer::Xor => self.map2(i, mask, |a, b| a ^ b),
            Integer::Not => self.map1(i, mask, |a| cut(!a)),
            Integer::Neg => self.map1(i, mask, |a| cut(a.wrapping_neg())),
            Integer::Abs => self.map1(i, mask, |a| a),
            Integer::ShiftLeft => self.map2(i, mask, |a, b| if b < width { cut(a << b) } else { 0 }),
            Integer::ShiftRight => self.map2(i, mask, |a, b| if b < width { a >> b } else { 0 }),
            Integer::MadLow => self.map3(i, mask, |a, b, c| cut(a.wrapping_mul(b).wrapping_add(c))),
        }
    }

    #[inline(always)]
    fn signed(&mut self, op: Integer, i: &Instruction, mask: u32, width: u32) {
        let up = move |x: u32| if width == 16 { i32::from(x as i16) } else { x as i32 };
        let cut = move |x: i32| if width == 16 { u32::from(x as u16) } else { x as u32 };
        match op {
            Integer::MulHigh => self.map2(i, mask, |a, b| cut(((i64::from(up(a)) * i64::from(up(b))) >> width) as i32)),
            Integer::Div => self.map2(i, mask, |a, b| cut(if b == 0 { -1 } else { up(a).wrapping_div(up(b)) })),
            Integer::Rem => self.map2(i, mask, |a, b| cut(if b == 0 { -1 } else { up(a).wrapping_rem(up(b)) })),
            Integer::Min => self.map2(i, mask, |a, b| cut(up(a).min(up(b)))),
            Integer::Max => self.map2(i, mask, |a, b| cut(up(a).max(up(b)))),
            Integer::Abs => self.map1(i, mask, |a| cut(up(a).wrapping_abs())),
            // Beyond the width the sign is all there is.
            Integer::ShiftRight => self.map2(i, mask, |a, b| cut(up(a) >> b.min(width - 1))),
            other => self.unsigned(other, i, mask, width),
        }
    }

    #[inline(always)]
    fn unsigned_wide(&mut self, op: Integer, i: &Instruction, mask: u32) {
        match op {
            Integer::Add => self.map2_wide(i, mask, u64::wrapping_add),
            Integer::Sub => self.map2_wide(i, mask, u64::wrapping_sub),
            Integer::MulLow => self.map2_wide(i, mask, u64::wrapping_mul),
            Integer::MulHigh => self.map2_wide(i, mask, |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
            Integer::Div => self.map2_wide(i, mask, |a, b| a.checked_div(b).unwrap_or(u64::MAX)),
            Integer::Rem => self.map2_wide(i, mask, |a, b| a.checked_rem(b).unwrap_or(u64::MAX)),
            Integer::Min => self.map2_wide(i, mask, u64::min),
            Integer::Max => self.map2_wide(i, mask, u64::max),
            Integer::And => self.map2_wide(i, mask, |a, b| a & b),
            Integer::Or => self.map2_wide(i, mask, |a, b| a | b),
            Integer::Xor => self.map2_wide(i, mask, |a, b| a ^ b),
            Integer::Not => self.map1_wide(i, mask, |a| !a),
            Integer::Neg => self.map1_wide(i, mask, u64::wrapping_neg),
            Integer::Abs => self.map1_wide(i, mask, |a| a),
            Integer::ShiftLeft => self.shift_wide(i, mask, |a, b| if b < 64 { a << b } else { 0 }),
            Integer::ShiftRight => self.shift_wide(i, mask, |a, b| if b < 64 { a >> b } else { 0 }),
            Integer::MadLow => self.map3_wide(i, mask, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        }
    }

    #[inline(always)]
    fn signed_wide(&mut self, op: Integer, i: &Instruction, mask: u32) {
        match op {
            Integer::MulHigh => {
                self.map2_wide(i, mask, |a, b| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64)
            }
            Integer::Div => {
                self.map2_wide(
                    i,
                    mask,
                    |a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 },
                );
            }
            Integer::Rem => {
                self.map2_wide(
                    i,
                    mask,
                    |a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_rem(b as i64) as u64 },
                );
            }
            Integer::Min => self.map2_wide(i, mask, |a, b| (a as i64).min(b as i64) as u64),
            Integer::Max => self.map2_wide(i, mask, |a, b| (a as i64).max(b as i64) as u64),
            Integer::Abs => self.map1_wide(i, mask, |a| (a as i64).wrapping_abs() as u64),
            Integer::ShiftRight => self.shift_wide(i, mask, |a, b| (a as i64 >> b.min(63)) as u64),
            other => self.unsigned_wide(other, i, mask),
        }
    }

    #[inline(always)]
    fn shift_wide(&mut self, i: &Instruction, mask: u32, f: impl Fn(u64, u32) -> u64) {
        let (a, b) = (self.wide(i.a), self.narrow(i.b));
        let values = std::array::from_fn(|lane| f(a[lane], b[lane]));
        self.put_wide(i.d, mask, &values);
    }

    /// Products twice as wide, and their sums.
    #[inline(always)]
    pub(super) fn wide_product(&mut self, op: Op, i: &Instruction, mask: u32) {
        let (ty, adds) = match op {
            Op::MulWide(ty) => (ty, false),
            Op::MadWide(ty) => (ty, true),
            _ => unreachable!("called for products"),
        };
        if matches!(ty, Type::U16 | Type::S16) {
            let signed = |x: u32| if ty == Type::S16 { i32::from(x as i16) as u32 } else { x };
            return match adds {
                true => self.map3(i, mask, |a, b, c| signed(a).wrapping_mul(signed(b)).wrapping_add(c)),
                false => self.map2(i, mask, |a, b| signed(a).wrapping_mul(signed(b))),
            };
        }
        let (a, b) = (self.narrow(i.a), self.narrow(i.b));
        let mut values = [0; LANES];
        for lane in 0..LANES {
            values[lane] = match ty {
                Type::S32 => (i64::from(a[lane] as i32) * i64::from(b[lane] as i32)) as u64,
                _ => u64::from(a[lane]) * u64::from(b[lane]),
            };
        }
        if adds {
            let c = self.wide(i.c);
            for lane in 0..LANES {
                values[lane] = values[lane].wrapping_add(c[lane]);
            }
        }
        self.put_wide(i.d, mask, &values);
    }

    /// Of integers: one bit for each lane.
    #[inline(always)]
    pub(super) fn compared(&self, comparison: Comparison, ty: Type, i: &Instruction) -> u32 {
        if matches!(ty, Type::U64 | Type::S64) {
            let (a, b) = (self.wide(i.a), self.wide(i.b));
            return match ty {
                Type::S64 => orders(comparison, |lane| (a[lane] as i64, b[lane] as i64)),
                _ => orders(comparison, |lane| (a[lane], b[lane])),
            };
        }
        let (a, b) = (self.narrow(i.a), self.narrow(i.b));
        match ty {
            Type::S32 => orders(comparison, |lane| (a[lane] as i32, b[lane] as i32)),
            Type::S16 => orders(comparison, |lane| (a[lane] as i16, b[lane] as i16)),
            _ => orders(comparison, |lane| (a[lane], b[lane])),
        }
    }

    /// Byte `k` of the result is one of the eight of `b` above `a`; bit 3 of its selector spreads that byte's sign.
    #[inline(always)]
    pub(super) fn permute(&mut self, i: &Instruction, mask: u32) {
        self.map3(i, mask, |a, b, selector| {
            let all = u64::from(b) << 32 | u64::from(a);
            (0..4).fold(0, |result, k| {
                let chosen = selector >> (4 * k) & 15;
                let byte = (all >> (8 * (chosen & 7))) as u8;
                let byte = if chosen & 8 == 0 { byte } else { (byte as i8 >> 7) as u8 };
                result | u32::from(byte) << (8 * k)
            })
        });
    }

    /// `into` with the low bits of `from` at a position.
    #[inline(always)]
    pub(super) fn insert(&mut self, i: &Instruction, mask: u32, wide: bool) {
        let (position, length) = (i.offset as u32 & 0xff, i.offset as u32 >> 8);
        let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
        let insert = move |from: u64, into: u64| into & !(ones << position) | (from & ones) << position;
        match wide {
            true => self.map2_wide(i, mask, insert),
            false => self.map2(i, mask, |a, b| insert(a.into(), b.into()) as u32),
        }
    }
}

#[inline(always)]
pub(super) fn orders<T: PartialOrd>(comparison: Comparison, of: impl Fn(usize) -> (T, T)) -> u32 {
    match comparison {
        Comparison::Equal => bits(|lane| of(lane).0 == of(lane).1),
        Comparison::NotEqual => bits(|lane| of(lane).0 != of(lane).1),
        Comparison::Less => bits(|lane| of(lane).0 < of(lane).1),
        Comparison::LessEqual => bits(|lane| of(lane).0 <= of(lane).1),
        Comparison::Greater => bits(|lane| of(lane).0 > of(lane).1),
        Comparison::GreaterEqual => bits(|lane| of(lane).0 >= of(lane).1),
        Comparison::Numbers => FULL_OF_INTEGERS,
        Comparison::NotNumbers => 0,
    }
}

/// Every integer is a number.
const FULL_OF_INTEGERS: u32 = u32::MAX;

/// What has no meaning for a type, which the decoder has let through.
pub(super) fn meaningless<T>(what: &str) -> Result<T, Problem> {
    Problem::new(0, format!("{what} is not modelled"))
}
