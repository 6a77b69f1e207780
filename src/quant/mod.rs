//! Quantization, as pure arithmetic on bytes: formats and their planes, groups and blocks, grids of weights, codecs of
//! moments, rounding and the counter-based random numbers. The readable reference for everything fast.

mod format;
pub mod fp4;
mod gaussian;
mod grid;
mod grouped;
mod integers;
mod moment;
mod normal;
mod plane;
mod rng;
mod rounding;
mod row_decoder;
mod row_encoder;
mod simulation;
mod state;

pub use format::{WeightCodec, WeightFormat, WeightPlane};
pub(crate) use grid::fold_lanes;
pub use grid::{GroupScale, Levels, QuantGrid, SCALE_MIN, absmax};
pub use grouped::{BLOCK, GROUPS, GroupedShape, PAD_NIBBLE, nibble, nibble_place, pack, set_nibble, unpack};
pub use integers::Integers;
pub use moment::MomentCodec;
pub use plane::{Element, Per, PlaneLayout};
pub(crate) use rng::{COUNTERS, MULTIPLIERS, ROUNDS, WEYL};
pub use rng::{RngKey, RngUse, philox};
pub use rounding::{Rounding, bf16_ceil, bf16_stochastic, bf16_to_f32, low_byte};
pub use row_decoder::RowDecoder;
#[cfg(target_arch = "x86_64")]
pub(crate) use row_decoder::f16_value;
pub use row_encoder::{RowEncoder, RowPlanes};
pub use simulation::{Simulation, without_the_largest};
pub use state::{StateCodec, StateFormat, StateShape, StateSpec};
