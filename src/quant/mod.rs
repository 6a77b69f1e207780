//! Quantization, as pure arithmetic on bytes: groups and blocks, grids of weights, codecs of moments, rounding and the
//! counter-based random numbers. The readable reference for everything fast.

mod grid;
mod grouped;
mod moment;
mod rng;
mod rounding;

pub use grid::{GroupScale, QuantGrid, SCALE_MIN, absmax};
pub use grouped::{BLOCK, GROUPS, GroupedShape, PAD_NIBBLE, nibble, nibble_place, pack, set_nibble, unpack};
pub use moment::MomentCodec;
pub use rng::{RngKey, RngUse, philox};
pub use rounding::{Rounding, bf16_ceil, bf16_stochastic, bf16_to_f32, low_byte};
