//! Loads, stores and atomics: every access is aligned and inside of something.

use super::block::Shared;
use super::registers::lanes;
use super::warp::Warp;
use super::{LANES, Memory, Problem};
use crate::code::{Atomic, Instruction, Space, Type, Width};

/// Generic addresses of shared and local memory begin here; no allocation reaches so far.
pub(super) const SHARED_WINDOW: u64 = 1 << 60;
pub(super) const LOCAL_WINDOW: u64 = 1 << 59;

/// An allocation of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its first address.
    pub begin: u64,
    /// Its size.
    pub bytes: u64,
    /// One bit for each byte that must not be touched, or null. Lives as long as the allocation.
    pub forbidden: *const u8,
}

/// The allocations of a launch, the last one that was found first.
pub(crate) struct Ranges<'a> {
    memory: &'a dyn Memory,
    known: Vec<Range>,
}

impl<'a> Ranges<'a> {
    pub(crate) fn new(memory: &'a dyn Memory) -> Self {
        Self { memory, known: Vec::new() }
    }

    /// A pointer to bytes that may be touched.
    pub(crate) fn pointer(&mut self, address: u64, bytes: u32, lane: usize) -> Result<*mut u8, Problem> {
        if !address.is_multiple_of(bytes.into()) {
            let message = format!("address {address:#x} is not a multiple of the access's {bytes} bytes");
            return Problem::access(lane, message);
        }
        let inside = |range: &Range| address.wrapping_sub(range.begin) < range.bytes;
        let range = match self.known.iter().position(inside) {
            Some(at) => {
                self.known.swap(0, at);
                self.known[0]
            }
            None => {
                let Some(range) = self.memory.range(address) else {
                    return Problem::access(lane, format!("{bytes} bytes at {address:#x} are in no allocation"));
                };
                self.known.insert(0, range);
                range
            }
        };
        let offset = address - range.begin;
        if offset + u64::from(bytes) > range.bytes {
            let message = format!("{bytes} bytes at byte {offset} of an allocation of {} bytes", range.bytes);
            return Problem::access(lane, message);
        }
        let is_forbidden = |at: u64| {
            // SAFETY: there is a bit for each byte of the allocation, and `at` is one.
            let byte = unsafe { *range.forbidden.add(at as usize / 8) };
            byte >> (at % 8) & 1 != 0
        };
        if !range.forbidden.is_null() && (offset..offset + u64::from(bytes)).any(is_forbidden) {
            let message = format!("{bytes} bytes at byte {offset} of an allocation of {} are forbidden", range.bytes);
            return Problem::access(lane, message);
        }
        Ok(address as *mut u8)
    }
}

impl Shared<'_> {
    /// Where an access to shared memory begins.
    pub(super) fn inside(&self, address: u64, bytes: u32, lane: usize) -> Result<usize, Problem> {
        if !address.is_multiple_of(bytes.into()) {
            let message = format!("address {address} in shared memory is not a multiple of the access's {bytes} bytes");
            return Problem::access(lane, message);
        }
        let size = self.memory.len() as u64;
        if address >= size || address + u64::from(bytes) > size {
            let message = format!("{bytes} bytes at {address} in shared memory of {size} bytes");
            return Problem::access(lane, message);
        }
        Ok(address as usize)
    }
}

/// 1, 2, 4, 8 or 16 bytes as a number.
#[inline(always)]
fn bits(bytes: &[u8]) -> u128 {
    match *bytes {
        [byte] => byte.into(),
        [a, b] => u16::from_le_bytes([a, b]).into(),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]).into(),
        _ => bytes.iter().rev().fold(0, |bits, &byte| bits << 8 | u128::from(byte)),
    }
}

impl Warp {
    /// The addresses of an access; shared memory has those of 32 bits too (`c` says so).
    fn addresses(&self, space: Space, i: &Instruction) -> [u64; LANES] {
        let base = match space {
            Space::Shared if i.c == 1 => self.registers.narrow(i.a).map(u64::from),
            _ => *self.registers.wide(i.a),
        };
        base.map(|address| address.wrapping_add_signed(i.offset))
    }

