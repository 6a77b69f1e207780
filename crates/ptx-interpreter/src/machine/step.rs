//! One instruction of some threads of a warp.

use super::Problem;
use super::block::Shared;
use super::memory::{LOCAL_WINDOW, SHARED_WINDOW};
use super::warp::Warp;
use crate::code::{Elements, Instruction, Logic, Op, Space, Width};

impl Warp {
    /// Does what changes registers and memory; branches, returns and barriers are `advance`'s.
    pub(super) fn step(&mut self, shared: &mut Shared, i: &Instruction, mask: u32) -> Result<(), Problem> {
        #[cfg(target_arch = "x86_64")]
        if shared.has_avx2 {
            // SAFETY: the processor has these instructions, `has_avx2` says.
            return unsafe { self.step_by_avx2(shared, i, mask) };
        }
        self.step_by_any(shared, i, mask)
    }

    /// The same with eight lanes at a time; fused products and sums are instructions rather than calls.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn step_by_avx2(&mut self, shared: &mut Shared, i: &Instruction, mask: u32) -> Result<(), Problem> {
        self.step_by_any(shared, i, mask)
    }

    #[inline(always)]
    fn step_by_any(&mut self, shared: &mut Shared, i: &Instruction, mask: u32) -> Result<(), Problem> {
        let registers = &mut self.registers;
        match i.op {
            Op::Integer(op, ty) => registers.integer(op, ty, i, mask),
            Op::Float32(op) => registers.float(op, i, mask),
            Op::Float64(op) => registers.float_wide(op, i, mask),
            Op::Move(Width::W64) => registers.map1_wide(i, mask, |a| a),
            Op::Move(_) => registers.map1(i, mask, |a| a),
            Op::MulWide(_) | Op::MadWide(_) => registers.wide_product(i.op, i, mask),
            Op::Compare(comparison, unordered, ty) => {
                let bits = match ty.is_float() {
                    true => registers.compare_floats(comparison, unordered, ty, i),
                    false => registers.compared(comparison, ty, i),
                };
                registers.put_predicate(i.d, mask, bits);
            }
            Op::Select(width) => self.select(width, i, mask),
            Op::Logic(logic) => self.logic(logic, i, mask),
            Op::Convert(to, from, round, saturate) => registers.convert((to, from), round, saturate, i, mask)?,
            Op::RoundFloat(ty, round) => registers.round_float(ty, round, i, mask),
            Op::PackBf16 => registers.pack_bf16(i, mask),
            Op::PackBytes => registers.pack_bytes(i, mask),
            Op::Approximate(op) => registers.approximate(shared, op, i, mask),
            Op::Join64 => {
                let (a, b) = (registers.narrow(i.a), registers.narrow(i.b));
                let values = std::array::from_fn(|lane| u64::from(b[lane]) << 32 | u64::from(a[lane]));
                registers.put_wide(i.d, mask, &values);
            }
            Op::Split64 => {
                let a = *registers.wide(i.a);
                registers.put(i.d, mask, &a.map(|bits| bits as u32));
                registers.put(i.c, mask, &a.map(|bits| (bits >> 32) as u32));
            }
            Op::Join32 => registers.map2(i, mask, |a, b| b << 16 | a & 0xffff),
            Op::Split32 => {
                let a = *registers.narrow(i.a);
                registers.put(i.d, mask, &a.map(|bits| bits & 0xffff));
                registers.put(i.c, mask, &a.map(|bits| bits >> 16));
            }
            Op::BitInsert(width) => registers.insert(i, mask, width == Width::W64),
            Op::CountOnes => registers.map1(i, mask, u32::count_ones),
            Op::LeadingZeros => registers.map1(i, mask, u32::leading_zeros),
            Op::Permute => registers.permute(i, mask),
            Op::ToGeneric(space) => self.window(space, i, mask, u64::wrapping_add),
            Op::FromGeneric(space) => self.window(space, i, mask, u64::wrapping_sub),
            Op::Load(space, ty, wide, count) => self.load(shared, (space, ty, wide, count), i, mask)?,
            Op::Store(space, ty, wide, count) => self.store(shared, (space, ty, wide, count), i, mask)?,
            Op::Atomic(atomic, ty) => self.atomic(shared, (atomic, ty), i, mask)?,
            Op::CopyAsync => self.copy_async(shared, i, mask)?,
            Op::CommitAsync => self.commit_async(mask),
            Op::WaitAsync => self.wait_async(shared, i.offset, mask)?,
            Op::Shuffle(mode) => self.shuffle(shared, mode, i, mask)?,
            Op::Ballot => self.ballot(i, mask),
            Op::LoadMatrix { count, transposed } => self.load_matrix(shared, (count, transposed), i)?,
            Op::Mma(Elements::Bf16) => self.mma(shared, i),
            Op::Mma(Elements::S8) => self.mma_s8(shared, i),
            Op::Mma(Elements::E4m3) => self.mma_e4m3(shared, i),
            // Threads take turns: what one wrote, the next one sees.
            Op::Fence | Op::WarpBarrier => {}
            Op::Branch | Op::Exit | Op::Barrier => unreachable!("not changes of registers"),
        }
        Ok(())
    }

    fn select(&mut self, width: Width, i: &Instruction, mask: u32) {
        let chosen = self.registers.predicates[i.c as usize];
        let registers = &mut self.registers;
        match width {
            Width::W64 => {
                let (a, b) = (registers.wide(i.a), registers.wide(i.b));
                let values = std::array::from_fn(|lane| if chosen >> lane & 1 != 0 { a[lane] } else { b[lane] });
                registers.put_wide(i.d, mask, &values);
            }
            _ => {
                let (a, b) = (registers.narrow(i.a), registers.narrow(i.b));
                let values = std::array::from_fn(|lane| if chosen >> lane & 1 != 0 { a[lane] } else { b[lane] });
                registers.put(i.d, mask, &values);
            }
        }
    }

    fn logic(&mut self, logic: Logic, i: &Instruction, mask: u32) {
        let predicates = &self.registers.predicates;
        let a = predicates[i.a as usize];
        let second = || predicates[i.b as usize];
        let bits = match logic {
            Logic::And => a & second(),
            Logic::Or => a | second(),
            Logic::Xor => a ^ second(),
            Logic::Not => !a,
            Logic::Copy => a,
        };
        self.registers.put_predicate(i.d, mask, bits);
    }

    fn window(&mut self, space: Space, i: &Instruction, mask: u32, f: impl Fn(u64, u64) -> u64) {
        let window = match space {
            Space::Shared => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            _ => 0,
        };
        let mut values = *self.registers.wide(i.a);
        values.iter_mut().for_each(|value| *value = f(*value, window));
        self.registers.put_wide(i.d, mask, &values);
    }
}
