//! The optimizer step: statistics of the gradient, the tensor's scalars, and one pass over gradient, weight and state.
//! Everything is decided on the device, so that no step waits for the host before it asks for the outcomes.

use super::factored::{self, Means};
use super::weights::{codec_kernels, kernel};
use crate::backend::adam::{AdamArgs, SCALARS, state};
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::{MaxShapes, Param, StateTensor, UpdateStats, Weight};
use crate::memory::Span;
use crate::quant::{BLOCK, Element, GroupedShape, QuantGrid, StateCodec, StateShape, WeightFormat};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Elements of one leaf of the reductions, as on the CPU.
pub(super) const LEAF: usize = 16384;
/// Bytes that a leaf takes in the scratch: two sums and the largest magnitude.
const LEAF_BYTES: usize = 2 * size_of::<f64>() + size_of::<u32>();
/// Bytes of the verdict in the scratch (`GradStats` in `kernels/adam.h` asserts them).
const VERDICT: usize = 16;
/// Threads of a block of the update, and bytes of one tile of a warp.
pub(super) const THREADS: u32 = 128;
const TILE: usize = 32 * (32 + 4) * 4;

/// The width of shared second moments (`kernels/moments.h`).
const SHARED: u32 = 3;

// The sizes that the kernels' headers assert of the same structs: `UpdateStats`, `Planes`, `Shape`, `Codec`, `Storage`,
// `AdamArgs`.
const _: () = {
    assert!(size_of::<DeviceStats>() == 32);
    assert!(size_of::<Planes>() == 88);
    assert!(size_of::<Shape>() == 24);
    assert!(size_of::<Codec>() == 16);
    assert!(size_of::<Storage>() == 76);
    assert!(size_of::<AdamArgs>() == 120);
};

/// What the device keeps between updates (`UpdateStats` in `kernels/adam.h`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct DeviceStats {
    grad_sq: f64,
    rescales: u64,
    skipped: u64,
    gmax: u32,
    reserved: u32,
}

/// Planes of a parameter on the device; zero where there is none (`Planes` in `kernels/adam_pass.h`).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Planes {
    grad: u64,
    data: u64,
    residue: u64,
    scales: u64,
    offsets: u64,
    m: u64,
    m_scales: u64,
    v: u64,
    v_scales: u64,
    factors: u64,
    touched: u64,
}

/// `Shape` in `kernels/blocks.h`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Shape {
    rows: u32,
    cols: u32,
    blocks_per_row: u32,
    blocks_per_group: u32,
    blocks: u32,
    dense: u32,
}

impl Shape {
    /// Blocks of the padded tensor.
    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// # Panics
    /// If the matrix has nearly 2^32 blocks or more.
    pub(super) fn of(g: GroupedShape) -> Self {
        // Threads past the end have numbers too.
        let fits = |n: usize| {
            assert!(
                n + THREADS as usize <= u32::MAX as usize,
                "{n} blocks of 32 elements: fewer than 2^32 can be numbered"
            );
            n as u32
        };
        Self {
            rows: fits(g.rows),
            cols: fits(g.cols),
            blocks_per_row: fits(g.padded_cols() / BLOCK),
            blocks_per_group: fits(g.group / BLOCK),
            blocks: fits(g.padded_len() / BLOCK),
            dense: u32::from(g.cols == g.padded_cols()),
        }
    }
}

/// `Codec` in `kernels/moments.h`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Codec {
    width: u32,
    max: f32,
    excess: f32,
    signs: u32,
}

impl Codec {
    /// No such state (`ABSENT` in `kernels/moments.h`).
    const ABSENT: Self = Self { width: 4, max: 0.0, excess: 0.0, signs: 0 };

    /// Of a state tensor, or of second moments that elements share.
    fn of(tensor: Option<&StateTensor>) -> Self {
        let Some(tensor) = tensor else { return Self { width: SHARED, max: 0.0, excess: 0.0, signs: 0 } };
        let stored = tensor.spec.format.codec;
        let Some(codec) = stored.moment() else { return Self { width: 0, max: 0.0, excess: 0.0, signs: 0 } };
        let (width, sign) = if stored.element() == Element::Nibble { (2, 0x08) } else { (1, 0x80) };
        let sign = if codec.signed { sign } else { 0u32 };
        Self { width, max: f32::from(codec.max), excess: sign as f32, signs: sign * 0x0101_0101 }
    }
}

