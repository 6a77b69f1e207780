//! What a training run shows and writes: the progress line, metrics, samples, checkpoints.

use super::header::most_tokens;
use super::heartbeat::Heartbeat;
use super::warnings;
use crate::cli::Failure;
use crate::cli::number::short;
use crate::cli::output::{escape, harmless, print, shell};
use crate::cli::units::{bytes, duration, rate as per_second};
use crate::cli::writing::text_prompt;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};
use tetrad::backend::profile::Profile;
use tetrad::checkpoint::{GENERATION_CONFIG, RunFolder, TOKENIZER_CONFIG};
use tetrad::config::{Config, OnSpike};
use tetrad::data::{Decoder, Prepared, SpecialTokens, Tokenizer};
use tetrad::error::{BackendError, CheckpointError, StoreError};
use tetrad::model::{Generator, Sampling, Weights};
use tetrad::optim::OptimizerConfig;
use tetrad::store::time;
use tetrad::train::{Line, Observer, Samples, Spike, StepReport, Trainer, Validation, Work, resident};

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
    /// Checkpoints and metrics.
    pub folder: RunFolder,
    bar: Option<ProgressBar>,
    tokenizer: Tokenizer,
    /// Where a text begins and ends, and whether anything came with the tokenizer that says so.
    special: (SpecialTokens, bool),
    bytes_per_token: Option<f64>,
    /// Rows of an epoch.
    rows: u64,
    tokens: usize,
    begun: Instant,
    first_step: u64,
    /// Whether it goes on from a checkpoint.
    resumed: bool,
    last_plain: Option<Instant>,
    /// Time spent in steps alone, and their number.
    stepping: (Duration, u64),
    last: Option<Validation>,
    /// Share of the codes that changed, by the last audit.
    changed_codes: Option<f64>,
    heartbeat: Heartbeat,
    /// Tokens a second that the device could train on at most, if that is known.
    most: Option<f64>,
    /// Is told when steps begin and end.
    pub profile: Option<Profile>,
}

