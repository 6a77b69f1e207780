//! `tetrad train`.

mod header;
mod observer;
mod start;

use super::device::{self, Device, OpenDevice};
use super::number::short;
use super::output::escape;
use super::{CliResult, Failure, budget, pool};
use observer::Console;
use signal_hook::consts::{SIGINT, SIGTERM};
use start::InitFrom;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tetrad::backend::DeviceInfo;
use tetrad::checkpoint::{Checkpoint, Extent, MODEL, Meta, TOKENIZER_CONFIG, clear, latest, list, save_with};
use tetrad::config::Config;
use tetrad::data::{Prepared, TokenizerConfig, shares_rows};
use tetrad::error::StoreError;
use tetrad::store::{Lock, remove_stale};
use tetrad::train::{Observer, Samples, StopReason, Trainer, plan, run as run_steps, smallest};

/// Train a model.
///
/// Without CONFIG: the built-in quick-start, a byte-level LLaMA on the bundled text. CONFIG is a preset (quickstart,
/// 60m, 130m, 350m, 1b, 3b, 7b; with the most compact optimizer state: compact, 60m-compact and so on) or a TOML
/// file. SIGINT and SIGTERM finish the current step and save; a second signal ends the process at once.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Preset or TOML file.
    config: Option<String>,
    /// Override a key, as in `--set train.steps=100`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Continue from a checkpoint: the newest in run.dir (`auto`; a new run if there is none), or PATH.
    #[arg(long, value_name = "auto|PATH", num_args = 0..=1, default_missing_value = "auto")]
    resume: Option<String>,
    /// Start from the weights of this model, imported or trained. Its [model] and [storage] are the base of the
    /// configuration, and its tokenizer is used.
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    from: Option<PathBuf>,
    /// Start anew in a run.dir that already holds a run; its checkpoints and weights are deleted.
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// Save and stop after this step, as a signal would; the schedule still spans train.steps.
    #[arg(long, value_name = "STEP")]
    stop_at: Option<u64>,
    /// Pick unset options so that the run fits into SIZE of the device's memory, or refuse: bytes, KiB, MiB, GiB, or 90%
    /// of the free memory. Default: the free memory.
    #[arg(long, value_name = "SIZE")]
    budget: Option<String>,
    /// Where to compute: auto (a GPU if one can be used), cpu, cuda, cuda:N.
    #[arg(long, value_name = "DEVICE", env = "TETRAD_DEVICE", default_value = "auto")]
    device: Device,
    /// Print the resolved configuration and stop.
    #[arg(long)]
    dry_run: bool,
}

/// Runs `tetrad train`.
///
/// # Errors
/// Invalid configuration or data, before step 0; errors of the file system; a run that diverges.
pub fn run(args: Args) -> CliResult {
    let model = args.from.as_deref().map(InitFrom::open).transpose()?;
    let base = model.as_ref().map_or_else(Config::default, InitFrom::base);
    let mut config = Config::load_over(base, args.config.as_deref(), &args.sets)?;
    if let Some(model) = &model {
        model.place_tokenizer(&mut config, args.dry_run)?;
    }
    if args.dry_run {
        super::output::print(|out| write!(out, "{}", config.to_toml()))?;
        return Ok(ExitCode::SUCCESS);
    }
    pool::run(config.run.threads, || {
        config.data.packed = shares_rows(&config.data)?;
        train(&config, &args, model.as_ref())
    })?
}

