//! Where the configuration of a run comes from: a preset, a file, a run's folder, or a checkpoint.

use super::Args;
use super::start::{InitFrom, name_folder, tuning};
use crate::cli::Failure;
use crate::cli::model_file::finished_adapter;
use crate::cli::output::{escape, shell};
use std::path::{Path, PathBuf};
use tetrad::checkpoint::{Checkpoint, Named, Resume, latest};
use tetrad::config::{Config, RECORD};
use tetrad::error::CheckpointError;
use tetrad::model::AdapterKind;

/// Kinds of adapters that `--adapter` takes.
const KINDS: [&str; 3] = [AdapterKind::Lora.name(), AdapterKind::Prefix.name(), AdapterKind::Bottleneck.name()];

/// What the command line names.
pub(super) struct Origin {
    /// The configuration, overrides applied.
    pub config: Config,
    /// What is continued, if anything.
    pub resume: Option<Resume>,
    /// Whether the configuration is that of a checkpoint alone, which does not name its texts.
    pub textless: bool,
}

impl Origin {
    /// Reads what CONFIG, `--resume` and `--from` name.
    ///
    /// # Errors
    /// Names that mean nothing or contradict each other, mistakes in the configuration.
    pub fn read(args: &Args, model: Option<&InitFrom>) -> Result<Self, Failure> {
        if let Some(text) = args.config.as_deref().filter(|name| is_text(Path::new(name))) {
            let (text, word) = (escape(text), shell(Path::new(text)));
            return Err(format!("{text}: is text to train on, no configuration; name it with --data {word}").into());
        }
        let named = Named::of(args.config.as_deref(), args.resume.as_deref())?;
        let (source, base) = (named.source(), named.base()?);
        let textless = base.is_some();
        let sets = args.overrides.all();
        let tunes = base.is_none() && args.from.is_some();
        let load = |base: Config, source: Option<&str>, sets: &[String]| {
            let loaded = match tunes {
                true => Config::load_tuning(base, source, sets),
                false => Config::load_over(base, source, sets),
            };
            loaded.map_err(|error| args.overrides.named(error))
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
        let mut resume = named.resume.clone();
        if let Some(folder) = &named.folder {
            // As the record has it, whatever the overrides say: its paths are relative to where that folder was.
            let recorded = load(base, source.as_deref(), &[]).map_or_else(|_| folder.clone(), |c| c.run.dir);
            let names_folder = |set: &String| set.split('=').next().is_some_and(|key| key.trim() == "run.dir");
            let stays = sets.iter().any(names_folder);
            named.place(&mut config, &recorded, stays);
            // A run that goes on in another folder begins there with what it has here.
            if stays
                && resume == Some(Resume::Newest)
                && latest(&config.run.dir)?.is_none()
                && latest(folder)?.is_some()
            {
                resume = Some(Resume::Folder(folder.clone()));
            }
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
    let Some(file) = adapter_file(adapter)? else {
        let sets = [format!("adapter.kind={adapter}")].into_iter().chain(sets);
        return Ok((base, sets.collect()));
    };
    let checkpoint = Checkpoint::open(&file)?;
    let path = checkpoint.path().to_path_buf();
    let settings = checkpoint.meta.adapter.clone().ok_or(CheckpointError::NoAdapter { path })?;
    Ok((Config { adapter: settings, ..base }, sets))
}

/// The file that `--adapter` names, itself or by the folder of its run; nothing if it names a kind.
///
/// # Errors
/// A word that is neither.
pub fn adapter_file(word: &str) -> Result<Option<PathBuf>, Failure> {
    let path = Path::new(word);
    if path.is_file() {
        return Ok(Some(path.into()));
    }
    if KINDS.contains(&word) || word == AdapterKind::None.name() {
        return Ok(None);
    }
    let (shown, kinds) = (escape(word), KINDS.join(", "));
    match finished_adapter(path) {
        // Of a folder without a finished adapter, who opens it says what to name.
        found if found.exists() => Ok(Some(found)),
        _ => Err(format!(
            "--adapter {shown}: no such file, and no kind of adapter; it takes {kinds}, or a trained adapter: its file, or the \
             folder of its finished run"
        )
        .into()),
    }
}

/// What to do about a model or an adapter that the configuration describes otherwise than its file does: nothing was resumed.
pub fn of_file(error: CheckpointError) -> Failure {
    match &error {
        CheckpointError::Differs { key, .. } => format!(
            "{error}; leave {key} out (a preset has it, too), and the file's value is used, or start from a file that has this one"
        )
        .into(),
        _ => error.into(),
    }
}

/// Whether a path is a file of a kind that training reads and no configuration has.
fn is_text(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_end_matches(".zst");
    let kinds = ["txt", "jsonl", "json", "csv", "tsv", "parquet", "bin"];
    path.is_file() && name.rsplit_once('.').is_some_and(|(_, kind)| kinds.contains(&kind))
}
