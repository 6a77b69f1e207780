//! One block: its shared memory and its warps, which take turns from barrier to barrier.

use super::memory::Ranges;
use super::warp::{Stop, Warp};
use super::{Fault, LANES, Launch, POISON, ordered};
use crate::code::{Kernel, Special};

/// What the warps of a block share.
pub(crate) struct Shared<'a> {
    pub kernel: &'a Kernel,
    pub launch: &'a Launch<'a>,
    pub ranges: Ranges<'a>,
    pub memory: Vec<u8>,
    /// The block's coordinates.
    pub block: [u32; 3],
    /// Whether the processor has AVX2 and fused products.
    pub has_avx2: bool,
}

pub(crate) struct Block<'a> {
    shared: Shared<'a>,
    warps: Vec<Warp>,
}

impl<'a> Block<'a> {
    pub(crate) fn new(kernel: &'a Kernel, launch: &'a Launch<'a>) -> Self {
        let ranges = Ranges::new(launch.memory);
        let shared = Shared { kernel, launch, ranges, memory: Vec::new(), block: [0; 3], has_avx2: has_avx2() };
        let warps = launch.threads.div_ceil(LANES as u32);
        Self { shared, warps: (0..warps).map(Warp::new).collect() }
    }

    /// Runs the block of this number.
    pub(crate) fn run(&mut self, number: u64) -> Result<(), Fault> {
        let Self { shared, warps } = self;
        let (kernel, launch) = (shared.kernel, shared.launch);
        let [x, y, _] = launch.grid.map(u64::from);
        let block = [number % x, number / x % y, number / x / y].map(|i| i as u32);
        shared.block = block;
        shared.memory.clear();
        shared.memory.resize((kernel.dynamic_offset + launch.dynamic) as usize, POISON);
        for warp in warps.iter_mut() {
            let first = warp.index * LANES as u32;
            warp.reset(kernel, launch.threads - first, |special, lane| match special {
                Special::Thread(0) => first + lane as u32,
                Special::Thread(_) => 0,
                Special::Threads(0) => launch.threads,
                Special::Threads(_) => 1,
                Special::Block(axis) => block[usize::from(axis)],
                Special::Grid(axis) => launch.grid[usize::from(axis)],
                Special::Lane => lane as u32,
                Special::Warp => first / LANES as u32,
            });
        }
        self.phases()
    }

    /// From barrier to barrier until all threads have returned.
    fn phases(&mut self) -> Result<(), Fault> {
        let count = self.warps.len() as u64;
        loop {
            let (mut done, mut waiting) = (None, None);
            for at in 0..count {
                let warp = &mut self.warps[ordered(at, count, self.shared.launch.manner.order) as usize];
                match warp.run(&mut self.shared)? {
                    Stop::Done => done = Some(warp.index),
                    Stop::Barrier(line) => waiting = Some((warp.index, line)),
                }
            }
            match (done, waiting) {
                (_, None) => return Ok(()),
                (None, _) => {}
                (Some(done), Some((waits, line))) => {
                    let what = format!("waits at a barrier, which warp {done} never reaches");
                    return Err(place(&self.shared, waits * LANES as u32, line, &what, false));
                }
            }
        }
    }
}

fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A fault with kernel, block, thread and line.
pub(crate) fn place(shared: &Shared, thread: u32, line: u32, what: &str, is_access: bool) -> Fault {
    let (kernel, [x, y, z]) = (shared.kernel, shared.block);
    let text = kernel.line(line);
    let message =
        format!("kernel {}, block ({x}, {y}, {z}), thread {thread}: {what} (PTX line {line}: {text})", kernel.name);
    Fault { message, is_access }
}
