//! Copies from global to shared memory that happen when they are waited for, and no earlier: until then the destination
//! holds no numbers.

use super::block::Shared;
use super::registers::lanes;
use super::warp::Warp;
use super::{LANES, POISON, Problem};
use crate::code::Instruction;

/// Bytes of a copy.
const BYTES: usize = 16;

/// A copy of one lane that has not happened.
struct Copy {
    lane: usize,
    to: usize,
    from: u64,
    /// The rest is zero.
    size: usize,
    /// How many groups the lane had closed before.
    group: i64,
}

#[derive(Default)]
pub(crate) struct Copies {
    open: Vec<Copy>,
    /// Groups that each lane has closed.
    groups: [i64; LANES],
}

impl Copies {
    pub(crate) fn reset(&mut self) {
        self.open.clear();
        self.groups = [0; LANES];
    }
}

impl Warp {
    pub(super) fn copy_async(&mut self, shared: &mut Shared, i: &Instruction, mask: u32) -> Result<(), Problem> {
        for lane in lanes(mask) {
            let to = shared.inside(self.registers.narrow(i.a)[lane].into(), BYTES as u32, lane)?;
            let from = self.registers.wide(i.b)[lane].wrapping_add_signed(i.offset);
            let size = self.registers.narrow(i.c)[lane] as usize;
            if !from.is_multiple_of(BYTES as u64) || size > BYTES {
                return Problem::access(
                    lane,
                    format!("copies {size} bytes from {from:#x}, which is not aligned to {BYTES}"),
                );
            }
            if size > 0 {
                shared.ranges.pointer(from, BYTES as u32, lane)?;
            }
            shared.memory[to..to + BYTES].fill(POISON);
            let group = self.copies.groups[lane];
            self.copies.open.push(Copy { lane, to, from, size, group });
        }
        Ok(())
    }

    pub(super) fn commit_async(&mut self, mask: u32) {
        lanes(mask).for_each(|lane| self.copies.groups[lane] += 1);
    }

    /// Does all copies but those of the `left` youngest groups; with a negative number all, in groups or not.
    pub(super) fn wait_async(&mut self, shared: &mut Shared, left: i64, mask: u32) -> Result<(), Problem> {
        let mut kept = Vec::new();
        for copy in std::mem::take(&mut self.copies.open) {
            let Copy { lane, to, from, size, group } = copy;
            let is_awaited = left < 0 || group < self.copies.groups[lane] - left;
            if mask >> lane & 1 == 0 || !is_awaited {
                kept.push(copy);
                continue;
            }
            let bytes = &mut shared.memory[to..to + BYTES];
            bytes.fill(0);
            if size > 0 {
                let from = shared.ranges.pointer(from, BYTES as u32, lane)?;
                // SAFETY: `pointer` has found sixteen bytes inside of an allocation, `size` is no more, and shared memory is
                // none.
                unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), size) };
            }
        }
        self.copies.open = kept;
        Ok(())
    }
}
