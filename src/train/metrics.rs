//! `metrics.jsonl`: one object per line, appended as the run goes.

use super::{AuditReport, Events, StepReport};
use crate::error::{ReplaceError, StoreError};
use crate::store::{Output, replace};
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// One line; fields that do not apply are absent, and so are non-finite values (JSON has no NaN).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Line {
    /// Steps done.
    pub step: u64,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "not_finite")]
    pub time: Option<f64>,
    /// Tokens that were trained on so far, padding included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// How often all rows were gone through so far.
    #[serde(skip_serializing_if = "not_finite")]
    pub epoch: Option<f64>,
    /// Mean training loss of the step, nats per token.
    #[serde(skip_serializing_if = "not_finite")]
    pub loss: Option<f64>,
    /// Mean validation loss, nats per token.
    #[serde(skip_serializing_if = "not_finite")]
    pub val_loss: Option<f64>,
    /// Validation loss in bits per byte of text.
    #[serde(skip_serializing_if = "not_finite")]
    pub val_bits_per_byte: Option<f64>,
    /// How long the validation took.
    #[serde(skip_serializing_if = "not_finite")]
    pub val_seconds: Option<f64>,
    /// Learning rate.
    #[serde(skip_serializing_if = "not_finite")]
    pub lr: Option<f64>,
    /// Norm of the gradient.
    #[serde(skip_serializing_if = "not_finite")]
    pub grad_norm: Option<f64>,
    /// What the gradient was multiplied by, with `optimizer.grad_clip`.
    #[serde(skip_serializing_if = "not_finite")]
    pub clip_factor: Option<f64>,
    /// Share of the steps so far that it was below 1 in.
    #[serde(skip_serializing_if = "not_finite")]
    pub clipped_share: Option<f64>,
    /// Training tokens per second.
    #[serde(skip_serializing_if = "not_finite")]
    pub tokens_per_s: Option<f64>,
    /// Resident memory of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    /// Groups of weights rescaled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "refits")]
    pub rescales: Option<u64>,
    /// Steps skipped so far because the loss was not finite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped_losses: Option<u64>,
    /// How long the step searched for projections (GaLore, Fira).
    #[serde(skip_serializing_if = "not_finite")]
    pub search_seconds: Option<f64>,
    /// The rank for which others waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slowest_rank: Option<usize>,
    /// How much longer than it another rank was busy with exchanges.
    #[serde(skip_serializing_if = "not_finite")]
    pub rank_wait_seconds: Option<f64>,
    /// What the model wrote after this step, with the beginning that it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<String>,
    /// The question of a conversation that it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// What the watchdog did after this step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Updates skipped so far because a gradient was not finite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped_gradients: Option<u64>,
    /// Audit: share of the stored values of a sample of the blocks' weights that the step changed.
    #[serde(skip_serializing_if = "not_finite")]
    pub moved_bytes: Option<f64>,
    /// Audit: share of the codes that it changed.
    #[serde(skip_serializing_if = "not_finite")]
    pub moved_codes: Option<f64>,
    /// Audit: share of the codes that are others than at the start of the run, or where it was resumed.
    #[serde(skip_serializing_if = "not_finite")]
    pub changed_codes: Option<f64>,
    /// Audit: share of those changes that go back.
    #[serde(skip_serializing_if = "not_finite")]
    pub reversed_moves: Option<f64>,
    /// Audit: share of the weights that kept their value.
    #[serde(skip_serializing_if = "not_finite")]
    pub unmoved_updates: Option<f64>,
    /// Audit: share of the groups whose scale rose since the last audit.
    #[serde(skip_serializing_if = "not_finite")]
    pub rescaled_up: Option<f64>,
    /// Audit: share of the groups whose scale fell since the last audit.
    #[serde(skip_serializing_if = "not_finite")]
    pub rescaled_down: Option<f64>,
    /// Audit: share of the codes at an end of their range.
    #[serde(skip_serializing_if = "not_finite")]
    pub saturated_codes: Option<f64>,
    /// Audit: median scale.
    #[serde(skip_serializing_if = "not_finite")]
    pub median_scale: Option<f64>,
    /// Audit, Stable-SPAM: median factor of AdaGN.
    #[serde(skip_serializing_if = "not_finite")]
    pub adagn_factor: Option<f64>,
    /// Audit, Stable-SPAM: share of the tensors that AdaClip cut elements of.
    #[serde(skip_serializing_if = "not_finite")]
    pub adaclip_share: Option<f64>,
}

fn not_finite(value: &Option<f64>) -> bool {
    !value.is_some_and(f64::is_finite)
}

impl Line {
    /// The line of a training step.
    pub fn of_step(report: &StepReport, tokens_per_s: f64, rss_bytes: Option<u64>) -> Self {
        Self {
            step: report.step,
            loss: Some(report.loss),
            lr: Some(report.lr),
            grad_norm: Some(report.grad_norm),
            clip_factor: report.clip_factor,
            tokens_per_s: Some(tokens_per_s),
            rss_bytes,
            rescales: Some(report.rescales),
            search_seconds: report.search_seconds,
            slowest_rank: report.straggler.map(|straggler| straggler.rank),
            rank_wait_seconds: report.straggler.map(|straggler| straggler.seconds),
            ..report.audit.as_ref().map_or_else(Self::default, Self::of_audit)
        }
    }

