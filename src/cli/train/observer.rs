//! What a training run shows and writes: the progress line, metrics, samples, checkpoints.

use super::heartbeat::Heartbeat;
use crate::cli::Failure;
use crate::cli::number::short;
use crate::cli::output::{harmless, print};
use crate::cli::units::{bytes, duration, rate as per_second};
use crate::cli::writing::text_prompt;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tetrad::checkpoint::{
    BEST, Checkpoint, Extent, GENERATION_CONFIG, Meta, TOKENIZER, TOKENIZER_CONFIG, checkpoint_path, list, prune,
    save_with,
};
use tetrad::config::{Config, OnSpike};
use tetrad::data::{Decoder, Prepared, SpecialTokens, Tokenizer};
use tetrad::error::{BackendError, CheckpointError, StoreError};
use tetrad::format::Attachment;
use tetrad::model::{Generator, Sampling};
use tetrad::train::{Events, Line, Metrics, Observer, Samples, Spike, StepReport, Trainer, Validation, Work, resident};

/// Time between plain progress lines, where there is no terminal to redraw one on.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Why the observer ended a run.
#[derive(Debug)]
pub struct ConsoleError(pub(super) Failure);

impl From<std::io::Error> for ConsoleError {
    fn from(error: std::io::Error) -> Self {
        Self(error.into())
    }
}

impl From<BackendError> for ConsoleError {
    fn from(error: BackendError) -> Self {
        Self(error.into())
    }
}

impl From<StoreError> for ConsoleError {
    fn from(error: StoreError) -> Self {
        Self(error.into())
    }
}

impl From<CheckpointError> for ConsoleError {
    fn from(error: CheckpointError) -> Self {
        Self(error.into())
    }
}

impl From<ConsoleError> for Failure {
    fn from(stop: ConsoleError) -> Self {
        stop.0
    }
}

