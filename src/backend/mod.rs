//! The operations of training and sampling, and the backends that compute them. A backend owns one arena; operations
//! take spans of it. [`ops`] has one file per operation: its contract, and what it computes in plain float64; every
//! backend implements it in a file of the same name.
//!
//! A device may lag behind: operations are carried out in the order in which they were submitted, possibly after they
//! return. [`Memory::download`] waits for them, and [`Memory::status`] tells whether one failed.
//!
//! Dimension letters: `T` tokens of a batch (`T = B S`: batch, queries per sequence), `I` input and `O` output
//! features of a linear layer, `H` query heads, `K` key and value heads, `D` elements per head, `V` vocabulary.
//! All matrices are row-major. Activations are [`DeviceInfo::activation_bytes`] wide (float32 on the CPU); losses,
//! gradients of parameters, norms' statistics and gains are float32; tokens are u32. Rows of activations of n features
//! start `n.next_multiple_of(`[`DeviceInfo::row_multiple`]`)` elements apart; the padding between them is never read.

pub mod adam;
pub mod cpu;
pub mod cuda;
mod info;
mod kinds;
mod memory;
pub mod ops;
mod param;
mod peers;
pub mod profile;
mod update;

pub use info::{DeviceInfo, MaxShapes};
pub use kinds::{Moment, SecondMoment};
pub use memory::{Memory, Offload};
pub use ops::{
    Accumulate, ActivationCode, AttentionArgs, AttentionGradArgs, AttentionShape, Compute, DropoutArgs, FIRST_ADDED,
    GRAD_GROUP, IGNORE, Layout, MOST_PREFIX, MatMulArgs, NormGradArgs, PACK_GROUP, Precision, PrefixArgs,
    PrefixGradArgs, QUANT_GROUP, Rotation, RowDraws, SUM_BLOCK, packed_bytes,
};
pub use param::{Param, State, StateTensor, Weight};
pub use peers::Peers;
pub use update::{
    AdamUpdate, Axis, DirectionArgs, DivisorArgs, MomentumArgs, RelativeStepArgs, UpdateArgs, UpdateStats,
};

/// The traits of a backend, for calls on a concrete one: `use tetrad::backend::prelude::*`.
pub mod prelude {
    pub use crate::backend::ops::{
        ActivationPack as _, ActivationQuant as _, ActivationScaling as _, Attention as _, Bias as _,
        CrossEntropy as _, Embedding as _, Factors as _, Gaussian as _, Gelu as _, Linear as _, Magnitude as _,
        MatMul as _, Norm as _, PrefixAttention as _, Rope as _, Scaling as _, SwiGlu as _, Update as _,
    };
    pub use crate::backend::{Backend as _, DeviceInfo as _, Memory as _, Offload as _};
}

/// All operations and the memory they work on. Every method may be called only after [`Memory::allocate`], with spans
/// of that arena, in the shapes stated; anything else is a programmer's error and panics.
pub trait Backend:
    DeviceInfo
    + Memory
    + Offload
    + ops::ActivationPack
    + ops::ActivationQuant
    + ops::ActivationScaling
    + ops::Attention
    + ops::Bias
    + ops::CrossEntropy
    + ops::Embedding
    + ops::Factors
    + ops::Gaussian
    + ops::Gelu
    + ops::Linear
    + ops::Magnitude
    + ops::MatMul
    + ops::Norm
    + ops::PrefixAttention
    + ops::Rope
    + ops::Scaling
    + ops::SwiGlu
    + ops::Update
    + Send
{
    /// The device, its threads and its instruction set in words, for the first line of a run.
    fn describe(&self) -> String;

    /// Multiplications and additions that its products of activations can be in a second, by the device's data and its highest
    /// clock; nothing where that is not known.
    fn peak_flops(&self) -> Option<f64> {
        None
    }

    /// From now on operations are kept as graphs, where a device has such, or no more are; whether they are. Later the same
    /// operations with the same arguments, between the same [cuts](Backend::cut_graph), are submitted at once. It takes memory
    /// beside the arena.
    fn record_graphs(&mut self, on: bool) -> bool {
        let _ = on;
        false
    }

    /// What differs from step to step begins or ends here: no graph has operations from both sides.
    fn cut_graph(&mut self) {}

    /// The devices of other ranks, if this one reaches them by itself; else what goes there is downloaded and uploaded.
    fn peers(&mut self) -> Option<&mut dyn Peers> {
        None
    }
}