    #[inline(always)]
    fn read(&mut self, shared: &mut Shared, space: Space, at: u64, bytes: u32, lane: usize) -> Result<u128, Problem> {
        let count = bytes as usize;
        Ok(match space {
            Space::Global | Space::Constant => {
                if let Some(bits) = self.of_module(shared, at, bytes) {
                    return Ok(bits);
                }
                if space == Space::Constant {
                    return Problem::access(lane, format!("{bytes} bytes at {at:#x} are not constant"));
                }
                let from = shared.ranges.pointer(at, bytes, lane)?;
                // SAFETY: `pointer` has found these bytes inside of an allocation, which the driver keeps until its streams
                // have done their work; while this launch is that work, nobody else writes what it reads.
                bits(unsafe { std::slice::from_raw_parts(from, count) })
            }
            Space::Shared => {
                let from = shared.inside(at, bytes, lane)?;
                bits(&shared.memory[from..from + count])
            }
            Space::Local => {
                let from = self.own(shared, at, bytes, lane)?;
                bits(&self.local[from..from + count])
            }
            Space::Param => bits(&shared.launch.parameters[at as usize..at as usize + count]),
            Space::ParamAt => {
                let all = shared.launch.parameters;
                let inside = at.checked_add(count as u64).is_some_and(|end| end <= all.len() as u64);
                if !inside || !at.is_multiple_of(count as u64) {
                    return Problem::access(
                        lane,
                        format!("{bytes} bytes at {at} of {} bytes of parameters", all.len()),
                    );
                }
                bits(&all[at as usize..at as usize + count])
            }
        })
    }

    /// Arrays of the module.
    fn of_module(&self, shared: &Shared, at: u64, bytes: u32) -> Option<u128> {
        let low = shared.kernel.data.read(at, bytes.min(8))?;
        let high = if bytes > 8 { shared.kernel.data.read(at + 8, bytes - 8)? } else { 0 };
        Some(u128::from(high) << 64 | u128::from(low))
    }

    /// Where an access to a lane's own memory begins.
    fn own(&self, shared: &Shared, at: u64, bytes: u32, lane: usize) -> Result<usize, Problem> {
        let size = u64::from(shared.kernel.local);
        if !at.is_multiple_of(bytes.into()) || at >= size || at + u64::from(bytes) > size {
            return Problem::access(lane, format!("{bytes} bytes at {at} of a thread's own {size} bytes"));
        }
        Ok(lane * size as usize + at as usize)
    }

    pub(super) fn load(
        &mut self,
        shared: &mut Shared,
        (space, ty, wide, count): (Space, Type, Width, u8),
        i: &Instruction,
        mask: u32,
    ) -> Result<(), Problem> {
        let bytes = ty.bytes();
        let lists = &shared.kernel.lists;
        if space == Space::Param {
            for k in 0..u32::from(count) {
                let value = self.read(shared, space, i.offset as u64 + u64::from(k * bytes), bytes, 0)?;
                let value = number(value, ty, wide);
                self.put_number(lists[(i.d + k) as usize], wide, mask, &[value; LANES]);
            }
            return Ok(());
        }
        let addresses = self.addresses(space, i);
        let mut values = [[0; LANES]; 4];
        for lane in lanes(mask) {
            let value = self.read(shared, space, addresses[lane], bytes * u32::from(count), lane)?;
            for (k, row) in values.iter_mut().enumerate().take(count.into()) {
                row[lane] = number(value >> (8 * k as u32 * bytes), ty, wide);
            }
        }
        for (k, row) in values.iter().enumerate().take(count.into()) {
            self.put_number(lists[i.d as usize + k], wide, mask, row);
        }
        Ok(())
    }

    fn put_number(&mut self, slot: u32, wide: Width, mask: u32, row: &[u64; LANES]) {
        match wide {
            Width::W64 => self.registers.put_wide(slot, mask, row),
            _ => self.registers.put(slot, mask, &row.map(|bits| bits as u32)),
        }
    }

