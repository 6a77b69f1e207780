//! Conversions.

use super::registers::Registers;
use super::{LANES, Problem};
use crate::code::{Instruction, Round, Type};
use half::f16;

/// To the nearest, ties to even; what is no number is 0x7fff.
#[inline(always)]
fn bf16_bits(bits: u32) -> u32 {
    if f32::from_bits(bits).is_nan() {
        return 0x7fff;
    }
    let odd = bits >> 16 & 1;
    (bits + 0x7fff + odd) >> 16
}

fn rounded(x: f64, round: Round) -> f64 {
    match round {
        Round::Even => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

fn canonical(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits().into() }
}

/// The value of a register as an integer, by the sign and size of its type.
fn integer(bits: u64, ty: Type) -> i128 {
    match ty {
        Type::U8 => (bits as u8).into(),
        Type::S8 => (bits as i8).into(),
        Type::U16 => (bits as u16).into(),
        Type::S16 => (bits as i16).into(),
        Type::U32 => (bits as u32).into(),
        Type::S32 => (bits as i32).into(),
        Type::S64 => (bits as i64).into(),
        _ => bits.into(),
    }
}

/// An integer in the registers of a type: 16-bit registers hold the low half, wider ones the sign's extension.
fn held(x: i128, ty: Type) -> u64 {
    match ty.bytes() {
        1 | 2 => u64::from(x as u16),
        4 => u64::from(x as u32),
        _ => x as u64,
    }
}

fn limits(ty: Type) -> (i128, i128) {
    let bits = 8 * ty.bytes();
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// Nearest integer by the rounding, limited to the type; 0 for what is no number.
fn to_integer(x: f64, ty: Type, round: Round) -> u64 {
    if x.is_nan() {
        return 0;
    }
    let (least, most) = limits(ty);
    // Conversions of floats to wider integers saturate.
    held((rounded(x, round) as i128).clamp(least, most), ty)
}

fn convert(bits: u64, to: Type, from: Type, round: Round, saturate: bool) -> Option<u64> {
    Some(match (to, from) {
        (Type::F32, Type::F32) => {
            let x = f32::from_bits(bits as u32);
            // Numbers between 0 and 1, and 0 for none.
            let x = if !saturate {
                x
            } else if x.is_nan() {
                0.0
            } else {
                x.clamp(0.0, 1.0)
            };
            canonical(if x == 0.0 && saturate { 0.0 } else { x })
        }
        (Type::F16, Type::F32) => {
            let x = f32::from_bits(bits as u32);
            if x.is_nan() { 0x7fff } else { f16::from_f32(x).to_bits().into() }
        }
        (Type::F32, Type::F16) => canonical(f16::from_bits(bits as u16).to_f32()),
        (Type::F64, Type::F32) => f64::from(f32::from_bits(bits as u32)).to_bits(),
        (Type::F32, Type::F64) => canonical(f64::from_bits(bits) as f32),
        (Type::F32, _) if !from.is_float() => u64::from((integer(bits, from) as f32).to_bits()),
        (Type::F64, _) if !from.is_float() => (integer(bits, from) as f64).to_bits(),
        (_, Type::F32) if !to.is_float() => to_integer(f32::from_bits(bits as u32).into(), to, round),
        (_, Type::F64) if !to.is_float() => to_integer(f64::from_bits(bits), to, round),
        _ if !to.is_float() && !from.is_float() => {
            let (least, most) = limits(to);
            let x = integer(bits, from);
            held(if saturate { x.clamp(least, most) } else { x }, to)
        }
        _ => return None,
    })
}

impl Registers {
    #[inline(always)]
    pub(super) fn convert(
        &mut self,
        (to, from): (Type, Type),
        round: Round,
        saturate: bool,
        i: &Instruction,
        mask: u32,
    ) -> Result<(), Problem> {
        let mut values = [0; LANES];
        match (to, from) {
            // The most frequent ones need no detour.
            (Type::U64, Type::U32) => self.narrow(i.a).iter().zip(&mut values).for_each(|(&x, y)| *y = x.into()),
            (Type::U32, Type::U64) => self.wide(i.a).iter().zip(&mut values).for_each(|(&x, y)| *y = x & 0xffff_ffff),
            _ => {
                let input = |lane: usize| {
                    if from.bytes() == 8 { self.wide(i.a)[lane] } else { self.narrow(i.a)[lane].into() }
                };
                for (lane, value) in values.iter_mut().enumerate() {
                    let Some(converted) = convert(input(lane), to, from, round, saturate) else {
                        return super::integer::meaningless("this conversion");
                    };
                    *value = converted;
                }
            }
        }
        if to.bytes() == 8 {
            self.put_wide(i.d, mask, &values);
        } else {
            self.put(i.d, mask, &values.map(|bits| bits as u32));
        }
        Ok(())
    }

    pub(super) fn round_float(&mut self, ty: Type, round: Round, i: &Instruction, mask: u32) {
        match ty {
            Type::F64 => self.map1_wide(i, mask, |x| rounded(f64::from_bits(x), round).to_bits()),
            _ => self.map1(i, mask, |x| canonical(rounded(f32::from_bits(x).into(), round) as f32) as u32),
        }
    }

    /// The first operand becomes the upper half.
    #[inline(always)]
    pub(super) fn pack_bf16(&mut self, i: &Instruction, mask: u32) {
        self.map2(i, mask, |high, low| bf16_bits(high) << 16 | bf16_bits(low));
    }

    #[inline(always)]
    pub(super) fn pack_bytes(&mut self, i: &Instruction, mask: u32) {
        let byte = |x: u32| (x as i32).clamp(0, 255) as u32;
        self.map3(i, mask, |high, low, rest| rest << 16 | byte(high) << 8 | byte(low));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloats_are_those_of_the_library() {
        for bits in (0..u32::MAX).step_by(104_729).chain([0x3f80_8000, 0x3f81_8000, 0x7f7f_ffff, 0xff80_0000]) {
            let x = f32::from_bits(bits);
            let wanted = if x.is_nan() { 0x7fff } else { half::bf16::from_f32(x).to_bits() };
            assert_eq!(bf16_bits(bits), wanted.into(), "{bits:#x}");
        }
    }

    #[test]
    fn integers_saturate_and_keep_their_signs() {
        let f = |x: f32| u64::from(x.to_bits());
        let to = |x: f32, ty, round| convert(f(x), ty, Type::F32, round, false).unwrap();
        assert_eq!(to(-2.5, Type::S32, Round::Down), u64::from(-3i32 as u32));
        assert_eq!(to(2.5, Type::S32, Round::Even), 2);
        assert_eq!(to(1e30, Type::S32, Round::Even), 0x7fff_ffff);
        assert_eq!(to(-1.0, Type::U32, Round::Zero), 0);
        assert_eq!(to(f32::NAN, Type::S32, Round::Zero), 0);
        assert_eq!(convert(0x80, Type::S16, Type::S8, Round::Zero, false), Some(0xff80));
        assert_eq!(convert(0xffff, Type::S64, Type::S16, Round::Zero, false), Some(u64::MAX));
        assert_eq!(convert(u64::MAX, Type::F32, Type::S64, Round::Even, false), Some(f(-1.0)));
    }
}
