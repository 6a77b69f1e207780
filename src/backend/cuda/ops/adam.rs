//! The optimizer step: statistics of the gradients, the tensors' scalars, and one pass over gradient, weight and state, each
//! for several tensors by one launch. Everything is decided on the device, so that no step waits for the host before it asks
//! for the outcomes.

use super::adam_operands::{Planes, Shape, Storage, THREADS, check, is_common, planes, scalars};
use super::adam_statistics::{Gradients, LEAF, MOST, Statistics, kept, statistics_bytes, verdicts};
use super::adam_statistics::{launch_clipped, launch_leaves, launch_verdicts};
use super::factored::{self, Means};
use super::weights::{codec_kernels, kernel};
use crate::backend::adam::{AdamArgs, state};
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::{AdamUpdate, MaxShapes, Param};
use crate::memory::Span;
use crate::quant::Element;
use zerocopy::{FromZeros, Immutable, IntoBytes};

// The sizes that the kernels' headers assert of the same structs: `AdamArgs`, `Member`, `Members`.
const _: () = {
    assert!(size_of::<AdamArgs>() == 120);
    assert!(size_of::<Member>() == 128);
    assert!(size_of::<Members>() == 2056);
};

/// A tensor of a launch (`Member` in `kernels/members.h`).
#[derive(Clone, Copy, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct Member {
    planes: Planes,
    shape: Shape,
    tensor: u32,
    leaf: u32,
    block: u32,
    verdict: u32,
}

/// The tensors of a launch (`Members` in `kernels/members.h`).
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct Members {
    of: [Member; MOST],
    count: u32,
    reserved: u32,
}

/// What the tensors of a launch have in common.
struct Kind {
    kernel: &'static str,
    shared: usize,
    storage: Storage,
    constants: AdamArgs,
    /// How many a launch has at most (`ALONE` in `kernels/members.h`).
    most: u32,
}

impl Kind {
    fn of(update: &AdamUpdate, shape: &Shape) -> Self {
        let AdamUpdate { param, args, .. } = update;
        let mut storage = Storage::of(param, args);
        // Each member has its own number.
        storage.tensor = 0;
        let nibbles = storage.is_nibbles(param) && shape.is_dense() && is_common(args);
        let kernel = match nibbles {
            true => "optimizer_update_nibbles",
            false => kernel(codec_kernels!("optimizer_update"), &param.weight),
        };
        let most = if param.weight.format.codec().element() == Element::I8 { 1 } else { MOST as u32 };
        Self { kernel, shared: storage.shared(Some(&param.weight)), storage, constants: *args, most }
    }

    fn is(&self, other: &Self) -> bool {
        let (storage, constants) = (self.storage.as_bytes(), self.constants.as_bytes());
        self.kernel == other.kernel && storage == other.storage.as_bytes() && constants == other.constants.as_bytes()
    }
}

/// Scratch for all of this file, in bytes.
pub(crate) fn workspace_bytes(max: &MaxShapes) -> usize {
    let rows = max.features.max(max.inputs);
    statistics_bytes(max.parameter.div_ceil(LEAF)) + touched_bytes(rows) + factored::workspace_bytes(max)
}

/// Bytes that say which rows are updated.
fn touched_bytes(rows: usize) -> usize {
    (4 * rows).next_multiple_of(16)
}

/// One step of each tensor; see [`crate::backend::ops::Update::adam_group`].
///
/// # Panics
/// If a plane's length does not fit the shape.
pub(crate) fn steps(gpu: &mut Gpu, mut updates: &[AdamUpdate]) {
    updates.iter().for_each(|update| check(&update.param, update.grad));
    while !updates.is_empty() {
        let (now, later) = updates.split_at(together(gpu, updates));
        steps_together(gpu, now);
        updates = later;
    }
}

/// How many of the first updates one set of launches makes.
fn together(gpu: &Gpu, updates: &[AdamUpdate]) -> usize {
    let first = &updates[0];
    if needs_scratch(first) {
        return 1;
    }
    let mut leaves = 0;
    let fits = |update: &&AdamUpdate| {
        leaves += (update.grad.bytes / 4).div_ceil(LEAF);
        let room = statistics_bytes(leaves) <= gpu.workspace().bytes;
        room && !needs_scratch(update) && judges_as(&first.args, &update.args)
    };
    updates.iter().take(MOST).take_while(fits).count().max(1)
}

/// Whether an update has kernels of its own between the verdict and the pass over the elements.
fn needs_scratch(update: &AdamUpdate) -> bool {
    let AdamUpdate { param, args, .. } = update;
    param.state.get(state::V_ROWS).is_some() || (param.sparse && !args.resets())
}

