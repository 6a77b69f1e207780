//! What rules beside Adam's family do with their state.

use super::adam_operands::{Planes, Shape, Storage, THREADS};
use super::update::gate;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::{DirectionArgs, MomentumArgs, Param, StateTensor};
use crate::memory::Span;
use crate::quant::RngKey;

/// A recurrence of a state tensor, as `verdict` allows; none: whatever the gradient is.
///
/// # Panics
/// If a plane's length does not fit the state's shape.
pub(super) fn momentum(
    gpu: &mut Gpu,
    param: &Param,
    state: &StateTensor,
    x: Span,
    constants: &MomentumArgs,
    verdict: Span,
) {
    let shape = check(param, state, x);
    let (planes, storage) = (Planes::of_direction(gpu, x).with_state(gpu, state), Storage::of_state(param, state));
    let args = Args::new().bytes(&planes).bytes(&shape).bytes(&storage).bytes(constants).span(gpu, verdict);
    launch(gpu, "momentum", &shape, &storage, &args);
}

/// # Panics
/// If a plane's length does not fit the state's shape, or the two have not the same.
pub(super) fn adam_direction(
    gpu: &mut Gpu,
    param: &Param,
    [m, v]: [&StateTensor; 2],
    x: Span,
    constants: &DirectionArgs,
) {
    let shape = check(param, m, x);
    check(param, v, x);
    assert_eq!(m.spec.format.shape, v.spec.format.shape, "shapes of two moments");
    let planes = Planes::of_direction(gpu, x).with_state(gpu, m).with_second(gpu, v);
    let storage = Storage::of_moments(param, m, v);
    let args = Args::new().bytes(&planes).bytes(&shape).bytes(&storage).bytes(constants).span(gpu, gate(gpu));
    launch(gpu, "adam_direction", &shape, &storage, &args);
}

/// # Panics
/// If a plane's length does not fit the state's shape.
pub(super) fn load(gpu: &mut Gpu, param: &Param, state: &StateTensor, out: Span) {
    let shape = check(param, state, out);
    let (planes, storage) = (Planes::of_direction(gpu, out).with_state(gpu, state), Storage::of_state(param, state));
    let args = Args::new().bytes(&planes).bytes(&shape).bytes(&storage);
    launch(gpu, "load_state", &shape, &storage, &args);
}

/// # Panics
/// If a plane's length does not fit the state's shape.
pub(super) fn store(gpu: &mut Gpu, param: &Param, state: &StateTensor, x: Span, key: &RngKey) {
    let (seed, number, usage) = (key.seed, key.step, key.usage as u32);
    let (keep, add, of_x, of_old, of_new, sign) = (0.0, 1.0, 1.0, 0.0, 0.0, 0);
    let args = MomentumArgs { seed, number, keep, add, of_x, of_old, of_new, sign, usage };
    momentum(gpu, param, state, x, &args, Span::NONE);
}

/// The kernels trust the lengths of planes.
fn check(param: &Param, state: &StateTensor, x: Span) -> Shape {
    let (g, name) = (state.spec.format.matrix(param.weight.shape), state.spec.name);
    super::weights::check_shape(g);
    assert_eq!(x.bytes, 4 * g.len(), "bytes of what goes with {name}");
    let bytes = state.spec.format.bytes(param.weight.shape);
    assert_eq!([state.data.bytes, state.scales.bytes], bytes, "bytes of {name}");
    Shape::of(g)
}

/// One thread for each block of 32 elements.
fn launch(gpu: &mut Gpu, kernel: &'static str, shape: &Shape, storage: &Storage, args: &Args) {
    // SAFETY: the parameters of the three kernels, which stay within planes of the shape and codecs that `check` found to
    // be as long as these say, and within the tiles of shared memory that are asked for.
    unsafe { gpu.launch(kernel, [shape.blocks().div_ceil(THREADS), 1, 1], THREADS, storage.shared(None), args) };
}
