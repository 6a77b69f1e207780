//! Files: the only code that maps, locks or renames them.
//!
//! A mapped file is never truncated or rewritten in place: [`replace`] puts a new file under the name and leaves the
//! old one, and every map of it, unchanged.

mod lock;
mod map;
mod publish;
mod replace;
mod work_file;

pub use lock::Lock;
pub use map::Map;
pub use publish::{Draft, publish, same_file};
pub use replace::{Sink, remove_stale, replace};
pub use work_file::WorkFile;
