//! Progress of preparing text.

use super::output::escape;
use super::signals::Interrupts;
use super::units::{bytes, duration};
use std::time::{Duration, Instant};
use tetrad::data::{Progress, Stage};

/// Reports progress on standard error if preparing takes longer than two seconds; stops it if that is asked for.
pub(super) fn preparing(interrupts: &Interrupts) -> impl FnMut(Progress<'_>) {
    let (mut last, mut pace) = (Instant::now(), Pace::default());
    move |progress| {
        if interrupts.stopped() {
            progress.stop();
        }
        if last.elapsed() < Duration::from_secs(2) || interrupts.is_quiet() {
            return;
        }
        last = Instant::now();
        let verb = match progress.stage {
            Stage::Hashing => "reading",
            Stage::Tokenizing => "tokenizing",
        };
        let of = if progress.total > 0 { format!(" of {}", bytes(progress.total)) } else { String::new() };
        let pace = pace.told(progress.stage, progress.bytes, progress.total, last);
        eprintln!("{verb} {}: {}{of}{pace}", escape(&progress.path.to_string_lossy()), bytes(progress.bytes));
    }
}

/// How fast a stage goes, from the first that is said of it on: what was done before a restart does not count.
#[derive(Default)]
struct Pace {
    stage: Option<Stage>,
    /// Bytes that were done then.
    from: u64,
    begun: Option<Instant>,
}

impl Pace {
    /// Bytes a second and the time that is left, once that is known.
    fn told(&mut self, stage: Stage, done: u64, total: u64, now: Instant) -> String {
        if self.stage != Some(stage) {
            *self = Self { stage: Some(stage), from: done, begun: Some(now) };
        }
        let seconds = self.begun.map_or(0.0, |begun| (now - begun).as_secs_f64());
        let moved = done.saturating_sub(self.from);
        if moved == 0 || seconds < 1.0 {
            return String::new();
        }
        let rate = moved as f64 / seconds;
        let left = match total.checked_sub(done) {
            Some(left) if total > 0 => format!(", {} left", duration(Duration::from_secs_f64(left as f64 / rate))),
            _ => String::new(),
        };
        format!(", {}/s{left}", bytes(rate as u64))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_told_once_it_is_known() {
        let (begun, mut pace) = (Instant::now(), Pace::default());
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(pace.told(Stage::Hashing, 1 << 20, 0, at(0)), "");
        assert_eq!(pace.told(Stage::Hashing, 5 << 20, 0, at(2)), ", 2.00 MiB/s");
        // What an earlier preparation left is not of this pace.
        assert_eq!(pace.told(Stage::Tokenizing, 100 << 20, 200 << 20, at(4)), "");
        assert_eq!(pace.told(Stage::Tokenizing, 110 << 20, 200 << 20, at(14)), ", 1.00 MiB/s, 1m30s left");
    }
}
