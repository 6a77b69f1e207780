//! Where the configuration of a run comes from: a preset, a file, a run's folder, or a checkpoint.

use super::start::{CARRIED, InitFrom, name_folder, tuning};
use super::{Args, paths};
use crate::cli::Failure;
use crate::cli::output::{escape, shell};
use std::path::{Path, PathBuf};
use tetrad::checkpoint::{Checkpoint, METRICS, list};
use tetrad::config::{Config, PRESETS, RunConfig};
use tetrad::data::TokenizerSettings;
use tetrad::error::CheckpointError;

/// The resolved configuration that every run keeps in its folder.
pub const RECORD: &str = "config.toml";

/// What the command line names.
pub(super) struct Origin {
    /// The configuration, overrides applied.
    pub config: Config,
    /// What is continued, if anything.
    pub resume: Option<Resume>,
    /// Whether the configuration is that of a checkpoint alone, which does not name its texts.
    pub textless: bool,
}

/// What `--resume` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resume {
    /// The newest sound checkpoint of `run.dir`, or a new run.
    Newest,
    /// The newest sound checkpoint of this folder.
    Folder(PathBuf),
    /// This checkpoint.
    File(PathBuf),
}

/// Whether a folder holds a run.
fn is_run(folder: &Path) -> bool {
    folder.join(METRICS).is_file() || list(folder).is_ok_and(|found| !found.is_empty())
}

impl Origin {
    /// Reads what CONFIG, `--resume` and `--from` name.
    ///
    /// # Errors
    /// Names that mean nothing or contradict each other, mistakes in the configuration.
    pub fn read(args: &Args, model: Option<&InitFrom>) -> Result<Self, Failure> {
        let (mut given, mut resume) = (args.config.as_deref(), args.resume.as_deref().map(Resume::of));
        if let Some(file) = given.map(Path::new).filter(|path| is_checkpoint(path)) {
            match resume {
                Some(Resume::Newest) => (given, resume) = (None, Some(Resume::File(file.into()))),
                Some(_) => return Err(format!("{}: --resume names another checkpoint already", show(file)).into()),
                None => {
                    let advice = "continue its run with --resume, or train from its weights with --from FILE";
                    return Err(format!("{}: is a checkpoint, no configuration; {advice}", show(file)).into());
                }
            }
        }
        if let Some(text) = given.filter(|name| is_text(Path::new(name))) {
            let (text, word) = (show(Path::new(text)), shell(Path::new(text)));
            return Err(format!("{text}: is text to train on, no configuration; name it with --data {word}").into());
        }
        let folder = run_folder(given, resume.as_ref())?;
        let record = folder.as_ref().map(|folder| folder.join(RECORD)).filter(|record| record.is_file());
        let (source, base, textless) = match (&folder, record) {
            (_, Some(record)) => (Some(record.to_string_lossy().into_owned()), None, false),
            (Some(folder), None) => (None, Some(of_checkpoint(folder, resume.as_ref())?), true),
            (None, None) => (given.map(Into::into), None, false),
        };
        let sets = args.overrides.all();
        let tunes = base.is_none() && args.from.is_some();
        let load = |base: Config, source: Option<&str>, sets: &[String]| match tunes {
            true => Config::load_tuning(base, source, sets),
            false => Config::load_over(base, source, sets),
        };
        let base = match (base, model) {
            (Some(base), _) => base,
            (None, Some(model)) => model.base(),
            // The model is gone that the run was started from; what it gave stands in the run's record.
            (None, None) if args.from.is_some() => {
                let mut given = load(tuning(), source.as_deref(), &sets)?;
                args.from.iter().for_each(|path| name_folder(&mut given, path));
                Config::load(Some(&given.run.dir.join(RECORD).to_string_lossy()), &[])?
            }
            (None, None) => Config::default(),
        };
        let (base, sets) = with_adapter(args.adapter.as_deref(), base, sets)?;
        let mut config = load(base.clone(), source.as_deref(), &sets)?;
        args.from.iter().for_each(|path| name_folder(&mut config, path));
        let names_folder = |set: &String| set.split('=').next().is_some_and(|key| key.trim() == "run.dir");
        if let Some(folder) = folder {
            // As the record has it, whatever the overrides say: its paths are relative to where that folder was.
            let recorded = load(base, source.as_deref(), &[]).map_or_else(|_| folder.clone(), |c| c.run.dir);
            if !sets.iter().any(names_folder) {
                config.run.dir = folder.clone();
            }
            paths::follow(&mut config, &recorded, &folder);
        }
        let textless = textless && config.data.train.is_empty() && config.data.source.is_empty();
        Ok(Self { config, resume, textless })
    }
}

