//! `tetrad train`.

mod finish;
mod folder;
pub(super) mod gpus;
pub(super) mod header;
mod heartbeat;
pub(super) mod last_words;
mod observer;
pub(super) mod origin;
mod profiling;
pub(super) mod ranks;
pub(super) mod stage;
pub(super) mod start;
mod warnings;

use super::budget::Bound;
use super::device::{Device, OpenDevice};
use super::model_file::model_file;
use super::output::escape;
use super::overrides::Overrides;
use super::signals::{Doing, Interrupts};
use super::{CliResult, Failure, budget, pool};
use folder::{make_folder, refuse_foreign, refuse_second_run};
use observer::Console;
use origin::Origin;
use profiling::Profiling;
use ranks::{Follower, Joined};
use start::InitFrom;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tetrad::backend::DeviceInfo;
use tetrad::checkpoint::{
    Checkpoint, Newest, Resume, TOKENIZER, TOKENIZER_CONFIG, clear, contribute, finished, write_record,
};
use tetrad::config::{Config, RECORD, TrainConfig};
use tetrad::data::{Prepared, TokenizerConfig};
use tetrad::error::{CheckpointError, DataError, StoreError};
use tetrad::store::{Lock, remove_stale};
use tetrad::train::{Observer, Samples, Trainer, check_ranks, plan, run as run_steps, smallest};

/// Train a model.
///
/// Without CONFIG: the built-in quick-start, a byte-level LLaMA on the bundled text. CONFIG is a preset (quickstart,
/// 60m, 130m, 350m, 1b, 3b, 7b; with the most compact optimizer state: compact, 60m-compact and so on), a TOML file, or
/// the folder of a run. SIGINT, SIGTERM and SIGUSR1 finish the current step and save; another one, a second later or more,
/// ends the process at once. Started by mpirun, mpiexec or srun, or on GPUs by torchrun, several processes share each batch.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Preset, TOML file, or a run: its folder, its config.toml or (with --resume) one of its checkpoints.
    config: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
    /// Continue from a checkpoint: the newest sound one in run.dir (`auto`; a new run if there is none), or PATH, a
    /// checkpoint or the folder of a run. Without CONFIG, PATH also gives the configuration.
    #[arg(long, value_name = "auto|PATH", num_args = 0..=1, default_missing_value = "auto")]
    resume: Option<String>,
    /// Start from the weights of this model, imported or trained: a file, or the folder of a finished run. Its [model] and [storage] are the base of the
    /// configuration, and its tokenizer is used. What is not set is as usual for fine-tuning: a twentieth of the rule's
    /// rate, three epochs, rows and batches that fit the text, and a folder named after the model and the text. With
    /// --resume: unless there is a checkpoint already.
    #[arg(long, value_name = "FILE", value_parser = model_file())]
    from: Option<PathBuf>,
    /// Train an adapter beside the model of --from, which stays as it is: lora, prefix, bottleneck, or a trained adapter, its FILE
    /// or the folder of its finished run, to go on from its weights. Keys are in [adapter].
    #[arg(long, value_name = "KIND|FILE")]
    adapter: Option<String>,
    /// Start anew in a run.dir that already holds a run; its checkpoints and weights are deleted.
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// Save and stop after this step, as a signal would; the schedule still spans train.steps.
    #[arg(long, value_name = "STEP")]
    stop_at: Option<u64>,
    /// Pick unset options so that the run fits into SIZE of the device's memory, or refuse: bytes, KiB, MiB, GiB, GB, or
    /// 90% of the free memory. Default: the free memory.
    #[arg(long, value_name = "SIZE")]
    budget: Option<String>,
    /// Where to compute: auto (a GPU if one can be used), cpu, cuda (of several processes on a machine each on its own GPU),
    /// cuda:N.
    #[arg(long, value_name = "DEVICE", env = "TETRAD_DEVICE", default_value = "auto")]
    device: Device,
    /// Note how long each operation takes, on a CPU: a table of the steps is printed at the end, and FILE
    /// (run.dir/profile.json) is a trace for chrome://tracing and Perfetto.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    profile: Option<Option<PathBuf>>,
    /// Print the resolved configuration and stop.
    #[arg(long)]
    dry_run: bool,
}

