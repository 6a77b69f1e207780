//! The registers of a warp, a column for each lane.

use super::{FULL, LANES, POISON};
use crate::code::{Instruction, Kernel, Slot, Special};

pub(crate) type Row32 = [u32; LANES];
pub(crate) type Row64 = [u64; LANES];

#[derive(Default)]
pub(crate) struct Registers {
    pub narrow: Vec<Row32>,
    pub wide: Vec<Row64>,
    /// One bit for each lane.
    pub predicates: Vec<u32>,
}

impl Registers {
    /// Poison, constants and special registers; `value` gives a special one for each lane.
    pub(crate) fn reset(&mut self, kernel: &Kernel, value: impl Fn(Special, usize) -> u32) {
        let [narrow, wide, predicates] = kernel.registers;
        let poison = u64::from_ne_bytes([POISON; 8]);
        self.narrow.clear();
        self.narrow.resize(narrow, [poison as u32; LANES]);
        self.wide.clear();
        self.wide.resize(wide, [poison; LANES]);
        self.predicates.clear();
        self.predicates.resize(predicates, 0);
        for &(slot, bits) in &kernel.constants32 {
            self.narrow[slot as usize] = [bits; LANES];
        }
        for &(slot, bits) in &kernel.constants64 {
            self.wide[slot as usize] = [bits; LANES];
        }
        for &(slot, bit) in &kernel.constants_predicate {
            self.predicates[slot as usize] = if bit { FULL } else { 0 };
        }
        for &(slot, special) in &kernel.specials {
            self.narrow[slot as usize] = std::array::from_fn(|lane| value(special, lane));
        }
    }

    #[inline(always)]
    pub(crate) fn narrow(&self, slot: Slot) -> &Row32 {
        &self.narrow[slot as usize]
    }

    #[inline(always)]
    pub(crate) fn wide(&self, slot: Slot) -> &Row64 {
        &self.wide[slot as usize]
    }

    #[inline(always)]
    pub(crate) fn floats(&self, slot: Slot) -> [f32; LANES] {
        self.narrow(slot).map(f32::from_bits)
    }

    /// Writes the lanes of a mask.
    #[inline(always)]
    pub(crate) fn put(&mut self, slot: Slot, mask: u32, values: &Row32) {
        store(&mut self.narrow[slot as usize], mask, values);
    }

    #[inline(always)]
    pub(crate) fn put_wide(&mut self, slot: Slot, mask: u32, values: &Row64) {
        store(&mut self.wide[slot as usize], mask, values);
    }

    #[inline(always)]
    pub(crate) fn put_predicate(&mut self, slot: Slot, mask: u32, bits: u32) {
        let to = &mut self.predicates[slot as usize];
        *to = *to & !mask | bits & mask;
    }

    #[inline(always)]
    pub(crate) fn map1(&mut self, i: &Instruction, mask: u32, f: impl Fn(u32) -> u32) {
        let a = self.narrow(i.a);
        let mut values = [0; LANES];
        for lane in 0..LANES {
            values[lane] = f(a[lane]);
        }
        self.put(i.d, mask, &values);
    }

    #[inline(always)]
    pub(crate) fn map2(&mut self, i: &Instruction, mask: u32, f: impl Fn(u32, u32) -> u32) {
        let (a, b) = (self.narrow(i.a), self.narrow(i.b));
        let mut values = [0; LANES];
        for lane in 0..LANES {
            values[lane] = f(a[lane], b[lane]);
        }
        self.put(i.d, mask, &values);
    }

    #[inline(always)]
    pub(crate) fn map3(&mut self, i: &Instruction, mask: u32, f: impl Fn(u32, u32, u32) -> u32) {
        let (a, b, c) = (self.narrow(i.a), self.narrow(i.b), self.narrow(i.c));
        let mut values = [0; LANES];
        for lane in 0..LANES {
            values[lane] = f(a[lane], b[lane], c[lane]);
        }
        self.put(i.d, mask, &values);
    }

    #[inline(always)]
    pub(crate) fn map1_wide(&mut self, i: &Instruction, mask: u32, f: impl Fn(u64) -> u64) {
        let a = self.wide(i.a);
        let mut values = [0; LANES];
        for lane in 0..LANES {
            values[lane] = f(a[lane]);
        }
        self.put_wide(i.d, mask, &values);
    }

    #[inline(always)]
    pub(crate) fn map2_wide(&mut self, i: &Instruction, mask: u32, f: impl Fn(u64, u64) -> u64) {
        let (a, b) = (self.wide(i.a), self.wide(i.b));
        let mut values = [0; LANES];
        for lane in 0..LANES {
            values[lane] = f(a[lane], b[lane]);
        }
        self.put_wide(i.d, mask, &values);
    }

    #[inline(always)]
    pub(crate) fn map3_wide(&mut self, i: &Instruction, mask: u32, f: impl Fn(u64, u64, u64) -> u64) {
        let (a, b, c) = (self.wide(i.a), self.wide(i.b), self.wide(i.c));
        let mut values = [0; LANES];
        for lane in 0..LANES {
            values[lane] = f(a[lane], b[lane], c[lane]);
        }
        self.put_wide(i.d, mask, &values);
    }
}

#[inline(always)]
fn store<T: Copy>(to: &mut [T; LANES], mask: u32, values: &[T; LANES]) {
    if mask == FULL {
        *to = *values;
    } else {
        for lane in 0..LANES {
            if mask >> lane & 1 != 0 {
                to[lane] = values[lane];
            }
        }
    }
}

/// One bit for each lane of which `f` is true.
#[inline(always)]
pub(crate) fn bits(f: impl Fn(usize) -> bool) -> u32 {
    let mut bits = 0;
    for lane in 0..LANES {
        bits |= u32::from(f(lane)) << lane;
    }
    bits
}

/// The lanes of a mask.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |lane| mask >> lane & 1 != 0)
}