/// The base of the configuration and the overrides with what `--adapter` says: a kind, or the settings of an adapter.
///
/// # Errors
/// A file that is no adapter.
pub fn with_adapter(adapter: Option<&str>, base: Config, sets: Vec<String>) -> Result<(Config, Vec<String>), Failure> {
    let Some(adapter) = adapter else { return Ok((base, sets)) };
    if !Path::new(adapter).is_file() {
        let sets = [format!("adapter.kind={adapter}")].into_iter().chain(sets);
        return Ok((base, sets.collect()));
    }
    let checkpoint = Checkpoint::open(Path::new(adapter))?;
    let path = checkpoint.path().to_path_buf();
    let settings = checkpoint.meta.adapter.clone().ok_or(CheckpointError::NoAdapter { path })?;
    Ok((Config { adapter: settings, ..base }, sets))
}

impl Resume {
    fn of(word: &str) -> Self {
        match Path::new(word) {
            _ if word == "auto" => Resume::Newest,
            path if path.is_dir() => Resume::Folder(path.into()),
            path => Resume::File(path.into()),
        }
    }
}

/// Whether a path is a file that only a checkpoint can be.
fn is_checkpoint(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tetrad") && path.is_file()
}

/// Whether a path is a file of a kind that training reads and no configuration has.
fn is_text(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_end_matches(".zst");
    let kinds = ["txt", "jsonl", "json", "csv", "tsv", "parquet", "bin"];
    path.is_file() && name.rsplit_once('.').is_some_and(|(_, kind)| kinds.contains(&kind))
}

/// The folder of the run that CONFIG names, or `--resume` where there is no CONFIG.
fn run_folder(given: Option<&str>, resume: Option<&Resume>) -> Result<Option<PathBuf>, Failure> {
    let here = |folder: &Path| match folder.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => folder.into(),
    };
    match (given.filter(|name| !PRESETS.contains(name)).map(Path::new), given, resume) {
        (Some(folder), ..) if folder.is_dir() => match is_run(folder) || folder.join(RECORD).is_file() {
            true => Ok(Some(folder.into())),
            false => {
                let folder = show(folder);
                Err(format!("{folder}: is a folder without a run; name a preset, a TOML file or the folder of a run")
                    .into())
            }
        },
        (Some(file), ..) if file.file_name().is_some_and(|name| name == RECORD) => {
            Ok(file.parent().map(here).filter(|folder| is_run(folder)))
        }
        (None, None, Some(Resume::Folder(folder))) => Ok(Some(folder.clone())),
        (None, None, Some(Resume::File(file))) if file.is_file() => Ok(file.parent().map(here)),
        _ => Ok(None),
    }
}

/// The configuration of a run as its checkpoint holds it: all but its texts and where it ran.
fn of_checkpoint(folder: &Path, resume: Option<&Resume>) -> Result<Config, Failure> {
    let checkpoint = match resume {
        Some(Resume::File(path)) => Checkpoint::open(path)?,
        _ => {
            tetrad::checkpoint::newest_sound(folder)?
                .ok_or_else(|| format!("{}: holds neither a checkpoint nor the {RECORD} of a run", show(folder)))?
                .checkpoint
        }
    };
    let meta = &checkpoint.meta;
    let optimizer = meta.optimizer().map_err(|what| format!("{}: {what}", show(checkpoint.path())))?;
    Ok(Config {
        model: meta.model.clone(),
        storage: meta.storage.clone(),
        activations: meta.activations.clone(),
        tokenizer: TokenizerSettings { file: meta.has_tokenizer().then(|| CARRIED.into()) },
        optimizer,
        adapter: meta.adapter.clone().unwrap_or_default(),
        train: meta.train.clone(),
        run: RunConfig { seed: meta.seed, ..RunConfig::default() },
        ..Config::default()
    })
}

fn show(path: &Path) -> String {
    escape(&path.to_string_lossy())
}