    pub(super) fn store(
        &mut self,
        shared: &mut Shared,
        (space, ty, wide, count): (Space, Type, Width, u8),
        i: &Instruction,
        mask: u32,
    ) -> Result<(), Problem> {
        let (bytes, addresses) = (ty.bytes() as usize, self.addresses(space, i));
        let total = bytes * usize::from(count);
        for lane in lanes(mask) {
            let mut value = [0u8; 16];
            for k in 0..usize::from(count) {
                let slot = shared.kernel.lists[i.b as usize + k];
                let bits = match wide {
                    Width::W64 => self.registers.wide(slot)[lane],
                    _ => self.registers.narrow(slot)[lane].into(),
                };
                value[k * bytes..(k + 1) * bytes].copy_from_slice(&bits.to_le_bytes()[..bytes]);
            }
            let at = addresses[lane];
            match space {
                Space::Global => {
                    let to = shared.ranges.pointer(at, total as u32, lane)?;
                    // SAFETY: as for reads; nothing of Rust's refers to device memory.
                    unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), to, total) };
                }
                Space::Shared => {
                    let to = shared.inside(at, total as u32, lane)?;
                    shared.memory[to..to + total].copy_from_slice(&value[..total]);
                }
                Space::Local => {
                    let to = self.own(shared, at, total as u32, lane)?;
                    self.local[to..to + total].copy_from_slice(&value[..total]);
                }
                Space::Constant | Space::Param | Space::ParamAt => return Problem::access(lane, "writes to constants"),
            }
        }
        Ok(())
    }

    /// Lane after lane.
    pub(super) fn atomic(
        &mut self,
        shared: &mut Shared,
        (atomic, ty): (Atomic, Type),
        i: &Instruction,
        mask: u32,
    ) -> Result<(), Problem> {
        let (bytes, addresses) = (ty.bytes(), self.addresses(Space::Global, i));
        let wide = ty.width() == Width::W64;
        let mut before = [0; LANES];
        for lane in lanes(mask) {
            let to = shared.ranges.pointer(addresses[lane], bytes, lane)?;
            let operand = if wide { self.registers.wide(i.b)[lane] } else { self.registers.narrow(i.b)[lane].into() };
            let mut old = [0; 8];
            // SAFETY: as for reads and writes; blocks of a launch run one after another.
            unsafe { std::ptr::copy_nonoverlapping(to, old.as_mut_ptr(), bytes as usize) };
            before[lane] = u64::from_le_bytes(old);
            let new = combined(atomic, ty, before[lane], operand).to_le_bytes();
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(new.as_ptr(), to, bytes as usize) };
        }
        self.put_number(i.d, ty.width(), mask, &before);
        Ok(())
    }
}

fn combined(atomic: Atomic, ty: Type, old: u64, operand: u64) -> u64 {
    let signed = |x: u64| if ty.bytes() == 4 { i64::from(x as i32) } else { x as i64 };
    match atomic {
        Atomic::Add if ty == Type::F32 => {
            u64::from((f32::from_bits(old as u32) + f32::from_bits(operand as u32)).to_bits())
        }
        Atomic::Add => old.wrapping_add(operand),
        Atomic::Max if ty.is_signed() => signed(old).max(signed(operand)) as u64,
        Atomic::Min if ty.is_signed() => signed(old).min(signed(operand)) as u64,
        Atomic::Max => old.max(operand),
        Atomic::Min => old.min(operand),
        Atomic::And => old & operand,
        Atomic::Or => old | operand,
        Atomic::Exchange => operand,
    }
}

/// What a register gets of the low bits of a number: the rest is zero, or the sign if the type has one.
#[inline(always)]
fn number(value: u128, ty: Type, wide: Width) -> u64 {
    let unused = 64 - 8 * ty.bytes();
    let bits = (value as u64) << unused >> unused;
    if !ty.is_signed() {
        return bits;
    }
    let extended = (bits << unused) as i64 >> unused;
    if wide == Width::W64 || ty.bytes() >= 4 { extended as u64 } else { u64::from(extended as u16) }
}