/// The console and the run directory.
pub struct Console {
    metrics: Metrics,
    bar: Option<ProgressBar>,
    tokenizer: Tokenizer,
    /// Saved with the tokenizer in every file: special tokens, chat template, end-of-text tokens.
    pub companions: Vec<(&'static str, Vec<u8>)>,
    bytes_per_token: Option<f64>,
    /// Rows of an epoch.
    rows: u64,
    fingerprint: String,
    tokens: usize,
    begun: Instant,
    first_step: u64,
    last_plain: Option<Instant>,
    /// Time spent in steps alone, and their number.
    stepping: (Duration, u64),
    last: Option<Validation>,
    /// Share of the codes that changed, by the last audit.
    changed_codes: Option<f64>,
    heartbeat: Heartbeat,
    /// Whether an adapter is trained.
    adapter: bool,
}

impl Console {
    /// Opens the metrics of a run at its current step.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn new(trainer: &Trainer, data: &Prepared, samples: &Samples) -> Result<Self, StoreError> {
        let (config, step) = (trainer.config(), trainer.counters().step);
        let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(config.train.steps).with_style(style));
        let heartbeat = Heartbeat::new(bar.clone(), trainer.model().passes.clone());
        Ok(Self {
            metrics: metrics(config, step)?,
            rows: samples.train.rows(),
            heartbeat,
            bar,
            tokenizer: data.tokenizer.clone(),
            companions: Vec::new(),
            bytes_per_token: data.bytes_per_token,
            fingerprint: data.fingerprint.clone(),
            tokens: config.train.batch * config.train.sequence,
            begun: Instant::now(),
            first_step: step,
            last_plain: None,
            stepping: (Duration::ZERO, 0),
            last: None,
            changed_codes: None,
            adapter: config.adapter.is_some(),
        })
    }

    /// Removes the progress line.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Prints text without tearing the progress line.
    fn say(&self, text: &str) -> std::io::Result<()> {
        let write = || print(|out| writeln!(out, "{text}"));
        self.bar.as_ref().map_or_else(write, |bar| bar.suspend(write))
    }

    /// `None` if the text of the tokens is unknown.
    fn bits_per_byte(&self, loss: f64) -> Option<f64> {
        self.bytes_per_token.map(|bytes| loss / std::f64::consts::LN_2 / bytes)
    }

    fn progress(&mut self, trainer: &Trainer, report: &StepReport, rate: f64) -> std::io::Result<()> {
        let steps = trainer.config().train.steps;
        let done = report.step - self.first_step;
        let left = self.begun.elapsed().mul_f64((steps - report.step) as f64 / done as f64);
        let memory = resident().map_or_else(String::new, |(now, _)| format!("  {}", bytes(now)));
        let mut line = format!(
            "step {}/{steps}  loss {:.4}  lr {:.2e}  grad {:.3}{}  {}{memory}  {} left",
            report.step,
            report.loss,
            report.lr,
            report.grad_norm,
            clipped_share(trainer).map_or_else(String::new, |share| format!(" ({:.0} % clipped)", 100.0 * share)),
            per_second(rate),
            duration(left)
        );
        let counters = trainer.counters();
        if counters.skipped_losses + counters.skipped_gradients > 0 {
            let (losses, gradients) = (counters.skipped_losses, counters.skipped_gradients);
            line += &format!("  not finite: {losses} steps and {gradients} updates skipped");
        }
        match &self.bar {
            Some(bar) => bar.set_message(line),
            None if self.last_plain.is_none_or(|at| at.elapsed() >= PLAIN_EVERY) => {
                self.last_plain = Some(Instant::now());
                self.say(&line)?;
            }
            None => {}
        }
        Ok(())
    }

    /// The metadata of a file of this run.
    pub fn meta(&self, trainer: &Trainer) -> Meta {
        let tokenizer = self.tokenizer.json().is_some();
        let meta = Meta::new(trainer.config(), trainer.counters(), tokenizer, &self.fingerprint);
        meta.with_base(trainer.base()).with_watch(trainer.watch())
    }

    /// The attachments of every file of this run; an adapter's base has them.
    pub fn attachments(&self) -> Vec<Attachment<'_>> {
        if self.adapter {
            return Vec::new();
        }
        let companions = self.companions.iter().map(|(name, bytes)| Attachment { name, bytes });
        let tokenizer = self.tokenizer.json().map(|bytes| Attachment { name: TOKENIZER, bytes });
        tokenizer.into_iter().chain(companions).collect()
    }

    /// What came with the tokenizer under this name.
    fn told(&self, name: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
        let (_, json) = self.companions.iter().find(|(found, _)| *found == name)?;
        serde_json::from_slice(json).ok()
    }

    /// The tokens at which a text ends, and those that it begins with.
    fn special_tokens(&self) -> SpecialTokens {
        let [told, generation] = [TOKENIZER_CONFIG, GENERATION_CONFIG].map(|name| self.told(name).unwrap_or_default());
        SpecialTokens::read(&self.tokenizer, &told, &generation)
    }

    /// Prints the summary of a finished run.
    pub fn summarize(&self, trainer: &Trainer, model: &Path) -> std::io::Result<()> {
        let (time, steps) = self.stepping;
        let rate = (steps * self.tokens as u64) as f64 / time.as_secs_f64();
        let peak = resident().map_or_else(String::new, |(_, most)| format!(", {} resident at most", bytes(most)));
        print(|out| {
            match steps {
                0 => writeln!(out, "\nall {} steps were done before; nothing was trained", trainer.counters().step)?,
                _ => writeln!(
                    out,
                    "\n{steps} steps in {}, {}{peak} ({} planned)",
                    duration(self.begun.elapsed()),
                    per_second(rate),
                    bytes(trainer.plan().total() as u64)
                )?,
            }
            if let Some(last) = self.last {
                let bits = self.bits_per_byte(last.loss);
                let bits = bits.map_or_else(String::new, |bits| format!(", {bits:.4} bits per byte"));
                writeln!(out, "validation loss {:.4} nats per token{bits}", last.loss)?;
            }
            if let Some(share) = clipped_share(trainer) {
                let (share, norm) = (100.0 * share, short(trainer.config().optimizer.grad_clip));
                writeln!(out, "clipped: {share:.1} % of the steps, to a gradient norm of {norm}")?;
            }
            if let Some(line) = self.changed_codes.map(codes_line) {
                writeln!(out, "{line}")?;
            }
            let config = trainer.config();
            let (model, dir) = (model.display(), config.run.dir.display());
            writeln!(out, "weights: {model}    other outputs: {dir}/")?;
            let file = match &config.adapter.base {
                Some(base) => format!("{} --adapter {model}", base.display()),
                None => model.to_string(),
            };
            let talk = match config.data.opening.as_ref().is_some_and(|opening| opening.question.is_some()) {
                true => format!("tetrad chat {file}"),
                false => format!("tetrad sample {file} --prompt \"The \""),
            };
            writeln!(out, "try: {talk}    tetrad dump {model} --stats")
        })
    }
}

