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
        let (path, done, pace) = (
            escape(&progress.path.to_string_lossy()),
            bytes(progress.bytes),
            pace.told(progress.stage, [progress.bytes, progress.total, progress.text], last),
        );
        match (progress.stage, progress.total) {
            (Stage::Hashing, _) | (_, 0) => eprintln!("reading {path}: {done}{pace}"),
            (Stage::Tokenizing, total) => {
                let percent = 100.0 * progress.bytes as f64 / total as f64;
                eprintln!("tokenizing {path}: {percent:.1} % ({done} of {}){pace}", bytes(total));
            }
        }
    }
}

/// How fast a stage goes, from the first that is said of it on: what was done before a restart does not count.
#[derive(Default)]
struct Pace {
    stage: Option<Stage>,
    /// Bytes of files and of text that were done then.
    from: [u64; 2],
    begun: Option<Instant>,
}

impl Pace {
    /// Bytes a second, of text where it is made of some, and the time that is left, once that is known. What is left is of the
    /// files as they lie, packed or not.
    fn told(&mut self, stage: Stage, [done, total, text]: [u64; 3], now: Instant) -> String {
        // Another corpus begins anew, and its first stage may have been too short to be told.
        if self.stage != Some(stage) || done < self.from[0] || text < self.from[1] {
            *self = Self { stage: Some(stage), from: [done, text], begun: Some(now) };
        }
        let seconds = self.begun.map_or(0.0, |begun| (now - begun).as_secs_f64());
        let moved = [done - self.from[0], text - self.from[1]];
        if seconds < 1.0 || moved[0] == 0 {
            return String::new();
        }
        let moved = moved.map(|bytes| bytes as f64 / seconds);
        let left = match total.checked_sub(done) {
            Some(left) if total > 0 => format!(", {} left", duration(Duration::from_secs_f64(left as f64 / moved[0]))),
            _ => String::new(),
        };
        match moved[1] > 0.0 {
            true => format!(", {}/s of text{left}", bytes(moved[1] as u64)),
            false => format!(", {}/s{left}", bytes(moved[0] as u64)),
        }
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
        let (mib, packed) = (1 << 20, 100 << 20);
        assert_eq!(pace.told(Stage::Hashing, [mib, 0, 0], at(0)), "");
        assert_eq!(pace.told(Stage::Hashing, [5 * mib, 0, 0], at(2)), ", 2.00 MiB/s");
        // What an earlier preparation left is not of this pace; of packed files the text counts that is in them.
        assert_eq!(pace.told(Stage::Tokenizing, [packed, 2 * packed, 8 * mib], at(4)), "");
        let told = pace.told(Stage::Tokenizing, [packed + 10 * mib, 2 * packed, 38 * mib], at(14));
        assert_eq!(told, ", 3.00 MiB/s of text, 1m30s left");
        assert_eq!(pace.told(Stage::Tokenizing, [mib, 2 * mib, mib], at(16)), "", "another corpus");
    }
}