/// `Storage` in `kernels/adam_pass.h`, its `QuantGrid` (`kernels/grid.h`) in it.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Storage {
    tensor: u32,
    plain: u32,
    m: Codec,
    v: Codec,
    steps_per_scale: f32,
    unit: f32,
    base: f32,
    excess: f32,
    min: f32,
    max: f32,
    target: f32,
    grow: f32,
    shrink: f32,
}

impl Storage {
    /// For the fused pass.
    fn of(param: &Param, args: &AdamArgs) -> Self {
        let (m, v) = (first_moment(param), param.state.get(state::V));
        let compact = |tensor: &StateTensor| tensor.spec.format.codec != StateCodec::F32;
        let plain = plain(args) && compact(m) && v.is_none_or(compact);
        Self::new(param, plain, Codec::of(Some(m)), Codec::of(v))
    }

    /// For an update without moments.
    pub(super) fn of_weight(param: &Param) -> Self {
        Self::new(param, false, Codec::ABSENT, Codec::ABSENT)
    }

    /// For a state tensor beside its weight, which is not touched.
    pub(super) fn of_state(param: &Param, state: &StateTensor) -> Self {
        Self::new(param, false, Codec::of(Some(state)), Codec::ABSENT)
    }

    /// For two moments beside their weight, which is not touched.
    pub(super) fn of_moments(param: &Param, m: &StateTensor, v: &StateTensor) -> Self {
        Self::new(param, false, Codec::of(Some(m)), Codec::of(Some(v)))
    }

    /// For a parameter's weight, with these moments.
    fn new(param: &Param, plain: bool, m: Codec, v: Codec) -> Self {
        let format = param.weight.format;
        // Floats have no grid; the kernel reads none of it.
        let grid = format.grid().unwrap_or(QuantGrid::INT8);
        let excess = if format.codec().element() == Element::I8 { 128.0 } else { 0.0 };
        Self {
            tensor: param.id,
            plain: u32::from(plain),
            m,
            v,
            steps_per_scale: grid.steps_per_scale,
            unit: grid.unit,
            base: if format.codec().has_offsets() { grid.offset_point } else { grid.zero_point },
            excess,
            min: grid.min,
            max: grid.max,
            target: grid.target,
            grow: grid.grow,
            shrink: grid.shrink,
        }
    }

    /// What `optimizer_update_nibbles` is written for.
    fn is_nibbles(&self, param: &Param) -> bool {
        let packed = param.weight.format == WeightFormat::INT4;
        packed && self.m.width == 2 && self.v.width == 2 && self.plain == 1
    }

    /// Bytes of shared memory: per warp a tile for the gradient and one for each plane of floats, that of the weight
    /// (none where the kernel does not touch it) among them.
    pub(super) fn shared(&self, weight: Option<&Weight>) -> usize {
        let floats = weight.is_some_and(|weight| !weight.format.is_quantized());
        let tiles = 1 + usize::from(floats) + usize::from(self.m.width == 0) + usize::from(self.v.width == 0);
        tiles * TILE * THREADS as usize / 32
    }
}

fn first_moment(param: &Param) -> &StateTensor {
    param.state.get(state::M).expect("the fused pass has a first moment")
}

fn scalars(param: &Param) -> Span {
    param.state.get(state::SCALARS).expect("the fused pass has scalars").data
}

/// Whether `move_plain` of `kernels/adam_element.h` may be used: the parts of the formula that it leaves out vanish,
/// and the numbers lie where its divisions and roots are exact (`is_tame` there says why).
fn plain(c: &AdamArgs) -> bool {
    let vanish = c.l2 == 0.0 && c.spike_threshold.is_infinite() && c.post_decay == 1.0;
    let power = |exponent: i32| 2f32.powi(exponent);
    vanish
        && (power(-6)..1.0).contains(&c.beta1)
        && c.one_minus_beta1 >= power(-6)
        && (0.5..1.0).contains(&c.beta2)
        && c.one_minus_beta2 >= power(-20)
        && (power(-30)..=power(10)).contains(&c.step_size)
        && (1.0..=power(10)).contains(&c.inv_sqrt_bias_correction2)
        && (power(-40)..=1.0).contains(&c.eps)
}

/// Whether a step has nothing that `optimizer_update_nibbles` leaves out.
fn is_common(c: &AdamArgs) -> bool {
    c.reset_before == 0 && c.reset_after == 0 && c.density == 1.0 && c.feedback == 0.0 && c.decay == 0.0
}