fn train(config: &Config, args: &Args, model: Option<&InitFrom>) -> CliResult {
    let stop = stop_flag()?;
    // Before any text is read, which may take long.
    let Chosen { opened, config: chosen, said } = open_device(config, args)?;
    // Unset options stay unset in the run's folder: another machine may choose differently, for the same bytes.
    let (given, config) = (config, &chosen);
    let device = opened.describe();
    let data = Prepared::new(&config.data, &config.tokenizer, config.model.vocab, &mut super::progress::preparing())?;
    let samples = Samples {
        train: data.batches(config.train.sequence, config.run.seed)?,
        validation: data.windows(config.train.sequence, config.train.eval_sequences)?,
    };
    let dir = config.run.dir.as_path();
    make_folder(dir)?;
    let _lock = Lock::acquire(dir.join(".lock"))?;
    remove_stale(dir)?;
    // All checks come before an old run is deleted.
    let from = match starting_point(args, dir)? {
        Some(path) => Some(open(&path, config, &data, dir)?),
        None => None,
    };
    if let (None, Some(model)) = (&from, model) {
        model.checkpoint.check_weights(config)?;
    }
    let mut trainer = Trainer::new(config, opened.backend)?;
    if args.overwrite {
        clear(dir)?;
    }
    match (&from, model) {
        (Some(checkpoint), _) => checkpoint.restore(&mut trainer, &data.fingerprint)?,
        (None, Some(model)) => model.checkpoint.start(&mut trainer)?,
        (None, None) => trainer.initialize(),
    }
    let origin = from.as_ref().or(model.map(|model| &model.checkpoint));
    header::print_header(&trainer, &device, &samples, origin, from.is_some(), said.as_deref())?;
    let resolved = dir.join("config.toml");
    std::fs::write(&resolved, given.to_toml()).map_err(|e| StoreError::io(&resolved, "write it", e))?;
    let mut console = Console::new(&trainer, &data)?;
    console.companions = companions(config, origin, &data)?;
    if from.is_none() {
        // Finds a full or read-only disk now rather than in an hour, and leaves a checkpoint from before the first steps
        // in case they already diverge.
        console.save(&trainer)?;
    }
    let until = args.stop_at.unwrap_or(u64::MAX);
    let reason = run_steps(&mut trainer, &samples, until, &stop, &mut console)?;
    console.finish();
    finish(&trainer, &data, reason, &console)
}

fn finish(trainer: &Trainer, data: &Prepared, reason: StopReason, console: &Console) -> CliResult {
    let dir = &trainer.config().run.dir;
    match reason {
        StopReason::Finished => {
            let path = dir.join(MODEL);
            let meta =
                Meta::new(trainer.config(), trainer.counters(), data.tokenizer.json().is_some(), &data.fingerprint);
            let attachments = console.attachments();
            save_with(trainer.model(), trainer.backend(), &meta, &attachments, Extent::Weights, &path)?;
            console.summarize(trainer, &path)?;
            Ok(ExitCode::SUCCESS)
        }
        StopReason::Stopped => {
            super::output::print(|out| {
                let (step, config) = (trainer.counters().step, dir.join("config.toml"));
                let config = escape(&config.to_string_lossy());
                writeln!(out, "stopped after step {step}, saved; continue with `tetrad train {config} --resume`")
            })?;
            Ok(ExitCode::SUCCESS)
        }
        StopReason::NotFinite => {
            let last = latest(dir)?.map_or_else(|| "none".into(), |path| escape(&path.to_string_lossy()));
            Err(format!(
                "{} steps in a row had a loss or gradient that was not finite (train.max_nonfinite = {}); the last \
                 checkpoint from before them is {last}; lower optimizer.lr and resume from it",
                trainer.counters().nonfinite_in_a_row,
                trainer.config().train.max_nonfinite
            )
            .into())
        }
        StopReason::Unmoved { steps } => Err(format!(
            "no weight of the blocks changed in the last {steps} steps, though their learning rates were up to {} \
             (train.max_unmoved = {}): updates are too small for the storage; raise optimizer.lr, or set \
             train.max_unmoved=0 to go on",
            short(trainer.config().optimizer.lr),
            trainer.config().train.max_unmoved
        )
        .into()),
        StopReason::FrozenMoved => {
            Err("weights changed in a run with optimizer.lr = 0, which must leave every byte as it \
                                        was; this is a defect of the program, please report it with the configuration"
                .into())
        }
    }
}

/// What belongs to the tokenizer that the samples were made with: the files that `origin` carries if it is that model's
/// own, else the file beside it; with the chat template that the run is trained with.
fn companions(
    config: &Config,
    origin: Option<&Checkpoint>,
    data: &Prepared,
) -> Result<Vec<(&'static str, Vec<u8>)>, Failure> {
    let own = origin.filter(|origin| origin.tokenizer().as_deref() == data.tokenizer.json());
    let mut found = own.map(Checkpoint::companions).unwrap_or_default();
    if found.is_empty() {
        let read = |file: &Path| std::fs::read(TokenizerConfig::path(file)).ok();
        let beside = config.tokenizer.file.as_deref().and_then(read);
        found.extend(beside.map(|bytes| (TOKENIZER_CONFIG, bytes)));
    }
    let trained = TokenizerConfig::of(config.tokenizer.file.as_deref(), config.data.chat_template.as_deref())?;
    let Some(template) = trained.template() else { return Ok(found) };
    let at = found.iter().position(|(name, _)| *name == TOKENIZER_CONFIG);
    let saved = at.map(|at| TokenizerConfig::parse(TOKENIZER_CONFIG, &found[at].1)).transpose()?;
    if saved.as_ref().and_then(TokenizerConfig::template) != Some(template) {
        let json = at.map_or_else(Vec::new, |at| found.remove(at).1);
        let mut map: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&json).unwrap_or_default();
        map.insert("chat_template".into(), template.into());
        found.push((TOKENIZER_CONFIG, serde_json::to_vec_pretty(&map).expect("a JSON value is JSON")));
    }
    Ok(found)
}

