//! What a run is continued from, by whatever names it: its folder, its configuration, a checkpoint, or the configuration that
//! began it.

use super::carried::CARRIED;
use super::load::Checkpoint;
use super::runs::{METRICS, list};
use super::sound::{Newest, newest_sound};
use crate::config::{Config, PRESETS, RECORD, RunConfig};
use crate::data::TokenizerSettings;
use crate::error::{CheckpointError, ReplaceError, StoreError};
use crate::store::replace;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a run is to be continued from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The newest sound checkpoint of `run.dir`, or a new run.
    Newest,
    /// The newest sound checkpoint of this folder.
    Folder(PathBuf),
    /// This checkpoint.
    File(PathBuf),
}

impl Resume {
    /// What a word means: `auto`, a folder, or a file.
    pub fn of(word: &str) -> Self {
        match Path::new(word) {
            _ if word == "auto" => Resume::Newest,
            path if path.is_dir() => Resume::Folder(path.into()),
            path => Resume::File(path.into()),
        }
    }

    /// The checkpoint of a run in `run_dir`; nothing for a new run.
    ///
    /// # Errors
    /// A checkpoint that is named and cannot be used, a folder that holds none or only damaged ones.
    pub fn find(&self, run_dir: &Path) -> Result<Option<Newest>, CheckpointError> {
        match self {
            Resume::Newest if !run_dir.is_dir() => Ok(None),
            Resume::Newest => newest_sound(run_dir),
            Resume::Folder(folder) => match newest_sound(folder)? {
                Some(newest) => Ok(Some(newest)),
                None => Err(CheckpointError::NoCheckpoint { path: folder.clone() }),
            },
            Resume::File(path) => Ok(Some(Newest { checkpoint: Checkpoint::open_sound(path)?, damaged: Vec::new() })),
        }
    }
}

/// A run as two names say it: that of a configuration, and that of what is to be continued.
#[derive(Clone, Debug)]
pub struct Named {
    /// A preset or a file that describes the run; nothing if it is the quick-start, or told by `folder` alone.
    config: Option<String>,
    /// What is continued, if anything.
    pub resume: Option<Resume>,
    /// The folder of the run, if it was named.
    pub folder: Option<PathBuf>,
}

impl Named {
    /// `config` is a preset, a TOML file, the folder of a run or, if it is to be continued, one of its checkpoints; `resume`
    /// is a word for [`Resume::of`].
    ///
    /// # Errors
    /// Names that mean nothing, or contradict each other.
    pub fn of(config: Option<&str>, resume: Option<&str>) -> Result<Self, CheckpointError> {
        let (mut config, mut resume) = (config, resume.map(Resume::of));
        if let Some(file) = config.map(Path::new).filter(|path| is_checkpoint(path)) {
            match resume {
                Some(Resume::Newest) => (config, resume) = (None, Some(Resume::File(file.into()))),
                Some(_) => return Err(CheckpointError::NamedTwice { path: file.into() }),
                None => return Err(CheckpointError::NoConfiguration { path: file.into() }),
            }
        }
        let folder = run_folder(config, resume.as_ref())?;
        Ok(Self { config: config.map(Into::into), resume, folder })
    }

    /// The preset or file that describes the run.
    pub fn source(&self) -> Option<String> {
        let record = self.folder.as_ref().map(|folder| folder.join(RECORD)).filter(|record| record.is_file());
        match (record, &self.folder) {
            (Some(record), _) => Some(record.to_string_lossy().into_owned()),
            (None, Some(_)) => None,
            (None, None) => self.config.clone(),
        }
    }

    /// The configuration of a run whose folder has no record of it, as its checkpoint holds it: all but its texts and where
    /// it ran.
    ///
    /// # Errors
    /// A folder without a checkpoint, a checkpoint that cannot be used.
    pub fn base(&self) -> Result<Option<Config>, CheckpointError> {
        match &self.folder {
            Some(folder) if self.source().is_none() => of_checkpoint(folder, self.resume.as_ref()).map(Some),
            _ => Ok(None),
        }
    }

    /// Puts a run whose folder was named there, unless `stays` says that its folder is another now; what it reads, and is gone
    /// from where `recorded`, its folder by its own record, says, is found beside it.
    pub fn place(&self, config: &mut Config, recorded: &Path, stays: bool) {
        let Some(folder) = &self.folder else { return };
        if !stays {
            config.run.dir.clone_from(folder);
        }
        config.follow(recorded, folder);
    }
}

/// Writes the configuration of a run to its folder, paths absolute: a run is continued from any working directory.
///
/// # Errors
/// Those of the file system.
pub fn write_record(config: &Config) -> Result<(), StoreError> {
    let path = config.run.dir.join(RECORD);
    let mut config = config.clone();
    config.make_absolute();
    let text = config.to_toml();
    replace(&path, text.len() as u64, |out| out.write_all(text.as_bytes())).map_err(|error| match error {
        ReplaceError::Store(error) => error,
        ReplaceError::Write(source) => StoreError::io(&path, "write it", source),
    })
}

/// Whether a folder holds a run.
fn is_run(folder: &Path) -> bool {
    folder.join(METRICS).is_file() || list(folder).is_ok_and(|found| !found.is_empty())
}

/// Whether a path is a file that only a checkpoint can be.
fn is_checkpoint(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tetrad") && path.is_file()
}

/// The folder of the run that `config` names, or `resume` where there is no `config`.
fn run_folder(config: Option<&str>, resume: Option<&Resume>) -> Result<Option<PathBuf>, CheckpointError> {
    let here = |folder: &Path| match folder.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => folder.into(),
    };
    match (config.filter(|name| !PRESETS.contains(name)).map(Path::new), config, resume) {
        (Some(folder), ..) if folder.is_dir() => match is_run(folder) || folder.join(RECORD).is_file() {
            true => Ok(Some(folder.into())),
            false => Err(CheckpointError::NoRun { path: folder.into() }),
        },
        (Some(file), ..) if file.file_name().is_some_and(|name| name == RECORD) => {
            Ok(file.parent().map(here).filter(|folder| is_run(folder)))
        }
        (None, None, Some(Resume::Folder(folder))) => Ok(Some(folder.clone())),
        (None, None, Some(Resume::File(file))) if file.is_file() => Ok(file.parent().map(here)),
        _ => Ok(None),
    }
}

fn of_checkpoint(folder: &Path, resume: Option<&Resume>) -> Result<Config, CheckpointError> {
    let checkpoint = match resume {
        Some(Resume::File(path)) => Checkpoint::open(path)?,
        _ => newest_sound(folder)?.ok_or_else(|| CheckpointError::NoRecord { path: folder.into() })?.checkpoint,
    };
    let meta = &checkpoint.meta;
    let unknown = |what| CheckpointError::Optimizer { path: checkpoint.path().into(), what };
    Ok(Config {
        model: meta.model.clone(),
        storage: meta.storage.clone(),
        activations: meta.activations.clone(),
        tokenizer: TokenizerSettings { file: meta.has_tokenizer().then(|| CARRIED.into()) },
        optimizer: meta.optimizer().map_err(unknown)?,
        adapter: meta.adapter.clone().unwrap_or_default(),
        train: meta.train.clone(),
        run: RunConfig { seed: meta.seed, ..RunConfig::default() },
        ..Config::default()
    })
}