/// Scratch for all of this file, in bytes.
pub(crate) fn workspace_bytes(max: &MaxShapes) -> usize {
    let rows = max.features.max(max.inputs);
    statistics_bytes(max.parameter.div_ceil(LEAF)) + touched_bytes(rows) + factored::workspace_bytes(max)
}

/// Bytes of verdict, sums and maxima; what follows them starts at a multiple of 16.
fn statistics_bytes(leaves: usize) -> usize {
    (VERDICT + leaves * LEAF_BYTES).next_multiple_of(16)
}

/// Bytes that say which rows are updated.
fn touched_bytes(rows: usize) -> usize {
    (4 * rows).next_multiple_of(16)
}

/// Where the statistics lie in the scratch.
pub(super) struct Statistics {
    verdict: Span,
    clipped: Span,
    raw: Span,
    maxima: Span,
}

impl Statistics {
    pub(super) fn new(scratch: Span, leaves: usize) -> Self {
        let sums = leaves * size_of::<f64>();
        Self {
            verdict: scratch.head(VERDICT),
            clipped: scratch.part(VERDICT, sums),
            raw: scratch.part(VERDICT + sums, sums),
            maxima: scratch.part(VERDICT + 2 * sums, leaves * size_of::<u32>()),
        }
    }
}

/// Where the outcomes are kept.
pub(super) fn kept(gpu: &Gpu) -> Span {
    gpu.words().head(size_of::<DeviceStats>())
}

/// One step of one tensor; see [`crate::backend::ops::Update::adam`].
///
/// # Panics
/// If a plane's length does not fit the shape.
pub(crate) fn step(gpu: &mut Gpu, param: &Param, grad: Span, args: &AdamArgs) {
    check(param, grad);
    let constants = args;
    let count = param.weight.shape.len();
    let leaves = count.div_ceil(LEAF);
    let at = Statistics::new(gpu.workspace(), leaves);
    let (grid, kept) = (u32::try_from(leaves).expect("fewer than 2^32 leaves"), kept(gpu));

    launch_leaves(gpu, grad, count, &at);
    let scalars = scalars(param);
    if constants.use_stable_spam != 0 {
        let args = Args::new().span(gpu, grad).i64(count as i64).u32(grid).span(gpu, at.maxima);
        let args = args.span(gpu, at.clipped).span(gpu, scalars).bytes(constants).span(gpu, kept);
        // SAFETY: as above; the scalars have the length that `check` asked for.
        unsafe { gpu.launch("optimizer_clipped", [grid.min(4 * gpu.multiprocessors()), 1, 1], 256, 0, &args) };
    }
    launch_verdict(gpu, grid, &at, scalars, constants, at.verdict);

    let scratch = after(gpu.workspace(), statistics_bytes(leaves));
    let (touched, scratch) = touched_rows(gpu, param, grad, constants, scratch);
    let means = Means::of(scratch, param);
    if let Some(means) = means {
        means.advance(gpu, param, grad, constants, at.verdict, touched);
    }

    let mut shape = Shape::of(param.weight.shape);
    if !touched.is_none() {
        // Blocks that are left out are gaps.
        shape.dense = 0;
    }
    let storage = Storage::of(param, constants);
    let blocks = shape.blocks.div_ceil(THREADS);
    let shared = storage.shared(Some(&param.weight));
    let args =
        Args::new().bytes(&planes(gpu, param, grad, means, touched)).bytes(&shape).bytes(&storage).bytes(constants);
    let args = args.span(gpu, at.maxima).span(gpu, at.verdict).span(gpu, kept);
    let nibbles = storage.is_nibbles(param) && shape.dense != 0 && is_common(constants);
    let kernel = match nibbles {
        true => "optimizer_update_nibbles",
        false => kernel(codec_kernels!("optimizer_update"), &param.weight),
    };
    // SAFETY: the parameters of all these kernels; they stay within planes of the shape, storage and state that `check` found
    // to be as long as these say, and within the tiles of shared memory that are asked for.
    unsafe { gpu.launch(kernel, [blocks, 1, 1], THREADS, shared, &args) };
}

/// Largest magnitudes and sums of squares of the gradient's leaves.
pub(super) fn launch_leaves(gpu: &mut Gpu, grad: Span, count: usize, at: &Statistics) {
    let (grid, kept) = (u32::try_from(count.div_ceil(LEAF)).expect("fewer than 2^32 leaves"), kept(gpu));
    let args = Args::new().span(gpu, grad).i64(count as i64).span(gpu, at.maxima).span(gpu, at.raw).span(gpu, kept);
    // SAFETY: the parameters of the kernel, which reads `count` elements of the gradient and writes one entry per leaf;
    // the caller found the gradient to have as many, and `Statistics` has room for the leaves.
    unsafe { gpu.launch("optimizer_leaves", [grid, 1, 1], 256, 0, &args) };
}