/// The checkpoint to resume, if any.
fn starting_point(args: &Args, dir: &Path) -> Result<Option<PathBuf>, Failure> {
    match args.resume.as_deref() {
        Some("auto") => Ok(latest(dir)?),
        Some(path) => Ok(Some(path.into())),
        None if args.overwrite => Ok(None),
        None => match latest(dir)? {
            None => Ok(None),
            Some(path) => Err(format!(
                "{}: this folder holds a run already; continue it with --resume, start anew with --overwrite, or choose \
                 another folder with --set run.dir=...",
                escape(&path.to_string_lossy())
            )
            .into()),
        },
    }
}

fn make_folder(dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir).map_err(|e| {
        let shown = escape(&dir.to_string_lossy());
        match std::fs::metadata(dir) {
            Ok(found) if !found.is_dir() => format!("{shown}: not a folder; name another with --set run.dir=..."),
            _ => format!("{shown}: cannot be created: {e}; name another folder with --set run.dir=..."),
        }
        .into()
    })
}

/// Opens the checkpoint to resume and checks that it belongs to this run.
fn open(path: &Path, config: &Config, data: &Prepared, dir: &Path) -> Result<Checkpoint, Failure> {
    let checkpoint = Checkpoint::open(path)?;
    checkpoint.check_run(config, &data.fingerprint)?;
    checkpoint.verify()?;
    // The next --resume would take them for the newest of this run, and pruning would keep them instead of its own.
    match list(dir)?.pop() {
        Some((step, later)) if step > checkpoint.meta.counters.step => Err(format!(
            "{}: is at step {}, but {} holds later checkpoints, up to step {step}; move them away or choose another \
             folder with --set run.dir=...",
            escape(&path.to_string_lossy()),
            checkpoint.meta.counters.step,
            escape(&later.parent().unwrap_or(dir).to_string_lossy()),
        )
        .into()),
        _ => Ok(checkpoint),
    }
}

/// An open device, and the configuration with unset options chosen to fit it.
struct Chosen {
    opened: OpenDevice,
    config: Config,
    /// What was chosen and why, unless it is the fastest choice.
    said: Option<String>,
}

/// Opens the device and picks unset options. Refuses a run that is larger than its budget or than the free memory,
/// which is better than being killed halfway.
fn open_device(config: &Config, args: &Args) -> Result<Chosen, Failure> {
    let budget = args.budget.as_deref().map(budget::parse).transpose().map_err(|e| format!("--budget {e}"))?;
    // With the smallest plan: the choice itself is made for the memory of the device.
    let opened = device::open(args.device, &config.model, |sizes| least(config, sizes))?;
    let sizes: &dyn DeviceInfo = opened.backend.as_ref();
    let free = budget::free(sizes);
    let wanted = budget.map(|budget| budget.bytes(sizes).map_err(|e| format!("--budget {e}"))).transpose()?;
    let (device, limit) = match (wanted, free) {
        (Some(wanted), Some(free)) if wanted > free => (free, "free are"),
        (Some(wanted), _) => (wanted, "the budget is"),
        (None, free) => (free.unwrap_or(u64::MAX), "free are"),
    };
    let (config, said) = budget::resolve(config, sizes, &budget::limits(sizes, device), limit)?;
    Ok(Chosen { opened, config, said })
}

/// Bytes of device memory of the smallest plan that the configuration allows.
fn least(config: &Config, sizes: &dyn DeviceInfo) -> u64 {
    smallest(config, sizes).map_or(u64::MAX, |config| plan(&config, sizes).0.total() as u64)
}

/// A flag that the first SIGINT or SIGTERM sets; the second ends the process at once.
fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: at the first signal the flag is not yet set when the shutdown looks at it.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}
