//! Where the configuration of a run comes from: a preset, a file, a run's folder, or a checkpoint.

use super::Args;
use super::start::{InitFrom, name_folder, tuning};
use crate::cli::Failure;
use crate::cli::output::{escape, shell};
use std::path::Path;
use tetrad::checkpoint::{Checkpoint, Named, Resume};
use tetrad::config::{Config, RECORD};
use tetrad::error::CheckpointError;

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
        if let Some(folder) = &named.folder {
            // As the record has it, whatever the overrides say: its paths are relative to where that folder was.
            let recorded = load(base, source.as_deref(), &[]).map_or_else(|_| folder.clone(), |c| c.run.dir);
            let names_folder = |set: &String| set.split('=').next().is_some_and(|key| key.trim() == "run.dir");
            named.place(&mut config, &recorded, sets.iter().any(names_folder));
        }
        let textless = textless && config.data.train.is_empty() && config.data.source.is_empty();
        Ok(Self { config, resume: named.resume, textless })
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

/// Whether a path is a file of a kind that training reads and no configuration has.
fn is_text(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_end_matches(".zst");
    let kinds = ["txt", "jsonl", "json", "csv", "tsv", "parquet", "bin"];
    path.is_file() && name.rsplit_once('.').is_some_and(|(_, kind)| kinds.contains(&kind))
}