/// Folds the leaves and says in `verdict` what the elements shall do.
pub(super) fn launch_verdict(
    gpu: &mut Gpu,
    leaves: u32,
    at: &Statistics,
    scalars: Span,
    constants: &AdamArgs,
    verdict: Span,
) {
    let args = Args::new().u32(leaves).span(gpu, at.maxima).span(gpu, at.clipped).span(gpu, at.raw).span(gpu, scalars);
    let args = args.bytes(constants).span(gpu, verdict).span(gpu, kept(gpu));
    // SAFETY: the parameters of the kernel, which stays within `leaves` entries of the statistics, three scalars and the
    // verdict; the caller's spans have as many bytes.
    unsafe { gpu.launch("optimizer_verdict", [1, 1, 1], leaves.next_power_of_two().clamp(32, 1024), 0, &args) };
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

fn planes(gpu: &Gpu, param: &Param, grad: Span, means: Option<Means>, touched: Span) -> Planes {
    let v = param.state.get(state::V);
    let v_data = means.map(|means| means.now).or(v.map(|v| v.data)).expect("second moments, shared or not");
    Planes {
        v: gpu.address(v_data),
        v_scales: v.map_or(0, |v| gpu.address(v.scales)),
        factors: means.map_or(0, |means| gpu.address(means.factors)),
        touched: gpu.address(touched),
        ..Planes::of_weight(gpu, param, grad).with_state(gpu, first_moment(param))
    }
}

impl Planes {
    /// A weight's, and its gradient or direction; no state.
    pub(super) fn of_weight(gpu: &Gpu, param: &Param, grad: Span) -> Self {
        let w = &param.weight;
        Self {
            grad: gpu.address(grad),
            data: gpu.address(w.data),
            residue: gpu.address(w.residue),
            scales: gpu.address(w.scales),
            offsets: gpu.address(w.offsets),
            ..Self::of_direction(gpu, grad)
        }
    }

    /// A gradient or direction alone.
    pub(super) fn of_direction(gpu: &Gpu, grad: Span) -> Self {
        let grad = gpu.address(grad);
        let (data, residue, scales, offsets) = (0, 0, 0, 0);
        let (m, m_scales, v, v_scales, factors, touched) = (0, 0, 0, 0, 0, 0);
        Self { grad, data, residue, scales, offsets, m, m_scales, v, v_scales, factors, touched }
    }

    /// A state tensor in the first moment's place.
    pub(super) fn with_state(self, gpu: &Gpu, state: &StateTensor) -> Self {
        Self { m: gpu.address(state.data), m_scales: gpu.address(state.scales), ..self }
    }

    /// A state tensor in the second moment's place.
    pub(super) fn with_second(self, gpu: &Gpu, state: &StateTensor) -> Self {
        Self { v: gpu.address(state.data), v_scales: gpu.address(state.scales), ..self }
    }
}

/// The kernels trust these lengths.
fn check(param: &Param, grad: Span) {
    let g = param.weight.shape;
    for tensor in param.state.tensors() {
        let shape = match tensor.spec.name {
            state::M | state::V => StateShape::PerWeight,
            state::V_ROWS => StateShape::PerRow,
            state::V_COLS => StateShape::PerCol,
            state::SCALARS => StateShape::Scalars(SCALARS),
            name => panic!("the fused pass has no use for a state tensor {name}"),
        };
        assert_eq!(tensor.spec.format.shape, shape, "shape of {}", tensor.spec.name);
        let bytes = [tensor.data.bytes, tensor.scales.bytes];
        assert_eq!(bytes, tensor.spec.format.bytes(g), "bytes of {} and of its scales", tensor.spec.name);
    }
    let has = |name| param.state.get(name).is_some();
    let shared = has(state::V_ROWS);
    assert!(has(state::V) != shared && (shared || !has(state::V_COLS)), "second moments, shared or not");
    check_weight(param, grad);
}

/// A weight's planes, and its gradient or direction.
pub(super) fn check_weight(param: &Param, grad: Span) {
    let g = param.weight.shape;
    super::weights::check(&param.weight);
    assert_eq!(grad.bytes, 4 * g.len(), "bytes of a gradient");
    assert!(grad.offset.is_multiple_of(16), "a gradient or direction at {}, no multiple of 16 bytes", grad.offset);
}