impl Observer for Console {
    type Error = ConsoleError;

    fn begins(&mut self, trainer: &Trainer, work: Work) {
        let (step, steps) = (trainer.counters().step, trainer.config().train.steps);
        let name = match work {
            Work::Step { .. } => format!("step {}/{steps}", step + 1),
            Work::Validation { .. } => format!("validation after step {step}"),
            Work::Save => format!("saving step {step}"),
        };
        self.heartbeat.begins(Some((name, work)));
    }

    fn on_step(&mut self, trainer: &Trainer, report: &StepReport, took: Duration) -> Result<(), ConsoleError> {
        self.heartbeat.begins(None);
        let rate = self.tokens as f64 / took.as_secs_f64();
        self.changed_codes = report.audit.and_then(|audit| audit.changed_codes).or(self.changed_codes);
        self.stepping = (self.stepping.0 + took, self.stepping.1 + 1);
        let mut line = Line::of_step(report, rate, resident().map(|(now, _)| now));
        let counters = trainer.counters();
        line.time = now();
        line.tokens = Some(counters.position * trainer.config().train.sequence as u64);
        line.epoch = Some(counters.position as f64 / self.rows.max(1) as f64);
        if counters.skipped_losses + counters.skipped_gradients > 0 {
            line.skipped_losses = Some(counters.skipped_losses);
            line.skipped_gradients = Some(counters.skipped_gradients);
        }
        line.clipped_share = clipped_share(trainer);
        if let Some(spike) = report.spike.filter(|_| trainer.config().train.on_spike == OnSpike::Skip) {
            let event = format!("{}; not learned", describe(report.step, &spike));
            self.say(&event)?;
            line.event = Some(event);
        }
        self.metrics.write(&line)?;
        Ok(self.progress(trainer, report, rate)?)
    }

    fn on_validation(&mut self, validation: &Validation) -> Result<(), ConsoleError> {
        self.heartbeat.begins(None);
        let bits = self.bits_per_byte(validation.loss);
        self.last = Some(*validation);
        let line = Line {
            step: validation.step,
            time: now(),
            val_loss: Some(validation.loss),
            val_bits_per_byte: bits,
            val_seconds: Some(validation.took.as_secs_f64()),
            ..Line::default()
        };
        self.metrics.write(&line)?;
        let (step, loss) = (validation.step, validation.loss);
        let perplexity = loss.exp();
        let bits = bits.map_or_else(String::new, |bits| format!("  {bits:.4} bits per byte"));
        Ok(self.say(&format!("step {step}  validation loss {loss:.4}  perplexity {perplexity:.3}{bits}"))?)
    }

    fn sample(&mut self, trainer: &mut Trainer) -> Result<(), ConsoleError> {
        let config = trainer.config();
        let (start, opening) = (config.sample_text(), config.data.opening.clone());
        let (vocab, tokens) = (config.model.vocab, config.train.sample_tokens);
        let special = self.special_tokens();
        // A template writes out what a text begins with.
        let encoded = match opening.as_ref().is_some_and(|opening| opening.question.is_some()) {
            true => self.tokenizer.encode(start),
            false => text_prompt(start, &self.tokenizer, &special, self.told(TOKENIZER_CONFIG).is_some()),
        };
        let prompt = match encoded {
            Ok(ids) if !ids.is_empty() && ids.iter().all(|&id| (id as usize) < vocab) => ids,
            _ => return Ok(self.say("no sample: train.sample_prompt has no tokens in the model's vocabulary")?),
        };
        // Of a conversation the question is shown, and not what the template writes around it.
        let question = opening.and_then(|opening| opening.question);
        let asked =
            question.as_ref().map_or_else(String::new, |question| format!(", asked {:?}", first_words(question)));
        let shown = question.is_none() && start != "\n";
        let mut text = if shown { start.to_owned() } else { String::new() };
        let sampling = Sampling { temperature: 0.8, top_p: 0.95, seed: config.run.seed, ..Sampling::default() };
        let (model, backend) = trainer.model_and_backend();
        let mut generator = Generator::new(model);
        let mut decoder = Decoder::after(&self.tokenizer, &prompt);
        generator.feed(backend, &prompt);
        for _ in 0..tokens {
            let Some(id) = generator.sample(&sampling).filter(|&id| !special.ends_with(id)) else { break };
            text += &decoder.push(id);
            generator.feed(backend, &[id]);
        }
        text += &decoder.finish();
        let (step, asked, text) = (trainer.counters().step, harmless(&asked), harmless(&text));
        Ok(self.say(&format!("--- sample after step {step}{asked} ---\n{text}\n---"))?)
    }

