//! Pure arithmetic on bytes: groups, the two nibble planes, rounding, the counter-based generator, state codecs.
//! The readable reference for everything fast.

mod geometry;
mod lattice;
mod moment;
mod philox;
mod rounding;
mod state;

pub use geometry::{GROUPS, Geometry, PAD_NIBBLE, RUN, nibble, nibble_place, pack, set_nibble, unpack};
pub use lattice::{Lattice, Placement, SCALE_MIN, absmax};
pub use moment::MomentCodec;
pub use philox::{Purpose, Stream, philox};
pub use rounding::{Rounding, bf16_ceil, bf16_stochastic, bf16_to_f32, low_byte};
pub use state::{StateFormat, StateSpec};
