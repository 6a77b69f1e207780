//! What optimizer rules are made of. What a gradient allows is decided and kept on the device.

use super::adam;
use super::adam_operands::{Planes, Shape, Storage, THREADS, check_weight};
use super::adam_statistics::{self, Gradients, Statistics, kept, launch_leaves, launch_verdicts};
use super::normalize::normalize;
use super::state;
use super::weights::{codec_kernels, kernel};
use crate::backend::adam::AdamArgs;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::ops::Update;
use crate::backend::{AdamUpdate, Axis, DirectionArgs, MomentumArgs, Param, StateTensor, UpdateArgs, UpdateStats};
use crate::memory::Span;
use crate::quant::{GroupedShape, RngKey};
use zerocopy::FromZeros;

// The sizes that the kernels' headers assert too.
const _: () = {
    assert!(size_of::<UpdateArgs>() == 24);
    assert!(size_of::<MomentumArgs>() == 40);
    assert!(size_of::<DirectionArgs>() == 40);
};

/// Where the verdict lies among the words that the backend keeps: behind the statistics of updates.
const GATE: usize = 64;
/// Bytes of it (`GradStats` in `kernels/adam.h`), and of the three scalars that plain statistics leave alone.
const GATE_BYTES: usize = 16;
const SCALARS: usize = 128;
const SCALAR_BYTES: usize = 16;

/// Where what the gradient allows is kept.
pub(super) fn gate(gpu: &Gpu) -> Span {
    gpu.words().part(GATE, GATE_BYTES)
}

impl Update for Cuda {
    fn adam(&mut self, param: &Param, grad: Span, args: &AdamArgs) {
        adam::steps(&mut self.gpu, &[AdamUpdate { param: *param, grad, args: *args }]);
    }

    fn adam_group(&mut self, updates: &[AdamUpdate]) {
        adam::steps(&mut self.gpu, updates);
    }

    fn hold_updates_unless_finite(&mut self, numbers: Span) {
        adam_statistics::hold_unless_finite(&mut self.gpu, numbers);
    }

    fn begin_update(&mut self, grad: Span, freeze_on_zero: bool) {
        begin(&mut self.gpu, grad, freeze_on_zero);
    }

    fn momentum(&mut self, param: &Param, state: &StateTensor, x: Span, args: &MomentumArgs) {
        let verdict = gate(&self.gpu);
        state::momentum(&mut self.gpu, param, state, x, args, verdict);
    }

    fn adam_direction(&mut self, param: &Param, m: &StateTensor, v: &StateTensor, x: Span, args: &DirectionArgs) {
        state::adam_direction(&mut self.gpu, param, [m, v], x, args);
    }

    fn load_state(&mut self, param: &Param, state: &StateTensor, out: Span) {
        state::load(&mut self.gpu, param, state, out);
    }

    fn store_state(&mut self, param: &Param, state: &StateTensor, x: Span, key: &RngKey) {
        state::store(&mut self.gpu, param, state, x, key);
    }

    fn normalize(&mut self, x: Span, rows: usize, cols: usize, axis: Axis, floor: f32) {
        normalize(&mut self.gpu, x, rows, cols, axis, floor);
    }

    fn add_weight(&mut self, param: &Param, x: Span, factor: f32) {
        add_weight(&mut self.gpu, param, x, factor);
    }

    fn weight_squares(&mut self, param: &Param, out: Span) {
        weight_squares(&mut self.gpu, param, out);
    }

    fn apply_update(&mut self, param: &Param, direction: Span, args: &UpdateArgs) {
        apply(&mut self.gpu, param, direction, args);
    }

    fn update_stats(&mut self) -> UpdateStats {
        adam_statistics::update_stats(&mut self.gpu)
    }
}

fn begin(gpu: &mut Gpu, grad: Span, freeze_on_zero: bool) {
    let (scalars, gate) = (gpu.words().part(SCALARS, SCALAR_BYTES), gate(gpu));
    let mut gradients = Gradients::new();
    gradients.push(gpu, grad, scalars);
    let at = Statistics::new(gpu.workspace(), &gradients);
    launch_leaves(gpu, &gradients, &at);
    // No clipping: all that Stable-SPAM would do is left out.
    let plain = AdamArgs { freeze_on_zero_grad: freeze_on_zero.into(), ..AdamArgs::new_zeroed() };
    launch_verdicts(gpu, &gradients, &at, &plain, gate);
}

/// # Panics
/// If a plane's length does not fit the shape.
fn add_weight(gpu: &mut Gpu, param: &Param, x: Span, factor: f32) {
    check_weight(param, x);
    let (planes, storage) = (Planes::of_weight(gpu, param, x), Storage::of_weight(param));
    let args = Args::new().bytes(&planes).bytes(&Shape::of(param.weight.shape)).bytes(&storage);
    let args = args.f32(factor).span(gpu, gate(gpu));
    let kernel = kernel(codec_kernels!("add_weight"), &param.weight);
    launch(gpu, kernel, param.weight.shape, storage.shared(Some(&param.weight)), &args);
}

/// # Panics
/// If a plane's length does not fit the shape.
fn weight_squares(gpu: &mut Gpu, param: &Param, out: Span) {
    super::weights::check(&param.weight);
    let shape = Shape::of(param.weight.shape);
    assert_eq!(out.bytes, 4 * shape.blocks() as usize, "bytes of the sums of blocks");
    let (planes, storage) = (Planes::of_weight(gpu, param, Span::NONE), Storage::of_weight(param));
    let args = Args::new().bytes(&planes).bytes(&shape).bytes(&storage).span(gpu, out);
    let kernel = kernel(codec_kernels!("weight_squares"), &param.weight);
    launch(gpu, kernel, param.weight.shape, storage.shared(Some(&param.weight)), &args);
}

/// # Panics
/// If a plane's length does not fit the shape.
fn apply(gpu: &mut Gpu, param: &Param, direction: Span, constants: &UpdateArgs) {
    check_weight(param, direction);
    let (planes, storage) = (Planes::of_weight(gpu, param, direction), Storage::of_weight(param));
    let args = Args::new().bytes(&planes).bytes(&Shape::of(param.weight.shape)).bytes(&storage);
    let args = args.bytes(constants).span(gpu, gate(gpu)).span(gpu, kept(gpu));
    let kernel = kernel(codec_kernels!("apply_update"), &param.weight);
    launch(gpu, kernel, param.weight.shape, storage.shared(Some(&param.weight)), &args);
}

/// One thread for each block of 32 elements.
fn launch(gpu: &mut Gpu, kernel: &'static str, shape: GroupedShape, shared: usize, args: &Args) {
    let blocks = Shape::of(shape).blocks().div_ceil(THREADS);
    // SAFETY: the parameters of the callers' kernels, which stay within planes of the shape, storage and state that the
    // caller found to be as long as these say, and within the tiles of shared memory that are asked for.
    unsafe { gpu.launch(kernel, [blocks, 1, 1], THREADS, shared, args) };
}
