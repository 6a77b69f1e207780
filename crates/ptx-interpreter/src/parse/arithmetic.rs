//! Decodes what computes in registers.

use super::decode::{Decoder, Place};
use super::operands::{immediate, parts, type_of};
use super::{ParseError, error};
use crate::code::{Approximation, Comparison, Float, Integer, Logic, Op, Round, Space, Type, Width};

const INPUTS: [Place; 3] = [Place::A, Place::B, Place::C];

impl Decoder<'_> {
    /// Decodes an instruction if it is one of these.
    pub(super) fn arithmetic(&mut self, words: &[&str], operands: &[&str]) -> Result<bool, ParseError> {
        let last = words.last().copied().unwrap_or_default();
        match words[0] {
            "mov" => self.moved(type_of(self.line, last)?, operands)?,
            "cvt" if words[1] == "pack" => self.pack_bytes(words, operands)?,
            "cvt" => self.convert(words, operands)?,
            "cvta" => {
                let to = words[1] == "to";
                let op = match if to { words[2] } else { words[1] } {
                    "shared" => Space::Shared,
                    "local" => Space::Local,
                    "global" | "const" => Space::Global,
                    other => return error(self.line, format!("addresses in {other}")),
                };
                self.now.op = if to { Op::FromGeneric(op) } else { Op::ToGeneric(op) };
                self.simple(operands, &[Type::U64], Type::U64)?;
            }
            "setp" => self.compare(words, operands)?,
            "selp" => {
                let ty = type_of(self.line, last)?;
                self.now.op = Op::Select(ty.width());
                self.simple(operands, &[ty, ty, Type::Predicate], ty)?;
            }
            "bfi" => self.bit_insert(type_of(self.line, last)?, operands)?,
            "prmt" => {
                self.now.op = Op::Permute;
                self.simple(operands, &[Type::U32; 3], Type::U32)?;
            }
            "popc" | "clz" => {
                self.now.op = if words[0] == "popc" { Op::CountOnes } else { Op::LeadingZeros };
                if last != "b32" {
                    return Ok(false);
                }
                self.simple(operands, &[Type::U32], Type::U32)?;
            }
            "rcp" | "rsqrt" | "ex2" | "lg2" if words.contains(&"approx") => {
                let ftz = words.contains(&"ftz") && last == "f32";
                self.now.op = Op::Approximate(match words[0] {
                    "rcp" if ftz => Approximation::Reciprocal,
                    "rsqrt" if ftz => Approximation::ReciprocalRoot,
                    "ex2" if ftz => Approximation::Exp2,
                    "lg2" if ftz => Approximation::Log2,
                    _ => return Ok(false),
                });
                self.simple(operands, &[Type::F32], Type::F32)?;
            }
            _ => return self.typed(words, operands),
        }
        Ok(true)
    }

    /// One result and inputs of these types.
    fn simple(&mut self, operands: &[&str], inputs: &[Type], output: Type) -> Result<(), ParseError> {
        if operands.len() != inputs.len() + 1 {
            return error(self.line, format!("{} operands", operands.len()));
        }
        for ((place, token), ty) in INPUTS.into_iter().zip(&operands[1..]).zip(inputs) {
            self.read(place, token, *ty)?;
        }
        self.write(Place::D, operands[0], output)
    }

    /// Instructions whose last word is a type of numbers or predicates.
    fn typed(&mut self, words: &[&str], operands: &[&str]) -> Result<bool, ParseError> {
        let Ok(ty) = type_of(self.line, words.last().copied().unwrap_or_default()) else { return Ok(false) };
        if ty == Type::Predicate {
            let logic = match words[0] {
                "and" => Logic::And,
                "or" => Logic::Or,
                "xor" => Logic::Xor,
                "not" => Logic::Not,
                _ => return Ok(false),
            };
            self.now.op = Op::Logic(logic);
            self.simple(operands, &[ty; 2][..operands.len() - 1], ty)?;
            return Ok(true);
        }
        if ty.is_float() { self.float(words, operands, ty) } else { self.integer(words, operands, ty) }
    }

    fn integer(&mut self, words: &[&str], operands: &[&str], ty: Type) -> Result<bool, ParseError> {
        let middle = &words[1..words.len() - 1];
        if middle == ["wide"] {
            let wide = match ty {
                Type::U16 => Type::U32,
                Type::S16 => Type::S32,
                Type::U32 => Type::U64,
                Type::S32 => Type::S64,
                _ => return Ok(false),
            };
            match words[0] {
                "mul" => {
                    self.now.op = Op::MulWide(ty);
                    self.simple(operands, &[ty, ty], wide)?;
                }
                "mad" => {
                    self.now.op = Op::MadWide(ty);
                    self.simple(operands, &[ty, ty, wide], wide)?;
                }
                _ => return Ok(false),
            }
            return Ok(true);
        }
        let (op, inputs) = match (words[0], middle) {
            ("add", []) => (Integer::Add, 2),
            ("sub", []) => (Integer::Sub, 2),
            ("mul", ["lo"]) => (Integer::MulLow, 2),
            ("mul", ["hi"]) => (Integer::MulHigh, 2),
            ("mad", ["lo"]) => (Integer::MadLow, 3),
            ("div", []) => (Integer::Div, 2),
            ("rem", []) => (Integer::Rem, 2),
            ("min", []) => (Integer::Min, 2),
            ("max", []) => (Integer::Max, 2),
            ("and", []) => (Integer::And, 2),
            ("or", []) => (Integer::Or, 2),
            ("xor", []) => (Integer::Xor, 2),
            ("not", []) => (Integer::Not, 1),
            ("neg", []) => (Integer::Neg, 1),
            ("abs", []) => (Integer::Abs, 1),
            ("shl", []) => (Integer::ShiftLeft, 2),
            ("shr", []) => (Integer::ShiftRight, 2),
            _ => return Ok(false),
        };
        self.now.op = Op::Integer(op, ty);
        match op {
            Integer::ShiftLeft | Integer::ShiftRight => self.simple(operands, &[ty, Type::U32], ty)?,
            _ => self.simple(operands, &[ty; 3][..inputs], ty)?,
        }
        Ok(true)
    }

    fn float(&mut self, words: &[&str], operands: &[&str], ty: Type) -> Result<bool, ParseError> {
        let middle = &words[1..words.len() - 1];
        let (op, inputs) = match (words[0], middle) {
            ("add", ["rn"] | []) => (Float::Add, 2),
            ("sub", ["rn"] | []) => (Float::Sub, 2),
            ("mul", ["rn"] | []) => (Float::Mul, 2),
            ("div", ["rn"]) => (Float::Div, 2),
            ("fma", ["rn"]) => (Float::Fma, 3),
            ("add", ["rm"]) => (Float::AddDown, 2),
            ("fma", ["rm"]) => (Float::FmaDown, 3),
            ("min", []) => (Float::Min, 2),
            ("max", []) => (Float::Max, 2),
            ("neg", []) => (Float::Neg, 1),
            ("abs", []) => (Float::Abs, 1),
            ("copysign", []) => (Float::CopySign, 2),
            ("sqrt", ["rn"]) => (Float::Sqrt, 1),
            ("rcp", ["rn"]) => (Float::Reciprocal, 1),
            _ => return Ok(false),
        };
        self.now.op = match ty {
            Type::F32 => Op::Float32(op),
            Type::F64 if !matches!(op, Float::AddDown | Float::FmaDown) => Op::Float64(op),
            _ => return Ok(false),
        };
        self.simple(operands, &[ty; 3][..inputs], ty)?;
        Ok(true)
    }

    fn moved(&mut self, ty: Type, operands: &[&str]) -> Result<(), ParseError> {
        let &[to, from] = operands else { return error(self.line, "mov has two operands") };
        let (to, from) = (parts(to), parts(from));
        let half = if ty.bytes() == 8 { Type::U32 } else { Type::U16 };
        match (to.as_slice(), from.as_slice()) {
            (&[to], &[from]) => {
                self.now.op = if ty == Type::Predicate { Op::Logic(Logic::Copy) } else { Op::Move(ty.width()) };
                self.read(Place::A, from, ty)?;
                self.write(Place::D, to, ty)
            }
            (&[to], &[low, high]) => {
                self.now.op = if ty.bytes() == 8 { Op::Join64 } else { Op::Join32 };
                self.read(Place::A, low, half)?;
                self.read(Place::B, high, half)?;
                self.write(Place::D, to, ty)
            }
            (&[low, high], &[from]) => {
                self.now.op = if ty.bytes() == 8 { Op::Split64 } else { Op::Split32 };
                self.read(Place::A, from, ty)?;
                self.write(Place::D, low, half)?;
                self.write(Place::C, high, half)
            }
            _ => error(self.line, "a move of more than two parts"),
        }
    }

    fn compare(&mut self, words: &[&str], operands: &[&str]) -> Result<(), ParseError> {
        let &[_, name, ty] = words else {
            return error(self.line, "a comparison with more than a condition and a type");
        };
        let ty = type_of(self.line, ty)?;
        // The names of unsigned comparisons; those that are true without numbers end in u.
        let (name, unordered) = match name {
            "lo" => ("lt", false),
            "ls" => ("le", false),
            "hi" => ("gt", false),
            "hs" => ("ge", false),
            "nan" | "num" => (name, false),
            name if name.len() == 3 && name.ends_with('u') => (&name[..2], true),
            name => (name, false),
        };
        let comparison = match name {
            "eq" => Comparison::Equal,
            "ne" => Comparison::NotEqual,
            "lt" => Comparison::Less,
            "le" => Comparison::LessEqual,
            "gt" => Comparison::Greater,
            "ge" => Comparison::GreaterEqual,
            "num" => Comparison::Numbers,
            "nan" => Comparison::NotNumbers,
            other => return error(self.line, format!("the comparison {other} is not known")),
        };
        self.now.op = Op::Compare(comparison, unordered, ty);
        self.simple(operands, &[ty, ty], Type::Predicate)
    }

    fn bit_insert(&mut self, ty: Type, operands: &[&str]) -> Result<(), ParseError> {
        let &[to, from, into, position, length] = operands else { return error(self.line, "bfi has five operands") };
        let numbers = immediate(position, false).zip(immediate(length, false));
        let Some((position @ 0..64, length @ 0..=64)) = numbers else {
            return error(self.line, "bfi with a position that is no constant");
        };
        self.now.op = Op::BitInsert(ty.width());
        self.now.offset = (position | length << 8) as i64;
        self.simple(&[to, from, into], &[ty, ty], ty)
    }

    fn pack_bytes(&mut self, words: &[&str], operands: &[&str]) -> Result<(), ParseError> {
        if words != ["cvt", "pack", "sat", "u8", "s32", "b32"] {
            return error(self.line, format!("the instruction {} is not known", words.join(".")));
        }
        self.now.op = Op::PackBytes;
        self.simple(operands, &[Type::S32, Type::S32, Type::U32], Type::U32)
    }

    fn convert(&mut self, words: &[&str], operands: &[&str]) -> Result<(), ParseError> {
        if words == ["cvt", "rn", "bf16x2", "f32"] {
            self.now.op = Op::PackBf16;
            return self.simple(operands, &[Type::F32, Type::F32], Type::U32);
        }
        let &[ref how @ .., to, from] = &words[1..] else { return error(self.line, "a conversion without types") };
        let (to, from) = (type_of(self.line, to)?, type_of(self.line, from)?);
        let (mut round, mut integral, mut saturate) = (Round::Zero, false, false);
        for &word in how {
            (round, integral) = match word {
                "rn" => (Round::Even, false),
                "rni" => (Round::Even, true),
                "rzi" => (Round::Zero, true),
                "rmi" => (Round::Down, true),
                "rpi" => (Round::Up, true),
                "sat" => {
                    saturate = true;
                    continue;
                }
                other => return error(self.line, format!("conversions by {other} are not known")),
            };
        }
        let narrower = to.is_float() && from.is_float() && to.bytes() < from.bytes();
        if (narrower || to.is_float() && !from.is_float()) && (round, integral) != (Round::Even, false) {
            return error(self.line, "a conversion to floats that rounds otherwise than to the nearest");
        }
        self.now.op = match (to, from) {
            (Type::F32 | Type::F64, _) if to == from && integral => Op::RoundFloat(to, round),
            _ => Op::Convert(to, from, round, saturate),
        };
        self.simple(operands, &[widened(from)], widened(to))
    }
}

/// What has the width of the register that holds such a value.
fn widened(ty: Type) -> Type {
    if ty.width() == Width::W64 { Type::U64 } else { ty }
}