/// Runs `tetrad train`.
///
/// # Errors
/// Invalid configuration or data, before step 0; errors of the file system; a run that diverges.
pub fn run(args: Args) -> CliResult {
    let interrupts = Interrupts::watch()?;
    // A run that goes on does not need the model that it was started from.
    let needless = |path: &&Path| args.resume.is_some() && !path.exists();
    let mut model = args.from.as_deref().filter(|path| !needless(path)).map(InitFrom::open).transpose()?;
    let mut origin = Origin::read(&args, model.as_ref())?;
    if let (None, Some(base)) = (&model, &origin.config.adapter.base) {
        // What the configuration leaves out of [model] and [storage] is the base's.
        model = Some(InitFrom::open(base).map_err(|error| moved_base(error, base))?);
        origin = Origin::read(&args, model.as_ref())?;
    }
    let Origin { mut config, resume, textless } = origin;
    if !config.continual.task.is_empty() {
        return Err("continual.task: tasks are trained by `tetrad continual`, which takes this configuration".into());
    }
    let adapter = beside(&args, &mut config)?;
    if args.dry_run {
        args.budget.as_deref().map(budget::parse).transpose().map_err(|e| format!("--budget {e}"))?;
        if let Some(model) = &model {
            model.place_tokenizer(&mut config, true)?;
        }
        if ranks::speaker().is_empty() {
            super::output::print(|out| write!(out, "{}", config.to_toml()))?;
            if config.train.is_open() {
                eprintln!(
                    "note: train.steps, train.batch and train.sequence follow from the text where they are 0; a dry run does not read it"
                );
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut joined = match Joined::open(&config, args.device) {
        Ok(joined) => joined,
        Err(error) => return ranks::unjoined(error),
    };
    config.run.ranks = joined.ranks.size();
    interrupts.set_quiet(!joined.leads());
    let asked = Asked { args: &args, model: model.as_ref(), adapter: adapter.as_ref(), textless, chained: false };
    let outcome = joined.take_gpus(args.device).and_then(|()| begin(config, resume, &asked, &joined, &interrupts));
    joined.end(outcome)
}

/// What to do where the base of a run's adapter is gone from where it was.
fn moved_base(error: Failure, base: &Path) -> Failure {
    match base.exists() {
        true => error,
        false => format!("{error}; the run's adapter was trained beside it: if it was moved, name it with --from FILE")
            .into(),
    }
}

/// What the command line names besides the configuration.
struct Asked<'a> {
    args: &'a Args,
    /// The model that the run starts from, or the base of its adapter.
    model: Option<&'a InitFrom>,
    /// The adapter that it starts from.
    adapter: Option<&'a InitFrom>,
    /// Whether the configuration is that of a checkpoint alone.
    textless: bool,
    /// Whether another command asked for the run, which says itself how it goes on.
    chained: bool,
}

/// From the configuration to the end of the run.
fn begin(
    mut config: Config,
    resume: Option<Resume>,
    asked: &Asked<'_>,
    joined: &Joined,
    interrupts: &Interrupts,
) -> CliResult {
    let Asked { args, model, .. } = *asked;
    // Before its checkpoints are looked at.
    let lock = match (&resume, config.run.dir.is_dir() && joined.leads()) {
        (Some(_), true) => Some(Lock::acquire(config.run.dir.join(".lock"))?),
        _ => None,
    };
    let start = resume.map(|resume| resume.find(&config.run.dir)).transpose()?.flatten();
    match (&start, model) {
        (Some(start), model) => {
            start.checkpoint.complete(&mut config)?;
            if let Some(base) = model.filter(|_| config.adapter.is_some()) {
                base.place_tokenizer(&mut config, false)?;
            }
        }
        (None, Some(model)) => model.place_tokenizer(&mut config, false)?,
        (None, None) => {
            if let Some(path) = &args.from {
                return Err(StoreError::Missing { path: path.clone() }.into());
            }
        }
    }
    pool::run(joined.threads(config.run.threads), || {
        config.look_at_files()?;
        train(Run { config: &config, asked, joined, interrupts }, start, lock)
    })?
}

/// The adapter that `--adapter` names if it is a file; `config` gets the base that `--from` names.
///
/// # Errors
/// An adapter without a base.
fn beside(args: &Args, config: &mut Config) -> Result<Option<InitFrom>, Failure> {
    if !config.adapter.is_some() {
        return Ok(None);
    }
    if let Some(from) = &args.from {
        if from.to_str().is_none() {
            return Err(
                format!("--from {}: a run's configuration names the base, and only as UTF-8", from.display()).into()
            );
        }
        config.adapter.base = Some(from.clone());
    }
    if config.adapter.base.is_none() {
        let kind = "an adapter is trained beside a model that exists";
        return Err(format!("adapter.kind: {kind}; name its file with --from FILE or adapter.base").into());
    }
    let file = args.adapter.as_deref().map(origin::adapter_file).transpose()?.flatten();
    let file = file.as_deref().map(InitFrom::open).transpose()?;
    if file.as_ref().is_some_and(|file| file.checkpoint.meta.has_offline()) {
        eprintln!("note: the run goes on from the online module; the offline one of that file is left out");
    }
    Ok(file)
}

/// What a run is asked to be, and by whom it is done.
struct Run<'a> {
    config: &'a Config,
    asked: &'a Asked<'a>,
    joined: &'a Joined,
    interrupts: &'a Interrupts,
}

fn train(run: Run<'_>, mut start: Option<Newest>, lock: Option<Lock>) -> CliResult {
    let Run { config, asked, joined, interrupts } = run;
    let Asked { args, model, adapter, textless, chained } = *asked;
    // Before any text is read, which may take long, if the text does not decide the size of a step.
    let shaped = config.train.batch > 0 && config.train.sequence > 0;
    let early = shaped.then(|| open_device(config, args, joined)).transpose()?;
    interrupts.now(Doing::Preparing);
    let mut progress = super::progress::preparing(interrupts);
    let prepare = || Prepared::new(&config.data, &config.tokenizer, config.model.vocab, &mut progress);
    let interrupted =
        |data: &Result<_, DataError>| matches!(data, Err(DataError::Interrupted { .. })) || interrupts.stopped();
    let Some(data) = joined.in_turn(prepare, interrupted)? else { return stopped_early(joined) };
    interrupts.now(Doing::Training);
    // What follows from the text is written to the run's folder. Options that the machine decides stay unset there:
    // another machine may choose differently, for the same bytes.
    let mut given = config.clone();
    let batches = given.settle(&data)?;
    given.validate()?;
    check_ranks(&given)?;
    let given = &given;
    let Chosen { opened, config: mut chosen, said } = match early {
        Some(chosen) => chosen,
        None => open_device(given, args, joined)?,
    };
    chosen.train = TrainConfig { micro_batch: chosen.train.micro_batch, ..given.train.clone() };
    let config = &chosen;
    let device = opened.describe();
    let from_step = start.as_ref().map(|start| start.checkpoint.meta.counters.step);
    let samples =
        Samples { train: batches, validation: data.windows(config.train.sequence, config.train.eval_sequences)? };
    if samples.validation.is_none() {
        warnings::check_watched(&config.train)?;
    }
    let dir = config.run.dir.as_path();
    // Nobody but rank 0 writes, and not before all have found what they start from.
    let _lock = if joined.leads() {
        make_folder(dir)?;
        let lock = lock.map_or_else(|| Lock::acquire(dir.join(".lock")), Ok)?;
        remove_stale(dir)?;
        Some(lock)
    } else {
        None
    };
    joined.compare(config, &data.fingerprint, from_step, &opened.backend.describe())?;
    // All checks come before an old run is deleted.
    if joined.leads() && !args.overwrite {
        refuse_foreign(dir)?;
    }
    match &mut start {
        Some(start) => {
            start.checkpoint.check_run(config, &data.fingerprint).map_err(|error| name_texts(error, textless))?;
            if joined.leads() {
                start.check_last(dir)?;
            }
        }
        None if joined.leads() => refuse_second_run(args, dir)?,
        None => {}
    }
    let base = model.filter(|_| config.adapter.is_some());
    if let Some(model) = if start.is_none() { model } else { base } {
        model.checkpoint.check_weights(config).map_err(origin::of_file)?;
    }
    if let (None, Some(adapter), Some(base)) = (&start, adapter, base) {
        base.checkpoint.check_adapter(&adapter.checkpoint)?;
        adapter.checkpoint.check_weights(config).map_err(origin::of_file)?;
    }
    let frozen = base.map(|base| base.checkpoint.base()).transpose()?;
    let profiling = args.profile.as_ref().filter(|_| joined.leads());
    let profiling =
        profiling.map(|file| Profiling::begin(file.as_deref(), dir, opened.backend.as_ref())).transpose()?;
    let backend = match &profiling {
        Some(profiling) => profiling.profile.watch(opened.backend),
        None => opened.backend,
    };
    let mut trainer = Trainer::with_ranks(config, frozen, joined.ranks.clone(), backend)?;
    if !trainer.backend().in_place() {
        // What does not fit is found out now, before an old run is deleted.
        trainer.rehearse()?;
    }
    if args.overwrite && joined.leads() {
        clear(dir)?;
    }
    match (&start, model) {
        (Some(start), _) => {
            start.checkpoint.restore(&mut trainer, &data.fingerprint)?;
            if joined.leads() {
                set_aside(start)?;
            }
        }
        (None, _) if let Some(adapter) = adapter => adapter.checkpoint.start(&mut trainer)?,
        (None, Some(model)) if base.is_none() => {
            model.checkpoint.start(&mut trainer)?;
            if joined.leads() {
                header::storage_note(&model.checkpoint.meta.storage, &config.storage);
            }
        }
        (None, _) => trainer.initialize(),
    }
    let until = args.stop_at.unwrap_or(u64::MAX);
    if let Some(warning) = args.stop_at.and_then(|until| warnings::stop_at(until, from_step, config.train.steps))
        && joined.leads()
    {
        eprintln!("warning: {warning}");
    }
    if !joined.leads() {
        if start.is_none() {
            contribute(&trainer)?;
        }
        // Why it ended is told, with its status, by rank 0.
        run_steps(&mut trainer, &samples, until, &interrupts.stop, &mut Follower)?;
        return Ok(ExitCode::SUCCESS);
    }
    let device = format!("{device}{}", joined.describe());
    let from = start.as_ref().map(|start| &start.checkpoint);
    let origin = from.or(model.map(|model| &model.checkpoint));
    header::print_header(&trainer, &device, &samples, origin, from.is_some(), said.as_deref())?;
    if from.is_none() {
        let tunes = model.is_some();
        note_repeated(&data);
        warnings::warnings(config, tunes, &data, &samples).iter().for_each(|warning| eprintln!("warning: {warning}"));
    }
    let (step, train) = (trainer.counters().step, &config.train);
    if step < until.min(train.steps) && !trainer.watch().is_out_of_patience(train) {
        finish::retire(dir, step)?;
    }
    // Where nothing will be trained the record is that of what was.
    if finished(dir).is_none() {
        write_record(given)?;
    }
    let mut attachments: Vec<_> = data.tokenizer.json().map(|json| (TOKENIZER, json.to_vec())).into_iter().collect();
    attachments.extend(companions(config, origin, &data)?);
    let mut console = Console::new(&trainer, &data, &samples, attachments)?;
    console.profile = profiling.as_ref().map(|profiling| profiling.profile.clone());
    if from.is_none() {
        // Finds a full or read-only disk now rather than in an hour, and leaves a checkpoint from before the first steps
        // in case they already diverge.
        console.save(&trainer)?;
    }
    let reason = run_steps(&mut trainer, &samples, until, &interrupts.stop, &mut console)?;
    console.finish();
    let status = finish::finish(&trainer, reason, (&console, chained))?;
    if let Some(profiling) = &profiling {
        profiling.end()?;
    }
    Ok(status)
}

/// The end of a run that was asked to stop before it took a step.
fn stopped_early(joined: &Joined) -> CliResult {
    let said = "stopped while text was prepared; the same command goes on from there, nothing is prepared twice";
    if joined.leads() {
        super::output::print(|out| writeln!(out, "{said}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Gives damaged checkpoints other names, and says so.
fn set_aside(start: &Newest) -> Result<(), StoreError> {
    let from = start.checkpoint.path().to_string_lossy();
    for (name, error) in start.set_aside()? {
        eprintln!("note: {}", escape(&error.to_string()));
        eprintln!("note: it is kept as {}; the run goes on from {}", escape(&name.to_string_lossy()), escape(&from));
    }
    Ok(())
}

/// The configuration of a checkpoint alone does not say what it was trained on.
fn name_texts(error: CheckpointError, textless: bool) -> Failure {
    match error {
        CheckpointError::Differs { path, key, .. } if textless && key.contains("text") => format!(
            "{}: a checkpoint does not hold the texts that it was trained on, and no {RECORD} lies beside it; name them \
             with --set data.train=..., and other keys of [data] where they were set",
            escape(&path.to_string_lossy())
        )
        .into(),
        error => error.into(),
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
    // SentencePiece's model says it itself, and the tokenizer.json that is made of it cannot.
    if found.is_empty() && trained.eos().is_some() {
        let told = serde_json::json!({
            "bos_token": trained.bos(), "eos_token": trained.eos(), "add_bos_token": trained.add_bos(),
        });
        found.push((TOKENIZER_CONFIG, told.to_string().into_bytes()));
    }
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

/// Says of files that are named twice that they are read once, and how a text is seen more often.
pub(super) fn note_repeated(data: &Prepared) {
    for told in &data.repeated {
        let advice = "to train on a text more often, give it a weight in a [[data.source]] table";
        eprintln!("note: {}; {advice}", escape(told));
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
fn open_device(config: &Config, args: &Args, joined: &Joined) -> Result<Chosen, Failure> {
    let budget = args.budget.as_deref().map(budget::parse).transpose().map_err(|e| format!("--budget {e}"))?;
    // With the smallest plan: the choice itself is made for the memory of the device.
    let opened = joined.device(args.device, &config.model, |sizes| least(config, sizes))?;
    let sizes: &dyn DeviceInfo = opened.backend.as_ref();
    let free = joined.free(budget::free(sizes))?;
    let wanted = budget.map(|budget| budget.bytes(sizes).map_err(|e| format!("--budget {e}"))).transpose()?;
    let (device, bound) = match (wanted, free) {
        (Some(wanted), Some(free)) if wanted > free => (free, Bound::Free),
        (Some(wanted), _) => (wanted, Bound::Budget),
        (None, free) => (free.unwrap_or(u64::MAX), Bound::Free),
    };
    let (config, said) = budget::resolve(config, sizes, &budget::limits(sizes, device), bound)?;
    Ok(Chosen { opened, config, said })
}

/// Bytes of device memory of the smallest plan that the configuration allows.
fn least(config: &Config, sizes: &dyn DeviceInfo) -> u64 {
    smallest(config, sizes).map_or(u64::MAX, |config| plan(&config, sizes).0.limited_total() as u64)
}
