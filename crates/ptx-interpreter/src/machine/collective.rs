//! What the threads of a warp do together.

use super::block::Shared;
use super::registers::lanes;
use super::warp::Warp;
use super::{FULL, LANES, Problem};
use crate::code::{Instruction, Shuffle};

impl Warp {
    /// Each lane receives the value of another; the clamp's low bits bound the segment, its upper ones say how long it is.
    pub(super) fn shuffle(
        &mut self,
        shared: &Shared,
        mode: Shuffle,
        i: &Instruction,
        mask: u32,
    ) -> Result<(), Problem> {
        let (values, by, clamps) =
            (*self.registers.narrow(i.a), *self.registers.narrow(i.b), *self.registers.narrow(i.c));
        let (mut received, mut valid) = ([0; LANES], 0);
        for lane in lanes(mask) {
            let (by, clamp, segment) = (by[lane] & 31, clamps[lane] & 31, clamps[lane] >> 8 & 31);
            let own = lane as u32;
            let (least, most) = (own & segment, own & segment | clamp & !segment);
            let (from, is_valid) = match mode {
                Shuffle::Up => (own.wrapping_sub(by), own as i32 - by as i32 >= most as i32),
                Shuffle::Down => (own + by, own + by <= most),
                Shuffle::Xor => (own ^ by, own ^ by <= most),
                Shuffle::Indexed => (least | by & !segment, (least | by & !segment) <= most),
            };
            let from = if is_valid { from } else { own };
            if mask >> from & 1 == 0 {
                return Problem::new(lane, format!("receives from lane {from}, which is not there"));
            }
            received[lane] = values[from as usize];
            valid |= u32::from(is_valid) << lane;
        }
        self.registers.put(i.d, mask, &received);
        self.registers.put_predicate(shared.kernel.lists[i.offset as usize], mask, valid);
        Ok(())
    }

    pub(super) fn ballot(&mut self, i: &Instruction, mask: u32) {
        let votes = self.registers.predicates[i.a as usize] & mask;
        self.registers.put(i.d, mask, &[votes; LANES]);
    }

    /// 8x8 matrices of 16-bit elements, the addresses of whose rows the lanes give, eight each.
    pub(super) fn load_matrix(
        &mut self,
        shared: &mut Shared,
        (count, transposed): (u8, bool),
        i: &Instruction,
    ) -> Result<(), Problem> {
        let addresses: [u64; LANES] =
            if i.c == 1 { self.registers.narrow(i.a).map(u64::from) } else { *self.registers.wide(i.a) };
        for matrix in 0..usize::from(count) {
            let mut elements = [[0u16; 8]; 8];
            for (row, elements) in elements.iter_mut().enumerate() {
                let lane = 8 * matrix + row;
                let from = shared.inside(addresses[lane].wrapping_add_signed(i.offset), 16, lane)?;
                for (element, bytes) in elements.iter_mut().zip(shared.memory[from..from + 16].chunks_exact(2)) {
                    *element = u16::from_le_bytes([bytes[0], bytes[1]]);
                }
            }
            let pair = |lane: usize| {
                let (g, t) = (lane / 4, 2 * (lane % 4));
                let (low, high) = match transposed {
                    false => (elements[g][t], elements[g][t + 1]),
                    true => (elements[t][g], elements[t + 1][g]),
                };
                u32::from(high) << 16 | u32::from(low)
            };
            let slot = shared.kernel.lists[i.d as usize + matrix];
            self.registers.put(slot, FULL, &std::array::from_fn(pair));
        }
        Ok(())
    }

    /// D = A B + C with A 16x16, B 16x8 in bfloat16, C and D 16x8 in float32. The hardware's order of sums and its roundings
    /// are not told; here sums are float64 and are rounded once.
    #[inline(always)]
    pub(super) fn mma(&mut self, shared: &Shared, i: &Instruction) {
        let lists = &shared.kernel.lists[i.d as usize..i.d as usize + 14];
        let (mut a, mut b, mut sums) = ([[0f64; 16]; 16], [[0f64; 8]; 16], [[0f64; 8]; 16]);
        let halves = |bits: u32| [bits << 16, bits & 0xffff_0000].map(|bits| f64::from(f32::from_bits(bits)));
        for lane in 0..LANES {
            let (g, t) = (lane / 4, 2 * (lane % 4));
            for (k, (row, column)) in [(0, 0), (8, 0), (0, 8), (8, 8)].into_iter().enumerate() {
                let pair = halves(self.registers.narrow(lists[4 + k])[lane]);
                a[g + row][t + column..t + column + 2].copy_from_slice(&pair);
            }
            for (k, row) in [0, 8].into_iter().enumerate() {
                let [low, high] = halves(self.registers.narrow(lists[8 + k])[lane]);
                (b[t + row][g], b[t + row + 1][g]) = (low, high);
            }
            for (k, (row, column)) in [(0, 0), (0, 1), (8, 0), (8, 1)].into_iter().enumerate() {
                let bits = self.registers.narrow(lists[10 + k])[lane];
                sums[g + row][t + column] = f32::from_bits(bits).into();
            }
        }
        for (sums, a) in sums.iter_mut().zip(&a) {
            for (a, b) in a.iter().zip(&b) {
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum += a * b;
                }
            }
        }
        for (k, (row, column)) in [(0, 0), (0, 1), (8, 0), (8, 1)].into_iter().enumerate() {
            let of = |lane: usize| {
                let sum = sums[lane / 4 + row][2 * (lane % 4) + column] as f32;
                if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() }
            };
            self.registers.put(lists[k], FULL, &std::array::from_fn(of));
        }
    }
}
