//! What a run is continued from: the newest checkpoint that is sound, and what it carries for a run whose files are gone.

use super::origin::{RECORD, Resume};
use super::paths;
use crate::cli::Failure;
use crate::cli::output::escape;
use std::path::Path;
use tetrad::checkpoint::{Checkpoint, Newest, TOKENIZER_CONFIG, list, newest_sound, set_aside};
use tetrad::config::Config;
use tetrad::data::TokenizerConfig;
use tetrad::error::StoreError;

/// What a run is continued from.
pub(super) struct Start(pub Newest);

/// The checkpoint that `resume` asks for; nothing for a new run.
///
/// # Errors
/// A checkpoint that is named and cannot be used, a folder whose checkpoints are all damaged.
pub(super) fn find(resume: &Resume, run_dir: &Path) -> Result<Option<Start>, Failure> {
    match resume {
        Resume::Newest if !run_dir.is_dir() => Ok(None),
        Resume::Newest => Ok(newest_sound(run_dir)?.map(Start)),
        Resume::Folder(folder) => match newest_sound(folder)? {
            Some(newest) => Ok(Some(Start(newest))),
            None => Err(format!("{}: holds no checkpoint", escape(&folder.to_string_lossy())).into()),
        },
        Resume::File(path) => {
            Ok(Some(Start(Newest { checkpoint: Checkpoint::open_sound(path)?, damaged: Vec::new() })))
        }
    }
}

impl Start {
    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.0.checkpoint
    }

    /// Checks that no later checkpoint of `dir` is left that the next `--resume` would take for the newest of this run,
    /// and that pruning would keep in the place of its own. Damaged ones do not count.
    ///
    /// # Errors
    /// The last of those that are sound.
    pub fn check_last(&mut self, dir: &Path) -> Result<(), Failure> {
        let Newest { checkpoint, damaged } = &mut self.0;
        let (step, path) = (checkpoint.meta.counters.step, checkpoint.path());
        for (later, other) in list(dir)?.into_iter().rev().take_while(|(later, _)| *later > step) {
            if damaged.iter().any(|(known, _)| *known == other) {
                continue;
            }
            match Checkpoint::open_sound(&other) {
                Err(error) if error.is_damage() => damaged.push((other, error)),
                _ => {
                    let advice = "move them away or choose another folder with --set run.dir=...";
                    let (path, dir) = (escape(&path.to_string_lossy()), escape(&dir.to_string_lossy()));
                    return Err(format!(
                        "{path}: is at step {step}, but {dir} holds later checkpoints, up to step {later}; {advice}"
                    )
                    .into());
                }
            }
        }
        Ok(())
    }

    /// Gives damaged checkpoints another name, under which no run takes them for its own, and says so.
    ///
    /// # Errors
    /// If one cannot be renamed.
    pub fn set_aside(&self) -> Result<(), StoreError> {
        for (path, error) in &self.0.damaged {
            let name = set_aside(path)?;
            let (name, from) = (name.to_string_lossy(), self.checkpoint().path().to_string_lossy());
            eprintln!("note: {}", escape(&error.to_string()));
            eprintln!("note: it is kept as {}; the run goes on from {}", escape(&name), escape(&from));
        }
        Ok(())
    }

    /// Names in `config` what the checkpoint carries for files that are gone: its tokenizer, as a file in the cache, and
    /// its chat template. Texts that are not found from here are looked up in the record of the run in `run.dir`.
    ///
    /// # Errors
    /// If the cache cannot be written.
    pub fn complete(&self, config: &mut Config) -> Result<(), Failure> {
        let record = config.run.dir.join(RECORD);
        if record.is_file()
            && let Some(Ok(record)) = record.to_str().map(|record| Config::load(Some(record), &[]))
        {
            paths::look_up(config, record);
        }
        if let Some(file) = config.tokenizer.file.clone()
            && let Some(carried) = super::start::carried_tokenizer(self.checkpoint(), &config.data.cache)
            && (!file.is_file() || file == carried.path)
        {
            carried.write()?;
            config.tokenizer.file = Some(carried.path);
        }
        let gone = |template: &&String| !paths::is_template(template) && !Path::new(template).exists();
        if config.data.chat_template.as_ref().filter(gone).is_some()
            && let Some(json) = self.checkpoint().attachment(TOKENIZER_CONFIG)
            && let Some(template) = TokenizerConfig::parse(TOKENIZER_CONFIG, &json)?.template()
        {
            config.data.chat_template = Some(template.into());
        }
        Ok(())
    }
}