    /// What an audit says of the packed codes, by its names in a line.
    pub const CODES: [&str; 9] = [
        "moved_bytes",
        "moved_codes",
        "changed_codes",
        "reversed_moves",
        "unmoved_updates",
        "rescaled_up",
        "rescaled_down",
        "saturated_codes",
        "median_scale",
    ];

    fn of_audit(audit: &AuditReport) -> Self {
        Self {
            moved_bytes: Some(audit.moved_bytes),
            moved_codes: audit.moved_codes,
            changed_codes: audit.changed_codes,
            reversed_moves: audit.reversed_moves,
            unmoved_updates: Some(audit.unmoved_updates),
            rescaled_up: audit.rescaled_up,
            rescaled_down: audit.rescaled_down,
            saturated_codes: audit.saturated_codes,
            median_scale: audit.median_scale,
            adagn_factor: audit.adagn_factor,
            adaclip_share: audit.adaclip_share,
            ..Self::default()
        }
    }
}

/// The open file.
#[derive(Debug)]
pub struct Metrics {
    output: Output,
    path: PathBuf,
    events: Option<Events>,
}

impl Metrics {
    /// Opens `path` for appending after step `step` of a run that has gone back `rewinds` times. What a resumed run writes
    /// again is dropped: lines of later steps, and of those that say that it went back, wherever to, all but the first
    /// `rewinds`; so is an incomplete last line of a killed process.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(path: &Path, step: u64, rewinds: usize) -> Result<Self, StoreError> {
        let text = Self::kept(path, step, rewinds).map_err(|e| StoreError::io(path, "keep metrics there", e))?;
        replace(path, text.len() as u64, |out| out.write_all(&text)).map_err(|error| match error {
            ReplaceError::Store(error) => error,
            ReplaceError::Write(error) => StoreError::io(path, "keep metrics there", error),
        })?;
        let output = Output::append(path).map_err(|e| StoreError::io(path, "keep metrics there", e))?;
        Ok(Self { output, path: path.into(), events: None })
    }

    /// Writes every line to TensorBoard's events too.
    pub fn with_events(self, events: Option<Events>) -> Self {
        Self { events, ..self }
    }

    /// The lines that stay true of a run that goes on from `step` after so many `rewinds`.
    fn kept(path: &Path, step: u64, rewinds: usize) -> io::Result<Vec<u8>> {
        let kept = match File::open(path) {
            // Split at bytes: an incomplete line need not be valid text.
            Ok(file) => BufReader::new(file).split(b'\n').collect::<io::Result<Vec<_>>>()?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        let mut went_back = 0;
        let still_true = |line: &&Vec<u8>| {
            let Ok(line) = serde_json::from_slice::<serde_json::Value>(line) else { return false };
            // A step has a learning rate; what happened between steps has none.
            let event = line.get("event").is_some() && line.get("lr").is_none();
            went_back += usize::from(event);
            if event { went_back <= rewinds } else { line["step"].as_u64().is_some_and(|at| at <= step) }
        };
        let mut text: Vec<u8> =
            kept.iter().filter(still_true).flat_map(|line| [line, &b"\n"[..]]).flatten().copied().collect();
        if step == 0 && rewinds == 0 {
            text.clear();
        }
        Ok(text)
    }

    /// Appends a line; one write, so that a reader never sees half of it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&mut self, line: &Line) -> Result<(), StoreError> {
        let mut text = serde_json::to_vec(line).expect("a struct of numbers is JSON");
        text.push(b'\n');
        self.output.write_all(&text).map_err(|e| StoreError::io(&self.path, "append to it", e))?;
        self.events.as_mut().map_or(Ok(()), |events| events.write(line))
    }

    /// Returns once every line is on the disk. A checkpoint is saved after that: a run that goes on from it writes no line
    /// up to its step again.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.output.sync().map_err(|e| StoreError::io(&self.path, "sync it", e))?;
        self.events.as_ref().map_or(Ok(()), Events::sync)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_run_drops_lines_it_will_write_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(&path, 0, 0).unwrap();
        for step in 1..=4 {
            metrics.write(&Line { step, loss: Some(f64::NAN), ..Line::default() }).unwrap();
        }
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"step\":5,\"lo").unwrap();
        Metrics::open(&path, 2, 0).unwrap().write(&Line { step: 3, lr: Some(0.5), ..Line::default() }).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":2}\n{\"step\":3,\"lr\":0.5}\n");
        Metrics::open(&path, 0, 0).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn a_run_that_goes_on_from_before_it_went_back_says_once_that_it_did() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let write = |metrics: &mut Metrics, words: &str| {
            metrics.write(&Line { step: 2, event: Some(words.into()), ..Line::default() }).unwrap();
        };
        let mut metrics = Metrics::open(&path, 0, 0).unwrap();
        for step in 1..=2 {
            let skipped = (step == 1).then(|| "not learned".into());
            metrics.write(&Line { step, lr: Some(0.5), event: skipped, ..Line::default() }).unwrap();
        }
        write(&mut metrics, "back");
        write(&mut metrics, "back again");
        let events = |rewinds| {
            Metrics::open(&path, 2, rewinds).unwrap();
            std::fs::read_to_string(&path).unwrap().lines().filter(|line| line.contains("event")).count()
        };
        assert_eq!([5, 1, 0].map(events), [3, 2, 1]);
    }
}
