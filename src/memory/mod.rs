//! The plan of all buffers (name, bytes, lifetime, offset), and the arena that holds them.

mod arena;
mod host;
mod plan;

pub use arena::{Arena, ArenaBorrow, Element, MappedFile, Place, Span};
pub use host::{HostMemory, HostRegion};
pub use plan::{Category, Item, Lifetime, Plan};

/// Every buffer starts at a multiple of this many bytes: one cache line, one vector register.
pub const ALIGN: usize = 64;