    fn save_best(&mut self, trainer: &Trainer) -> Result<(), ConsoleError> {
        let path = trainer.config().run.dir.join(BEST);
        let attachments = self.attachments();
        save_with(trainer.model(), trainer.backend(), &self.meta(trainer), &attachments, Extent::Weights, &path)?;
        Ok(())
    }

    fn go_back(&mut self, trainer: &mut Trainer, spike: &Spike) -> Result<bool, ConsoleError> {
        let (dir, train) = (trainer.config().run.dir.clone(), trainer.config().train.clone());
        let at = trainer.counters().step;
        let found = list(&dir)?;
        for (step, path) in found.iter().rev().filter(|(step, _)| *step < at && step % train.checkpoint_every == 0) {
            let checkpoint = match Checkpoint::open_sound(path) {
                Ok(checkpoint) => checkpoint,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error.into()),
            };
            // One that a signal left at such a step, amid spikes, would not be there in a run without signals.
            if !checkpoint.meta.watch.is_calm() || checkpoint.meta.counters.nonfinite_in_a_row > 0 {
                continue;
            }
            checkpoint.restore(trainer, &self.fingerprint)?;
            // The run that left them is no more.
            for (_, later) in found.iter().filter(|(later, _)| later > step) {
                std::fs::remove_file(later).map_err(|e| StoreError::io(later, "delete it", e))?;
            }
            self.metrics = metrics(trainer.config(), *step)?;
            let event = format!("{}; back to step {step}, its batch is left out", describe(at, spike));
            self.metrics.write(&Line { step: *step, event: Some(event.clone()), ..Line::default() })?;
            self.say(&event)?;
            self.heartbeat.begins(None);
            self.first_step = self.first_step.min(*step);
            return Ok(true);
        }
        Ok(false)
    }

    fn save(&mut self, trainer: &Trainer) -> Result<(), ConsoleError> {
        let config = trainer.config();
        let meta = self.meta(trainer);
        let path = checkpoint_path(&config.run.dir, trainer.counters().step);
        let attachments = self.attachments();
        save_with(trainer.model(), trainer.backend(), &meta, &attachments, Extent::Full, &path)?;
        self.heartbeat.begins(None);
        Ok(prune(&config.run.dir, &config.train)?)
    }
}

/// The beginning of a question, on one line.
fn first_words(text: &str) -> String {
    const SHOWN: usize = 80;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}

/// Share of the codes below which a run has trained little but norms and tables.
const HARDLY_ANY: f64 = 2e-3;

/// What became of the codes.
fn codes_line(changed: f64) -> String {
    let hint = match changed < HARDLY_ANY {
        true => {
            "; products read nothing else of them, so norms and tables did the learning: raise optimizer.lr, train longer, \
                 or set storage.weights=int8"
        }
        false => "",
    };
    format!("codes that changed since the start: {:.3} % of a sample of the blocks' matrices{hint}", 100.0 * changed)
}

/// The metrics of a run from a step on.
fn metrics(config: &Config, step: u64) -> Result<Metrics, StoreError> {
    let dir = &config.run.dir;
    let events = config.run.tensorboard.then(|| Events::create(dir, step)).transpose()?;
    Ok(Metrics::open(&dir.join("metrics.jsonl"), step)?.with_events(events))
}

/// Seconds since 1970, to the millisecond; nothing on a machine whose clock is before that.
fn now() -> Option<f64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(now.as_millis() as f64 / 1000.0)
}

/// Share of a run's steps whose gradient was scaled down; nothing if none ever is.
fn clipped_share(trainer: &Trainer) -> Option<f64> {
    let counters = trainer.counters();
    (trainer.config().optimizer.grad_clip > 0.0).then(|| counters.clipped_steps as f64 / counters.step.max(1) as f64)
}

/// A spike in words.
pub(super) fn describe(step: u64, spike: &Spike) -> String {
    let Spike { what, value, z } = spike;
    match z.is_nan() {
        true => format!("step {step}: {what} {value} is not finite"),
        false => format!("step {step}: {what} {value:.4} is {z:.1} deviations above the usual"),
    }
}
