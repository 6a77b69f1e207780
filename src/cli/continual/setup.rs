//! From the configuration of a sequence of tasks to its runs and texts.

use super::Args;
use super::choices::{Choices, Written};
use super::exact::Answers;
use super::score::Losses;
use crate::cli::Failure;
use crate::cli::device::Device;
use crate::cli::output::escape;
use crate::cli::signals::{Doing, Interrupts};
use crate::cli::train::start::{InitFrom, UNNAMED};
use std::path::{Path, PathBuf};
use tetrad::checkpoint::Adapted;
use tetrad::config::{Config, Method};
use tetrad::data::{Corpus, Packing, Prepared, Texts, Windows};

/// The configuration, and the base that everything begins with.
pub(super) struct Setup {
    pub config: Config,
    pub base: InitFrom,
}

impl Setup {
    /// Reads both.
    ///
    /// # Errors
    /// Mistakes in the configuration, a base that is none, and what a sequence of tasks needs and has not.
    pub fn read(args: &Args) -> Result<Self, Failure> {
        let base = base(args)?;
        let mut config = Config::load_tuning(base.base(), Some(&args.config), &args.sets)?;
        // Every task is scored in windows of one length.
        config.settle_shape();
        if config.run.dir == Path::new(UNNAMED) {
            let stem = Path::new(&args.config).file_stem().unwrap_or_default();
            config.run.dir = Path::new("runs").join(stem);
        }
        config.adapter.base = config.adapter.is_some().then(|| base.checkpoint.path().to_path_buf());
        let continual = &config.continual;
        if continual.task.is_empty() {
            return Err(format!("{}: names no task; write a [[continual.task]] for each", escape(&args.config)).into());
        }
        let adapts = continual.methods().iter().any(|method| *method != Method::Full);
        if adapts && !config.adapter.is_some() {
            return Err("adapter.kind: the methods but \"full\" train an adapter; set it to \"lora\"".into());
        }
        if let Some(task) = continual.task.iter().find(|task| config.task_steps(task) == 0) {
            return Err(format!("continual.task {:?}: has no steps; set its steps, or train.steps", task.name).into());
        }
        base.place_tokenizer(&mut config, false)?;
        for (method, number) in runs(&config) {
            config.task_run(method, number).validate()?;
        }
        Ok(Self { config, base })
    }
}

/// The base that `--from` or the file names.
fn base(args: &Args) -> Result<InitFrom, Failure> {
    let named = |text: &str| -> Option<PathBuf> {
        let table: toml::Table = text.parse().ok()?;
        table.get("adapter")?.get("base")?.as_str().map(PathBuf::from)
    };
    let set = args.sets.iter().rev().find_map(|set| set.strip_prefix("adapter.base="));
    let shown = escape(&args.config);
    let text = std::fs::read_to_string(&args.config).map_err(|e| format!("{shown}: cannot be read: {e}"))?;
    let path = args.from.clone().or_else(|| set.map(PathBuf::from)).or_else(|| named(&text));
    let path = path.ok_or_else(|| format!("{shown}: names no base; set adapter.base, or give --from FILE"))?;
    InitFrom::open(&path)
}

/// A held-out text.
pub(super) struct Held {
    pub windows: Windows,
    /// Whether a row may hold several samples.
    pub packing: bool,
}

impl Held {
    /// Samples that were longer than a row.
    pub fn truncated(&self) -> usize {
        self.windows.packings().map(|packing| packing.truncated).sum()
    }
}

/// Questions of a task, whose right answers are counted.
pub(super) enum Questions {
    /// A model chooses among a few answers.
    Chosen(Choices),
    /// A model writes the answer.
    Written(Answers),
}

impl Questions {
    /// The shares of right answers, by what predicts; at most `rows` rows of `sequence` tokens are scored at once where
    /// answers are written.
    ///
    /// # Errors
    /// A device that cannot be used or fails.
    pub fn accuracy(
        &self,
        model: &Adapted<'_>,
        (rows, sequence): (usize, usize),
        device: Device,
    ) -> Result<Losses, Failure> {
        match self {
            Self::Chosen(choices) => choices.accuracy(model, sequence, device),
            Self::Written(answers) => answers.accuracy(model, (rows, sequence), device),
        }
    }
}

/// All that models are scored on.
pub(super) struct HeldOut {
    /// The text of each task.
    pub tasks: Vec<Held>,
    /// The questions of those that have some.
    pub questions: Vec<Option<Questions>>,
    /// The base's own text.
    pub base: Option<Held>,
}

/// Every run: its method, and the number of its task.
pub(super) fn runs(config: &Config) -> Vec<(Method, usize)> {
    let of = |method: Method| {
        let count = if method == Method::Joint { 1 } else { config.continual.task.len() };
        (0..count).map(move |number| (method, number))
    };
    config.continual.methods().into_iter().flat_map(of).collect()
}

/// What all tasks are scored on; nothing if the user stopped.
///
/// # Errors
/// Texts that cannot be used, and tasks without held-out text.
pub(super) fn texts(config: &Config, interrupts: &Interrupts) -> Result<Option<HeldOut>, Failure> {
    interrupts.now(Doing::Preparing);
    let mut progress = crate::cli::progress::preparing(interrupts);
    let mut read = |config: &Config, what: &str| -> Result<Held, Failure> {
        let packing = Texts::find(&config.data)?.share_rows()?;
        let data = Prepared::new(&config.data, &config.tokenizer, config.model.vocab, &mut progress)?;
        let windows = data.windows(config.train.sequence, config.train.eval_sequences)?;
        let windows = windows.ok_or_else(|| {
            format!("{what}: has no held-out text; name some, or set data.validation_fraction above 0")
        })?;
        Ok(Held { windows, packing })
    };
    let (mut tasks, mut questions) = (Vec::new(), Vec::new());
    for (number, task) in config.continual.task.iter().enumerate() {
        let (mut run, what) = (config.task_run(Method::Ema, number), format!("continual.task {:?}", task.name));
        tasks.push(read(&run, &what)?);
        // A row for each sample, and all of them.
        (run.data.packing, run.train.eval_sequences) = (Packing::Pad, 0);
        questions.push(if !task.choices.is_empty() {
            let files = Corpus::resolve(&task.validation)?;
            let files: Vec<PathBuf> = files.inputs.iter().map(|input| input.name.clone()).collect();
            let written = Written::new(task, &files, &config.data.cache)?;
            run.data.validation = vec![written.path.to_string_lossy().into_owned()];
            Some(Questions::Chosen(written.questions(read(&run, &what)?)?))
        } else if task.exact {
            Some(Questions::Written(Answers::new(read(&run, &what)?, run.train.sequence)?))
        } else {
            None
        });
        if interrupts.stopped() {
            return Ok(None);
        }
    }
    let base = (!config.continual.base.is_empty()).then(|| {
        let mut own = config.task_run(Method::Ema, 0);
        (own.data.train, own.data.validation) = (config.continual.task[0].train.clone(), config.continual.base.clone());
        read(&own, "continual.base")
    });
    let base = base.transpose()?;
    interrupts.now(Doing::Nothing);
    Ok(Some(HeldOut { tasks, questions, base }))
}
