//! Progress of preparing text.

use super::output::escape;
use super::signals::Interrupts;
use super::units::bytes;
use std::time::{Duration, Instant};
use tetrad::data::{Progress, Stage};

/// Reports progress on standard error if preparing takes longer than two seconds; stops it if that is asked for.
pub(super) fn preparing(interrupts: &Interrupts) -> impl FnMut(Progress<'_>) {
    let mut last = Instant::now();
    move |progress| {
        if interrupts.stopped() {
            progress.stop();
        }
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

/// Shows the progress of an import or export: a bar on a terminal, nothing elsewhere.
pub(super) fn converting(verb: &'static str) -> impl FnMut(u64, u64) {
    let bar = indicatif::ProgressBar::new(0);
    let style = indicatif::ProgressStyle::with_template("{prefix} [{bar:30}] {bytes} of {total_bytes}  {eta} left");
    bar.set_style(style.expect("a constant template"));
    bar.set_prefix(verb);
    move |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        if done == total {
            bar.finish_and_clear();
        }
    }
}
