//! Operands: registers, constants and addresses.

use super::decode::{Decoder, Place, Use};
use super::{ParseError, error};
use crate::code::{Slot, Special, Type, Width};

pub(crate) fn type_of(line: u32, name: &str) -> Result<Type, ParseError> {
    Ok(match name {
        "u8" | "b8" => Type::U8,
        "s8" => Type::S8,
        "u16" | "b16" => Type::U16,
        "s16" => Type::S16,
        "u32" | "b32" => Type::U32,
        "s32" => Type::S32,
        "u64" | "b64" => Type::U64,
        "s64" => Type::S64,
        "f16" => Type::F16,
        "f32" => Type::F32,
        "f64" => Type::F64,
        "pred" => Type::Predicate,
        other => return error(line, format!("the type {other} is not known")),
    })
}

/// The bits of a number; those of a float64 if `wide`.
pub(crate) fn immediate(text: &str, wide: bool) -> Option<u64> {
    if let Some(bits) = text.strip_prefix("0f").or(text.strip_prefix("0F")) {
        let bits = u32::from_str_radix(bits, 16).ok()?;
        return Some(if wide { f64::from(f32::from_bits(bits)).to_bits() } else { bits.into() });
    }
    if let Some(bits) = text.strip_prefix("0d").or(text.strip_prefix("0D")) {
        return u64::from_str_radix(bits, 16).ok();
    }
    if let Some(bits) = text.strip_prefix("0x") {
        return u64::from_str_radix(bits, 16).ok();
    }
    text.parse::<i64>().map(|x| x as u64).or_else(|_| text.parse::<u64>()).ok()
}

/// Operands between commas that are in no brackets.
pub(crate) fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    let last = text[start..].trim();
    if !last.is_empty() {
        parts.push(last);
    }
    parts
}

/// The parts of `{a, b}`, or the operand itself.
pub(crate) fn parts(text: &str) -> Vec<&str> {
    match text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(inner) => inner.split(',').map(str::trim).collect(),
        None => vec![text],
    }
}

fn special(name: &str) -> Option<Special> {
    let (base, axis) = name.split_once('.').unwrap_or((name, ""));
    let axis = match axis {
        "x" => 0,
        "y" => 1,
        "z" => 2,
        _ => 3,
    };
    Some(match (base, axis) {
        ("%tid", 0..3) => Special::Thread(axis),
        ("%ntid", 0..3) => Special::Threads(axis),
        ("%ctaid", 0..3) => Special::Block(axis),
        ("%nctaid", 0..3) => Special::Grid(axis),
        ("%laneid", 3) => Special::Lane,
        ("%warpid", 3) => Special::Warp,
        _ => return None,
    })
}

impl Decoder<'_> {
    /// A declared register.
    pub(super) fn register(&self, name: &str) -> Option<(Width, Slot)> {
        if let Some(&(width, first, _)) = self.registers.get(name) {
            return Some((width, first));
        }
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let &(width, first, count) = self.registers.get(prefix)?;
        let number: u32 = name[prefix.len()..].parse().ok()?;
        (number < count).then_some((width, first + number))
    }

    /// The address of an array, or of a parameter among all of them; an array in shared memory takes room from now on.
    fn symbol(&mut self, name: &str) -> Option<u64> {
        if let Some(offset) = self.shared_array(name) {
            return Some(offset.into());
        }
        if let Some(array) = self.local_arrays.get(name) {
            return Some(array.offset.into());
        }
        if let Some(parameter) = self.parameters.iter().find(|parameter| parameter.name == name) {
            return Some(parameter.offset.into());
        }
        let array = self.around.arrays.get(name)?;
        Some(self.around.data.address() + u64::from(array.offset))
    }

    /// The slot of something that is read as this type: a register, a constant, a special register, an address.
    fn value(&mut self, token: &str, ty: Type) -> Result<(Width, Slot), ParseError> {
        if let Some(found) = self.register(token) {
            return Ok(found);
        }
        if let Some(special) = special(token) {
            return Ok((Width::W32, self.special(special)));
        }
        if let Some(slot) = self.dynamic_array(token, ty.width()) {
            return Ok((ty.width(), slot));
        }
        let found = self.symbol(token).or_else(|| immediate(token, ty == Type::F64));
        let Some(bits) = found else { return error(self.line, format!("{token} is not known")) };
        let width = ty.width();
        let bits = if ty.bytes() < 4 && width == Width::W32 { bits & ((1 << (8 * ty.bytes())) - 1) } else { bits };
        Ok((width, self.constant(width, bits)))
    }

    /// An operand that is read.
    pub(super) fn read(&mut self, place: Place, token: &str, ty: Type) -> Result<(), ParseError> {
        let (width, slot) = self.value(token, ty)?;
        if width != ty.width() {
            return error(self.line, format!("{token} is not as wide as its type"));
        }
        self.place(Use { place, width, write: false }, slot);
        Ok(())
    }

    /// An operand that is read with the width that it has.
    pub(super) fn read_any(&mut self, place: Place, token: &str, ty: Type) -> Result<Width, ParseError> {
        let (width, slot) = self.value(token, ty)?;
        self.place(Use { place, width, write: false }, slot);
        Ok(width)
    }

    /// An operand that is written: a register, or `_`. Gives its width.
    pub(super) fn write_any(&mut self, place: Place, token: &str, ty: Type) -> Result<Width, ParseError> {
        if token == "_" {
            let slot = self.fresh(ty.width());
            self.place(Use { place, width: ty.width(), write: true }, slot);
            return Ok(ty.width());
        }
        let Some((width, slot)) = self.register(token) else {
            return error(self.line, format!("{token} is no register"));
        };
        self.place(Use { place, width, write: true }, slot);
        Ok(width)
    }

    pub(super) fn write(&mut self, place: Place, token: &str, ty: Type) -> Result<(), ParseError> {
        if self.write_any(place, token, ty)? != ty.width() {
            return error(self.line, format!("{token} is not as wide as its type"));
        }
        Ok(())
    }

    /// `[base + offset]`: the base is read with 64 bits, the offset goes to the instruction.
    pub(super) fn address(&mut self, place: Place, token: &str) -> Result<(), ParseError> {
        let Some(inner) = token.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
            return error(self.line, format!("{token} is no address"));
        };
        let (base, offset) = match inner.find(['+', '-']).filter(|&at| at > 0) {
            Some(at) => (inner[..at].trim(), inner[at..].trim_start_matches('+').trim()),
            None => (inner.trim(), "0"),
        };
        let Ok(offset) = offset.parse::<i64>() else { return error(self.line, format!("{offset} is no offset")) };
        self.now.offset = offset;
        if self.read_any(place, base, Type::U64)? == Width::W32 {
            // Shared memory has addresses of 32 bits too.
            self.narrow_address = true;
        }
        Ok(())
    }
}
