//! Runs launches: blocks one after another, warps in turn, the threads of a warp side by side.

mod asynchronous;
mod block;
mod bytes;
mod collective;
mod convert;
mod float;
mod integer;
mod memory;
mod registers;
mod step;
mod warp;

use crate::code::Kernel;
use std::fmt::{self, Display};

pub use memory::Range;

/// Lanes of a warp, and all of them as a mask.
pub(crate) const LANES: usize = 32;
pub(crate) const FULL: u32 = u32::MAX;
/// What undefined memory and registers are filled with: no number as a float, far out of range as an index.
pub(crate) const POISON: u8 = 0xff;

/// Where device memory is.
pub trait Memory: Sync {
    /// The allocation with the byte at an address.
    fn range(&self, address: u64) -> Option<Range>;
}

/// How launches run where the hardware is free, and how its approximations differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// The order of blocks, and of the warps of a block: 0 ascending, 1 descending, others shuffled by this seed.
    pub order: u64,
    /// Approximations are off by as many units in the last place as this seed's numbers say, the same for the same argument
    /// (reciprocals by up to one, others by up to two); nothing: they are correctly rounded.
    pub disturbed: Option<u64>,
}

/// A launch.
#[derive(Clone, Copy)]
pub(crate) struct Launch<'a> {
    pub grid: [u32; 3],
    pub threads: u32,
    pub dynamic: u32,
    /// All parameters, each where the kernel has it.
    pub parameters: &'a [u8],
    pub memory: &'a dyn Memory,
    pub manner: Manner,
}

/// Why a launch failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub message: String,
    /// Whether it was an access to memory.
    pub is_access: bool,
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// The same before it is known where.
pub(crate) struct Problem {
    pub lane: usize,
    pub message: String,
    pub is_access: bool,
}

impl Problem {
    pub(crate) fn new<T>(lane: usize, message: impl Into<String>) -> Result<T, Self> {
        Err(Self { lane, message: message.into(), is_access: false })
    }

    pub(crate) fn access<T>(lane: usize, message: impl Into<String>) -> Result<T, Self> {
        Err(Self { lane, message: message.into(), is_access: true })
    }
}

/// Runs all blocks.
///
/// # Errors
/// The first thing that went wrong, with kernel, block, thread and line.
pub(crate) fn run(kernel: &Kernel, launch: &Launch) -> Result<(), Fault> {
    if launch.threads == 0 || launch.threads > kernel.max_threads {
        let message = format!("kernel {}: {} threads, at most {}", kernel.name, launch.threads, kernel.max_threads);
        return Err(Fault { message, is_access: false });
    }
    let blocks = launch.grid.iter().map(|&n| u64::from(n)).product::<u64>();
    let mut block = block::Block::new(kernel, launch);
    for at in 0..blocks {
        block.run(ordered(at, blocks, launch.manner.order))?;
    }
    Ok(())
}

/// The `at`-th of `count` things in an order.
pub(crate) fn ordered(at: u64, count: u64, order: u64) -> u64 {
    match order {
        0 => at,
        1 => count - 1 - at,
        // A step without common factors with the count meets each once.
        seed => {
            let common = |mut a: u64, mut b: u64| {
                while b != 0 {
                    (a, b) = (b, a % b);
                }
                a
            };
            let step = (seed % count.max(1)..).find(|&step| common(step, count) == 1).unwrap_or(1);
            (at * (step % count.max(1)) + seed) % count
        }
    }
}

/// A number from a seed and a place (the last step of SplitMix64).
pub(crate) fn mixed(seed: u64, place: u64) -> u64 {
    let z = seed.wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_meets_everything_once() {
        for count in 1..40 {
            for order in 0..12 {
                let mut met: Vec<_> = (0..count).map(|at| ordered(at, count, order)).collect();
                met.sort_unstable();
                assert_eq!(met, (0..count).collect::<Vec<_>>(), "{count} in order {order}");
            }
        }
        assert_ne!(ordered(0, 8, 3), ordered(0, 8, 0));
    }
}
