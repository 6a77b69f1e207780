//! Pure arithmetic on bytes: groups, the two nibble planes, rounding, the counter-based generator, state codecs.

mod geometry;

pub use geometry::{GROUPS, Geometry, PAD_NIBBLE, RUN, nibble, nibble_place, pack, set_nibble, unpack};
