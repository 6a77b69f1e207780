//! Decodes what reads and writes memory, and what the threads of a warp or block do together.

use super::decode::{Decoder, Place};
use super::operands::{immediate, parts, type_of};
use super::{ParseError, error};
use crate::code::{Atomic, Elements, Op, Shuffle, Space, Type, Width};

impl Decoder<'_> {
    /// Decodes an instruction if it is one of these.
    pub(super) fn memory(&mut self, words: &[&str], operands: &[&str]) -> Result<bool, ParseError> {
        match words {
            ["ld", "param", rest @ ..] => self.load_parameter(rest, operands)?,
            ["ld", "volatile", space, rest @ ..] | ["ld", space, rest @ ..] => {
                let (ty, count) = self.vector(rest)?;
                self.load_to(operands.first().copied().unwrap_or_default(), (self.space(space)?, ty, count))?;
                self.addressed(Place::A, operands.get(1), space)?;
            }
            ["st", "volatile", space, rest @ ..] | ["st", space, rest @ ..] => {
                let (ty, count) = self.vector(rest)?;
                let values = self.vector_of(operands.get(1).copied().unwrap_or_default(), count)?;
                let first = self.list(values.len());
                let mut wide = Width::W32;
                for (i, value) in values.iter().enumerate() {
                    wide = self.read_any(Place::List(first + i), value, ty)?;
                }
                self.now.b = first as u32;
                self.now.op = Op::Store(self.space(space)?, ty, wide, count);
                self.addressed(Place::A, operands.first(), space)?;
            }
            ["atom", "global", how, ty] | ["atom", _, "global", how, ty] => {
                self.now.op = self.atomic(how, ty)?;
                let ty = type_of(self.line, ty)?;
                let &[to, address, value] = operands else { return error(self.line, "atom has three operands") };
                self.write(Place::D, to, ty)?;
                self.address(Place::A, address)?;
                self.read(Place::B, value, ty)?;
            }
            ["red", "global", how, ty] => {
                self.now.op = self.atomic(how, ty)?;
                let ty = type_of(self.line, ty)?;
                let &[address, value] = operands else { return error(self.line, "red has two operands") };
                self.write(Place::D, "_", ty)?;
                self.address(Place::A, address)?;
                self.read(Place::B, value, ty)?;
            }
            ["ret" | "exit"] => self.now.op = Op::Exit,
            ["membar" | "fence", ..] => self.now.op = Op::Fence,
            ["bar" | "barrier", ..] => self.barrier(words, operands)?,
            ["cp", "async", rest @ ..] => self.asynchronous(rest, operands)?,
            ["shfl", "sync", mode, "b32"] => self.shuffle(mode, operands)?,
            ["vote", "sync", "ballot", "b32"] => {
                self.now.op = Op::Ballot;
                let &[to, predicate, mask] = operands else { return error(self.line, "vote has three operands") };
                self.write(Place::D, to, Type::U32)?;
                self.read(Place::A, predicate, Type::Predicate)?;
                self.read(Place::C, mask, Type::U32)?;
            }
            ["ldmatrix", "sync", "aligned", "m8n8", count, rest @ ..] => self.load_matrix(count, rest, operands)?,
            ["mma", "sync", "aligned", shape, "row", "col", types @ ..] => {
                let (elements, sum) = match (*shape, types) {
                    ("m16n8k16", ["f32", "bf16", "bf16", "f32"]) => (Elements::Bf16, Type::F32),
                    ("m16n8k32", ["s32", "s8", "s8", "s32"]) => (Elements::S8, Type::S32),
                    ("m16n8k32", ["f32", "e4m3", "e4m3", "f32"]) => (Elements::E4m3, Type::F32),
                    _ => return Ok(false),
                };
                self.mma(elements, sum, operands)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn space(&self, name: &str) -> Result<Space, ParseError> {
        Ok(match name {
            "global" => Space::Global,
            "shared" => Space::Shared,
            "local" => Space::Local,
            "const" => Space::Constant,
            other => return error(self.line, format!("memory in {other}")),
        })
    }

    /// The type and how many there are; hints to the caches change nothing.
    fn vector(&self, words: &[&str]) -> Result<(Type, u8), ParseError> {
        let (mut count, mut ty) = (1, None);
        for &word in words {
            match word {
                "v2" => count = 2,
                "v4" => count = 4,
                "nc" | "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" => {}
                other => ty = Some(type_of(self.line, other)?),
            }
        }
        match ty {
            Some(ty) => Ok((ty, count)),
            None => error(self.line, "an access without a type"),
        }
    }

    fn vector_of<'t>(&self, token: &'t str, count: u8) -> Result<Vec<&'t str>, ParseError> {
        let parts = parts(token);
        if parts.len() != usize::from(count) {
            return error(self.line, format!("{} registers where {count} are named", parts.len()));
        }
        Ok(parts)
    }

    fn addressed(&mut self, place: Place, token: Option<&&str>, space: &str) -> Result<(), ParseError> {
        let Some(token) = token else { return error(self.line, "an access without an address") };
        self.address(place, token)?;
        if self.narrow_address {
            if space != "shared" {
                return error(self.line, "an address of 32 bits outside of shared memory");
            }
            self.now.c = 1;
        }
        Ok(())
    }

    /// `[name + offset]`, which is known now, or `[register + offset]`.
    fn load_parameter(&mut self, words: &[&str], operands: &[&str]) -> Result<(), ParseError> {
        let (ty, count) = self.vector(words)?;
        let &[to, from] = operands else { return error(self.line, "ld has two operands") };
        let inner = from.trim_matches(['[', ']']);
        let base = inner.split(['+', '-']).next().unwrap_or_default().trim();
        if self.register(base).is_some() {
            self.load_to(to, (Space::ParamAt, ty, count))?;
            return self.address(Place::A, from);
        }
        let (name, offset) = inner.split_once('+').unwrap_or((inner, "0"));
        let found = self.parameters.iter().find(|parameter| parameter.name == name.trim()).cloned();
        let (Some(parameter), Ok(offset)) = (found, offset.trim().parse::<u32>()) else {
            return error(self.line, format!("{inner} is not known"));
        };
        if offset + ty.bytes() * u32::from(count) > parameter.bytes {
            return error(self.line, format!("{inner} is beyond the parameter's {} bytes", parameter.bytes));
        }
        self.now.offset = i64::from(parameter.offset + offset);
        self.load_to(to, (Space::Param, ty, count))
    }

    /// A load into the registers that are named.
    fn load_to(&mut self, to: &str, (space, ty, count): (Space, Type, u8)) -> Result<(), ParseError> {
        let targets = self.vector_of(to, count)?;
        let first = self.list(targets.len());
        let mut wide = Width::W32;
        for (i, target) in targets.iter().enumerate() {
            wide = self.write_any(Place::List(first + i), target, ty)?;
        }
        self.now.d = first as u32;
        self.now.op = Op::Load(space, ty, wide, count);
        Ok(())
    }

    fn atomic(&self, how: &str, ty: &str) -> Result<Op, ParseError> {
        let ty = type_of(self.line, ty)?;
        let atomic = match how {
            "add" => Atomic::Add,
            "max" => Atomic::Max,
            "min" => Atomic::Min,
            "and" => Atomic::And,
            "or" => Atomic::Or,
            "exch" => Atomic::Exchange,
            other => return error(self.line, format!("the atomic {other} is not known")),
        };
        if ty.is_float() && (ty != Type::F32 || atomic != Atomic::Add) {
            return error(self.line, "the only atomic of floats is an addition");
        }
        Ok(Op::Atomic(atomic, ty))
    }

    fn barrier(&mut self, words: &[&str], operands: &[&str]) -> Result<(), ParseError> {
        if words[1] == "warp" {
            self.now.op = Op::WarpBarrier;
            return self.read(Place::C, operands.first().copied().unwrap_or("-1"), Type::U32);
        }
        if operands != ["0"] || words.contains(&"red") || words.contains(&"arrive") {
            return error(self.line, "a barrier of another number than 0, or of a part of the block");
        }
        self.now.op = Op::Barrier;
        Ok(())
    }

    fn asynchronous(&mut self, words: &[&str], operands: &[&str]) -> Result<(), ParseError> {
        match (words, operands) {
            (["commit_group"], []) => self.now.op = Op::CommitAsync,
            (["wait_all"], []) => {
                self.now.op = Op::WaitAsync;
                self.now.offset = -1;
            }
            (["wait_group"], &[count]) => {
                let Some(count) = immediate(count, false) else { return error(self.line, "no number of groups") };
                self.now.op = Op::WaitAsync;
                self.now.offset = count as i64;
            }
            (["cg" | "ca", "shared", "global"], &[to, from, "16", ref size @ ..]) => {
                self.now.op = Op::CopyAsync;
                self.address(Place::A, to)?;
                if !self.narrow_address || self.now.offset != 0 {
                    return error(self.line, "the destination of an asynchronous copy is a register of 32 bits");
                }
                self.address(Place::B, from)?;
                self.read(Place::C, size.first().copied().unwrap_or("16"), Type::U32)?;
            }
            _ => return error(self.line, format!("cp.async.{} is not known", words.join("."))),
        }
        Ok(())
    }

    fn shuffle(&mut self, mode: &str, operands: &[&str]) -> Result<(), ParseError> {
        let mode = match mode {
            "idx" => Shuffle::Indexed,
            "bfly" => Shuffle::Xor,
            "up" => Shuffle::Up,
            "down" => Shuffle::Down,
            other => return error(self.line, format!("shuffles by {other} are not known")),
        };
        let &[to, value, which, clamp, mask] = operands else { return error(self.line, "shfl has five operands") };
        let (to, predicate) = to.split_once('|').unwrap_or((to, "_"));
        let first = self.list(2);
        self.now.op = Op::Shuffle(mode);
        self.now.offset = first as i64;
        self.write(Place::D, to, Type::U32)?;
        self.write(Place::List(first), predicate, Type::Predicate)?;
        self.read(Place::List(first + 1), mask, Type::U32)?;
        self.read(Place::A, value, Type::U32)?;
        self.read(Place::B, which, Type::U32)?;
        self.read(Place::C, clamp, Type::U32)
    }

    fn load_matrix(&mut self, count: &str, rest: &[&str], operands: &[&str]) -> Result<(), ParseError> {
        let count = match count {
            "x1" => 1,
            "x2" => 2,
            "x4" => 4,
            other => return error(self.line, format!("{other} matrices")),
        };
        let transposed = rest == ["trans", "shared", "b16"];
        if !transposed && rest != ["shared", "b16"] {
            return error(self.line, format!("ldmatrix of {}", rest.join(".")));
        }
        let &[to, address] = operands else { return error(self.line, "ldmatrix has two operands") };
        let first = self.list(usize::from(count));
        for (i, register) in self.vector_of(to, count)?.into_iter().enumerate() {
            self.write(Place::List(first + i), register, Type::U32)?;
        }
        self.now.d = first as u32;
        self.now.op = Op::LoadMatrix { count, transposed };
        self.addressed(Place::A, Some(&address), "shared")
    }

    fn mma(&mut self, elements: Elements, sum: Type, operands: &[&str]) -> Result<(), ParseError> {
        let &[d, a, b, c] = operands else { return error(self.line, "mma has four operands") };
        self.now.op = Op::Mma(elements);
        let first = self.list(14);
        self.now.d = first as u32;
        let mut at = first;
        for (token, count, ty) in [(d, 4, sum), (a, 4, Type::U32), (b, 2, Type::U32), (c, 4, sum)] {
            for register in self.vector_of(token, count)? {
                if at < first + 4 {
                    self.write(Place::List(at), register, ty)?;
                } else {
                    self.read(Place::List(at), register, ty)?;
                }
                at += 1;
            }
        }
        Ok(())
    }
}