impl Console {
    /// Opens the folder of a run at its current step; `attachments` go into every file: tokenizer, special tokens, chat
    /// template, end-of-text tokens.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn new(
        trainer: &Trainer,
        data: &Prepared,
        samples: &Samples,
        attachments: Vec<(&'static str, Vec<u8>)>,
    ) -> Result<Self, StoreError> {
        let (config, step) = (trainer.config(), trainer.counters().step);
        let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(config.train.steps).with_style(style));
        let heartbeat = Heartbeat::new(bar.clone(), trainer.model().passes.clone());
        let told = |name: &str| attachments.iter().find(|(found, _)| *found == name).map(|(_, json)| json.as_slice());
        let object = |name| told(name).and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
        let special = SpecialTokens::read(&data.tokenizer, &object(TOKENIZER_CONFIG), &object(GENERATION_CONFIG));
        let special = (special, told(TOKENIZER_CONFIG).is_some());
        Ok(Self {
            folder: RunFolder::open(trainer, &data.fingerprint, attachments)?,
            rows: samples.train.rows(),
            heartbeat,
            bar,
            tokenizer: data.tokenizer.clone(),
            special,
            bytes_per_token: data.bytes_per_token,
            tokens: config.train.batch * config.train.sequence,
            begun: Instant::now(),
            first_step: step,
            resumed: step > 0,
            last_plain: None,
            stepping: (Duration::ZERO, 0),
            last: None,
            changed_codes: None,
            most: most_tokens(trainer),
            profile: None,
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

    /// A rate, and its share of what the device could do at most where that is known.
    fn speed(&self, rate: f64) -> String {
        let share = self.most.map_or_else(String::new, |most| format!(" ({:.1} % of the most)", 100.0 * rate / most));
        format!("{}{share}", per_second(rate))
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
            self.speed(rate),
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

    /// Steps that were trained.
    pub fn steps(&self) -> u64 {
        self.stepping.1
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
                    self.speed(rate),
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
            let config = trainer.config();
            if let Some(line) = self.changed_codes.map(|share| codes_line(config, share, self.resumed)) {
                writeln!(out, "{line}")?;
            }
            let shown = |path: &Path| escape(&path.to_string_lossy());
            writeln!(out, "weights: {}    other outputs: {}/", shown(model), shown(&config.run.dir))?;
            let model = shell(model);
            let file = match &config.adapter.base {
                Some(base) => format!("{} --adapter {model}", shell(base)),
                None => model.clone(),
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
        if let (Some(profile), Work::Step { .. }) = (&self.profile, work) {
            profile.begin_step(step + 1);
        }
    }

    fn on_step(&mut self, trainer: &Trainer, report: &StepReport, took: Duration) -> Result<(), ConsoleError> {
        self.profile.iter().for_each(Profile::end_step);
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
        self.folder.write(&line)?;
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
        self.folder.write(&line)?;
        let (step, loss) = (validation.step, validation.loss);
        let perplexity = loss.exp();
        let bits = bits.map_or_else(String::new, |bits| format!("  {bits:.4} bits per byte"));
        Ok(self.say(&format!("step {step}  validation loss {loss:.4}  perplexity {perplexity:.3}{bits}"))?)
    }

    fn sample(&mut self, trainer: &mut Trainer) -> Result<(), ConsoleError> {
        let config = trainer.config();
        let (start, opening) = (config.sample_text(), config.data.opening.clone());
        let (vocab, tokens) = (config.model.vocab, config.train.sample_tokens);
        let (special, came) = &self.special;
        // A template writes out what a text begins with.
        let encoded = match opening.as_ref().is_some_and(|opening| opening.question.is_some()) {
            true => self.tokenizer.encode(start),
            false => text_prompt(start, &self.tokenizer, special, *came),
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
        let step = trainer.counters().step;
        let line = Line { step, time: now(), sample: Some(text.clone()), asked: question, ..Line::default() };
        self.folder.write(&line)?;
        let (asked, text) = (harmless(&asked), harmless(&text));
        Ok(self.say(&format!("--- sample after step {step}{asked} ---\n{text}\n---"))?)
    }

    fn save_best(&mut self, trainer: &Trainer) -> Result<(), ConsoleError> {
        Ok(self.folder.save_best(trainer)?)
    }

    fn go_back(&mut self, trainer: &mut Trainer, spike: &Spike) -> Result<bool, ConsoleError> {
        let at = trainer.counters().step;
        let Some(step) = self.folder.go_back(trainer)? else { return Ok(false) };
        let event = format!("{}; back to step {step}, its batch is left out", describe(at, spike));
        self.folder.write(&Line { step, event: Some(event.clone()), ..Line::default() })?;
        self.say(&event)?;
        self.heartbeat.begins(None);
        self.first_step = self.first_step.min(step);
        Ok(true)
    }

    fn save(&mut self, trainer: &Trainer) -> Result<(), ConsoleError> {
        self.folder.save(trainer)?;
        self.heartbeat.begins(None);
        Ok(())
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

/// What became of the codes, which a resumed run compares with those that it went on from.
fn codes_line(config: &Config, changed: f64, resumed: bool) -> String {
    let hint = match changed < HARDLY_ANY {
        true => format!(
            "; products read only the codes, so norms and tables did the learning: {}",
            hardly_moves(config, HARDLY_ANY / changed.max(HARDLY_ANY / 2.0))
        ),
        false => String::new(),
    };
    let since = if resumed { "it was resumed" } else { "the start" };
    format!("codes that changed since {since}: {:.3} % of a sample of the blocks' matrices{hint}", 100.0 * changed)
}

/// What to do where codes hardly move, and rates would have to be `times` as high: which is no advice where a rate of
/// fine-tuning would be too high then.
pub(super) fn hardly_moves(config: &Config, times: f64) -> String {
    let usual = OptimizerConfig::of(config.optimizer.name).for_tuning().lr;
    let mut ways = vec!["train longer"];
    if config.optimizer.lr * times < warnings::FAR * usual {
        ways.insert(0, "raise optimizer.lr");
    }
    if config.storage.weights != Weights::Int8 {
        ways.push("or set storage.weights=int8");
    }
    ways.join(", ")
}

/// Seconds since 1970, to the millisecond.
fn now() -> Option<f64> {
    Some(time().as_millis() as f64 / 1000.0)
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
