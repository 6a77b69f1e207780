//! Token ids in files: prepared once from a corpus, found again by their content, and mapped.

mod file;
mod prepare;
mod tokens;

pub use file::{InputTokens, Shard};
pub use prepare::{Progress, Stage};
pub use tokens::{IGNORE, Tokens};
