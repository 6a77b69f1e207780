//! Files: the only code that maps, locks, writes or renames them; and the clock.
//!
//! A mapped file is never truncated or rewritten in place: [`replace`] puts a new file under the name and leaves the
//! old one, and every map of it, unchanged.

mod lock;
mod machine;
mod map;
mod publish;
mod replace;
mod work_file;

pub use lock::Lock;
pub use machine::{Machine, Operation, Output, create_folder, on_machine, remove, remove_folder, rename, ticks, time};
pub use map::Map;
pub use publish::{Draft, publish, same_file};
pub use replace::{Sink, remove_stale, replace};
pub use work_file::WorkFile;
