//! What is known of gradients before an element moves: their leaves, and what follows for each tensor; and what updates did,
//! which stays on the device until the host asks.

use crate::backend::UpdateStats;
use crate::backend::adam::AdamArgs;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::memory::Span;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Tensors of one launch at most (`MOST_MEMBERS` in `kernels/adam.h`).
pub(super) const MOST: usize = 16;
/// Elements of one leaf of the reductions, as on the CPU.
pub(super) const LEAF: usize = 16384;
/// Bytes that a leaf takes in the scratch: two sums and the largest magnitude.
const LEAF_BYTES: usize = 2 * size_of::<f64>() + size_of::<u32>();
/// Bytes of a verdict (`GradStats` in `kernels/adam.h` asserts them).
const VERDICT: usize = 16;
/// Where verdicts lie among the words that the backend keeps, and then the largest magnitudes of the tensors of a launch.
const VERDICTS: usize = 256;
const LARGEST: usize = VERDICTS + MOST * VERDICT;
/// Threads of a block that reads a gradient.
const THREADS: u32 = 256;

// The sizes that the kernels assert of the same structs: `UpdateStats`, `Gradient`, `Gradients`.
const _: () = {
    assert!(size_of::<DeviceStats>() == 32);
    assert!(size_of::<Gradient>() == 32);
    assert!(size_of::<Gradients>() == 520);
};

/// What the device keeps between updates (`UpdateStats` in `kernels/adam.h`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct DeviceStats {
    grad_sq: f64,
    rescales: u64,
    skipped: u64,
    held: u32,
    reserved: u32,
}

/// `Gradient` in `kernels/adam_statistics.cu`.
#[derive(Clone, Copy, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct Gradient {
    grad: u64,
    scalars: u64,
    count: u64,
    leaf: u32,
    leaves: u32,
}

/// The gradients of one launch (`Gradients` in `kernels/adam_statistics.cu`).
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Gradients {
    of: [Gradient; MOST],
    count: u32,
    leaves: u32,
}

impl Gradients {
    /// No gradients yet.
    pub(super) fn new() -> Self {
        Self::new_zeroed()
    }

    /// One more, with the three scalars of its tensor; gives the first of its leaves among those of all.
    ///
    /// # Panics
    /// Beyond [`MOST`], and if there are 2^32 leaves or more.
    pub(super) fn push(&mut self, gpu: &Gpu, grad: Span, scalars: Span) -> u32 {
        let (grad, scalars, count) = (gpu.address(grad), gpu.address(scalars), grad.bytes as u64 / 4);
        let leaves = u32::try_from(count.div_ceil(LEAF as u64)).expect("fewer than 2^32 leaves");
        let leaf = self.leaves;
        self.of[self.count as usize] = Gradient { grad, scalars, count, leaf, leaves };
        self.count += 1;
        self.leaves = leaf.checked_add(leaves).expect("fewer than 2^32 leaves");
        leaf
    }
}

/// Bytes of sums and maxima; what follows them starts at a multiple of 16.
pub(super) fn statistics_bytes(leaves: usize) -> usize {
    (leaves * LEAF_BYTES).next_multiple_of(16)
}

/// Where the statistics of leaves lie in the scratch.
pub(super) struct Statistics {
    clipped: Span,
    raw: Span,
    pub(super) maxima: Span,
}

impl Statistics {
    pub(super) fn new(scratch: Span, gradients: &Gradients) -> Self {
        let leaves = gradients.leaves as usize;
        let sums = leaves * size_of::<f64>();
        Self {
            clipped: scratch.head(sums),
            raw: scratch.part(sums, sums),
            maxima: scratch.part(2 * sums, leaves * size_of::<u32>()),
        }
    }
}

/// Where the outcomes are kept.
pub(super) fn kept(gpu: &Gpu) -> Span {
    gpu.words().head(size_of::<DeviceStats>())
}

/// Where the verdicts of a launch are put.
pub(super) fn verdicts(gpu: &Gpu) -> Span {
    gpu.words().part(VERDICTS, MOST * VERDICT)
}

fn largest(gpu: &Gpu) -> Span {
    gpu.words().part(LARGEST, MOST * size_of::<u32>())
}

