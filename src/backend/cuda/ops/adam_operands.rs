//! What the kernels of updates are told of a parameter: where its planes lie, its shape, and how its numbers are stored.

use super::factored::Means;
use crate::backend::adam::{AdamArgs, SCALARS, state};
use crate::backend::cuda::runtime::Gpu;
use crate::backend::{Param, StateTensor, Weight};
use crate::memory::Span;
use crate::quant::{BLOCK, Element, GroupedShape, QuantGrid, StateCodec, StateShape, WeightFormat};
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// Threads of a block of the update, and bytes of one tile of a warp.
pub(super) const THREADS: u32 = 128;
const TILE: usize = 32 * (32 + 4) * 4;

/// The width of shared second moments (`kernels/moments.h`).
const SHARED: u32 = 3;

// The sizes that the kernels' headers assert of the same structs: `Planes`, `Shape`, `Codec`, `Storage`.
const _: () = {
    assert!(size_of::<Planes>() == 88);
    assert!(size_of::<Shape>() == 24);
    assert!(size_of::<Codec>() == 16);
    assert!(size_of::<Storage>() == 84);
};

/// Planes of a parameter on the device; zero where there is none (`Planes` in `kernels/adam_pass.h`).
#[derive(Clone, Copy, FromZeros, IntoBytes, Immutable)]
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
#[derive(Clone, Copy, FromZeros, IntoBytes, Immutable)]
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

    /// Whether nothing is padding.
    pub(super) fn is_dense(&self) -> bool {
        self.dense != 0
    }

    /// Some blocks are not to be touched, as padding is not.
    pub(super) fn leave_gaps(&mut self) {
        self.dense = 0;
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
    /// Number in the model's table; of several members each has its own.
    pub(super) tensor: u32,
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
    deep: f32,
    reach: f32,
    shrink: f32,
}

impl Storage {
    /// For the fused pass.
    pub(super) fn of(param: &Param, args: &AdamArgs) -> Self {
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
            deep: grid.deep,
            reach: grid.reach,
            shrink: grid.shrink,
        }
    }

    /// What `optimizer_update_nibbles` is written for.
    pub(super) fn is_nibbles(&self, param: &Param) -> bool {
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

pub(super) fn scalars(param: &Param) -> Span {
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
pub(super) fn is_common(c: &AdamArgs) -> bool {
    c.reset_before == 0 && c.reset_after == 0 && c.density == 1.0 && c.feedback == 0.0 && c.decay == 0.0
}

pub(super) fn planes(gpu: &Gpu, param: &Param, grad: Span, means: Option<Means>, touched: Span) -> Planes {
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
pub(super) fn check(param: &Param, grad: Span) {
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