/// Whether two tensors get the same verdict of the same gradient: rates and decay may differ.
fn judges_as(a: &AdamArgs, b: &AdamArgs) -> bool {
    let judges = |c: &AdamArgs| (c.use_stable_spam, c.freeze_on_zero_grad, c.eps.to_bits());
    let averages =
        |c: &AdamArgs| [c.gammas, c.one_minus_gammas, c.gamma_corrections].map(|three| three.map(f32::to_bits));
    judges(a) == judges(b) && averages(a) == averages(b)
}

/// One step of each of up to [`MOST`] tensors, of one that needs scratch alone.
fn steps_together(gpu: &mut Gpu, updates: &[AdamUpdate]) {
    let (mut gradients, mut leaves) = (Gradients::new(), [0; MOST]);
    for (leaf, update) in leaves.iter_mut().zip(updates) {
        *leaf = gradients.push(gpu, update.grad, scalars(&update.param));
    }
    let at = Statistics::new(gpu.workspace(), &gradients);
    let constants = &updates[0].args;
    launch_leaves(gpu, &gradients, &at);
    if constants.use_stable_spam != 0 {
        launch_clipped(gpu, &gradients, &at, constants);
    }
    let verdicts = verdicts(gpu);
    launch_verdicts(gpu, &gradients, &at, constants, verdicts);
    let (mut means, mut touched) = (None, Span::NONE);
    if let [AdamUpdate { param, grad, args }] = updates {
        let used = statistics_bytes((grad.bytes / 4).div_ceil(LEAF));
        let scratch;
        (touched, scratch) = touched_rows(gpu, param, *grad, args, after(gpu.workspace(), used));
        means = Means::of(scratch, param);
        if let Some(means) = means {
            means.advance(gpu, param, *grad, args, verdicts, touched);
        }
    }
    let mut members = [Member::new_zeroed(); MOST];
    for (i, (member, AdamUpdate { param, grad, .. })) in members.iter_mut().zip(updates).enumerate() {
        let mut shape = Shape::of(param.weight.shape);
        if !touched.is_none() {
            // Blocks that are left out are gaps.
            shape.leave_gaps();
        }
        let planes = planes(gpu, param, *grad, means, touched);
        *member = Member { planes, shape, tensor: param.id, leaf: leaves[i], block: 0, verdict: i as u32 };
    }
    move_all(gpu, updates, &members, at.maxima);
}

/// The pass over the elements, by a launch for each kind of tensors.
fn move_all(gpu: &mut Gpu, updates: &[AdamUpdate], all: &[Member; MOST], maxima: Span) {
    let mut moved = [false; MOST];
    for first in 0..updates.len() {
        if moved[first] {
            continue;
        }
        let kind = Kind::of(&updates[first], &all[first].shape);
        let (mut members, mut blocks) = (Members::new_zeroed(), 0u32);
        for i in first..updates.len() {
            if members.count == kind.most {
                break;
            }
            if moved[i] || !kind.is(&Kind::of(&updates[i], &all[i].shape)) {
                continue;
            }
            moved[i] = true;
            members.of[members.count as usize] = Member { block: blocks, ..all[i] };
            members.count += 1;
            // Far from 32 bits: a block is of THREADS times 32 elements, which all have their place in memory.
            blocks += all[i].shape.blocks().div_ceil(THREADS);
        }
        launch_update(gpu, &kind, &members, blocks, maxima);
    }
}

fn launch_update(gpu: &mut Gpu, kind: &Kind, members: &Members, blocks: u32, maxima: Span) {
    let args = Args::long().bytes(members).bytes(&kind.storage).bytes(&kind.constants);
    let args = args.span(gpu, maxima).span(gpu, verdicts(gpu)).span(gpu, kept(gpu));
    // SAFETY: the parameters of all these kernels; they stay within planes of the shapes, storage and state that `check`
    // found to be as long as these say, within the leaves and verdicts of the members, which the same updates were given,
    // and within the tiles of shared memory that are asked for.
    unsafe { gpu.launch(kind.kernel, [blocks, 1, 1], THREADS, kind.shared, &args) };
}

/// Which rows a sparse parameter's step updates, one u32 each, nothing where it updates all; and the scratch after it.
fn touched_rows(gpu: &mut Gpu, param: &Param, grad: Span, args: &AdamArgs, scratch: Span) -> (Span, Span) {
    if !param.sparse || args.resets() {
        return (Span::NONE, scratch);
    }
    let g = param.weight.shape;
    let touched = scratch.head(4 * g.rows);
    let args = Args::new().span(gpu, grad).u32(g.rows as u32).u32(g.cols as u32).span(gpu, touched);
    // SAFETY: the parameters of the kernel, which reads rows x cols of the gradient, checked by the caller, and writes one
    // flag per row, for which `touched` has room.
    unsafe { gpu.launch("optimizer_touched_rows", [g.rows.div_ceil(8) as u32, 1, 1], 256, 0, &args) };
    (touched, after(scratch, touched_bytes(g.rows)))
}

/// What follows the first `bytes` bytes.
fn after(span: Span, bytes: usize) -> Span {
    span.part(bytes, span.bytes - bytes)
}