/// Largest magnitudes and sums of squares of the gradients' leaves.
pub(super) fn launch_leaves(gpu: &mut Gpu, gradients: &Gradients, at: &Statistics) {
    let args = Args::long().bytes(gradients).span(gpu, at.maxima).span(gpu, at.raw).span(gpu, largest(gpu));
    // SAFETY: the parameters of the kernel, which reads as many elements of each gradient as its span has and writes one
    // entry per leaf, for which `Statistics` has room, and one magnitude per gradient.
    unsafe { gpu.launch("optimizer_leaves", [gradients.leaves, 1, 1], THREADS, 0, &args) };
}

/// The sums of squares after AdaClip, of the leaves where it changes anything.
pub(super) fn launch_clipped(gpu: &mut Gpu, gradients: &Gradients, at: &Statistics, constants: &AdamArgs) {
    let args = Args::long().bytes(gradients).span(gpu, at.maxima).span(gpu, at.clipped).span(gpu, largest(gpu));
    let grid = gradients.leaves.min(4 * gpu.multiprocessors());
    // SAFETY: as above; the scalars have the length that the caller checked.
    unsafe { gpu.launch("optimizer_clipped", [grid, 1, 1], THREADS, 0, &args.bytes(constants)) };
}

/// Folds the leaves and says in `verdicts` what the elements of each tensor shall do.
pub(super) fn launch_verdicts(
    gpu: &mut Gpu,
    gradients: &Gradients,
    at: &Statistics,
    constants: &AdamArgs,
    verdicts: Span,
) {
    let args = Args::long().bytes(gradients).span(gpu, at.maxima).span(gpu, at.clipped).span(gpu, at.raw);
    let args = args.span(gpu, largest(gpu)).bytes(constants).span(gpu, verdicts).span(gpu, kept(gpu));
    // SAFETY: the parameters of the kernel, which stays within the leaves of the statistics, and three scalars, a magnitude
    // and a verdict for each gradient; the caller's spans have as many bytes.
    unsafe { gpu.launch("optimizer_verdict", [1, 1, 1], 32 * gradients.count, 0, &args) };
}

/// See [`crate::backend::ops::Update::hold_updates_unless_finite`].
pub(super) fn hold_unless_finite(gpu: &mut Gpu, numbers: Span) {
    let count = super::dim(numbers.bytes / 4);
    let args = Args::new().span(gpu, numbers).u32(count).span(gpu, kept(gpu));
    let grid = count.div_ceil(THREADS).clamp(1, gpu.multiprocessors());
    // SAFETY: the parameters of the kernel, which reads `count` numbers of the span and writes a word of the outcomes.
    unsafe { gpu.launch("optimizer_hold", [grid, 1, 1], THREADS, 0, &args) };
}

/// What the updates since the last call did; see [`crate::backend::ops::Update::update_stats`].
pub(crate) fn update_stats(gpu: &mut Gpu) -> UpdateStats {
    let mut bytes = [0; size_of::<DeviceStats>()];
    let kept = kept(gpu);
    gpu.download(kept, &mut bytes);
    gpu.zero(kept);
    in_words(bytes)
}

fn in_words(bytes: [u8; size_of::<DeviceStats>()]) -> UpdateStats {
    let DeviceStats { grad_sq, rescales, skipped, .. } = zerocopy::transmute!(bytes);
    UpdateStats { grad_sq, rescales, skipped }
}

/// What [`update_stats`] would give, kept on the device in a place of its own.
pub(crate) fn put_stats_aside(gpu: &mut Gpu, place: usize) {
    let kept = kept(gpu);
    gpu.put_aside(kept, place);
    gpu.zero(kept);
}

/// What lies in the first `count` places, after what `stats` holds.
pub(crate) fn read_stats_aside(gpu: &Gpu, count: usize, stats: &mut Vec<UpdateStats>) {
    let mut bytes = vec![0; count * size_of::<DeviceStats>()];
    gpu.read_aside(&mut bytes);
    stats.extend(bytes.as_chunks().0.iter().map(|&bytes| in_words(bytes)));
}
