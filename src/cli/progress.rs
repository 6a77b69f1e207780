//! Progress of preparing text.

use super::output::escape;
use super::units::bytes;
use crate::data::{Progress, Stage};
use std::time::{Duration, Instant};

/// Says how far preparing is, on standard error, once it takes longer than a moment.
pub(super) fn preparing() -> impl FnMut(Progress<'_>) {
    let mut last = Instant::now();
    move |progress| {
        if last.elapsed() < Duration::from_secs(2) {
            return;
        }
        last = Instant::now();
        let verb = match progress.stage {
            Stage::Hashing => "reading",
            Stage::Tokenizing => "tokenizing",
        };
        let of = if progress.total > 0 { format!(" of {}", bytes(progress.total)) } else { String::new() };
        eprintln!("{verb} {}: {}{of}", escape(&progress.path.to_string_lossy()), bytes(progress.bytes));
    }
}
