//! The `.tetrad` file: reader, writer, verifier. Over bytes and `impl Write`: no I/O of its own, knows no model.
//!
//! The normative text is `format-spec/SPEC.md`; every refusal names the rule of it that is broken. One validator,
//! [`Head::parse`], serves reader and writer: [`Layout::new`] passes its own output through it.
//!
//! - Write: [`TensorPlan`]s, metadata and attachments make a [`Layout`]; [`Layout::write`] requests the planes
//!   from a [`PlaneSource`].
//! - Read: [`File::parse`] checks everything but the planes' contents without reading them, so it takes no longer for
//!   large files; [`File::plane`] borrows a plane from the file; [`File::verify`] checks the contents.
//! - Compare: [`diff`] says plane by plane what changed between two files.

mod attachment;
mod decode;
mod diff;
mod directory;
mod fingerprint;
mod header;
mod metadata;
mod name;
mod plane;
mod read;
mod record;
mod spec;
mod state;
mod verify;
mod write;

pub use attachment::Attachment;
pub use decode::{Decoder, Role};
pub use diff::{Change, Diff, MemberDiff, TensorDiff, diff};
pub use directory::Plane;
pub use fingerprint::Fingerprint;
pub use header::{FIELDS as HEADER_FIELDS, HEADER, MAGIC, MAJOR, MINOR, PLANE_ALIGN, REGION_ALIGN, cap};
pub use metadata::members;
pub use plane::{PlaneKind, SCALARS, element_from_tag, element_name, element_tag};
pub use read::{File, Head, PlaneView, Sections, Tensor};
pub use record::{Field, PLANE_FIELDS, PLANE_RECORD, TENSOR_FIELDS, TENSOR_RECORD};
pub use spec::{TensorSpec, codec_from_tag, codec_tag};
pub use state::NamedState;
pub use write::{Layout, PlaneSource, TensorPlan};

/// The least multiple of `align` (a power of two) that is not below `at`; `None` past the largest offset.
pub(crate) fn align_up(at: u64, align: u64) -> Option<u64> {
    Some(at.checked_add(align - 1)? & !(align - 1))
}
