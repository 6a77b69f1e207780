//! `tetrad prepare`.

use super::model_file::model_file;
use super::output::print;
use super::overrides;
use super::signals::{Doing, Interrupts};
use super::train::note_repeated;
use super::train::start::{InitFrom, name_folder};
use super::units::grouped;
use super::{CliResult, pool};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use tetrad::config::Config;
use tetrad::data::{Prepared, Source};
use tetrad::error::DataError;

/// Turn the text of a run into tokens, so that training begins at once.
///
/// Training does the same by itself; tokens are kept in data.cache by their content, so nothing is prepared twice. After an
/// interruption (Ctrl-C) the same command goes on where it stopped. All processors are used.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Preset or TOML file, as for training.
    config: Option<String>,
    /// Override a key, as in `--set data.validation=held.txt`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Text to train on: a file or a pattern; may be repeated. Short for `--set data.train=...`.
    #[arg(long, value_name = "FILE")]
    data: Vec<String>,
    /// Short for `--set tokenizer.file=...`.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<String>,
    /// Use the tokenizer of this model, a file or the folder of a finished run, for `train --from`.
    #[arg(long, value_name = "FILE", conflicts_with = "tokenizer", value_parser = model_file())]
    from: Option<PathBuf>,
}

/// Runs `tetrad prepare`.
///
/// # Errors
/// Mistakes in the configuration, in texts and tokenizers; a cache that cannot be written.
pub fn run(args: Args) -> CliResult {
    let interrupts = Interrupts::watch()?;
    let model = args.from.as_deref().map(InitFrom::open).transpose()?;
    let sets = args.overrides();
    let loaded = match &model {
        Some(model) => Config::load_tuning(model.base(), args.config.as_deref(), &sets),
        None => Config::load(args.config.as_deref(), &sets),
    };
    let mut config = loaded.map_err(|error| {
        let tokenizer = args.tokenizer.is_some().then_some(("tokenizer.file", "--tokenizer"));
        let data = (!args.data.is_empty()).then_some(("data.train", "--data"));
        overrides::named(error, tokenizer.into_iter().chain(data), &args.sets)
    })?;
    args.from.iter().for_each(|path| name_folder(&mut config, path));
    if let Some(model) = &model {
        model.place_tokenizer(&mut config, false)?;
    }
    // Without a model or a configuration nothing says how many tokens the model will have.
    let vocab = if model.is_some() || args.config.is_some() { config.model.vocab } else { usize::MAX };
    pool::run(config.run.threads, || prepare(&config, vocab, &interrupts))?
}

impl Args {
    fn overrides(&self) -> Vec<String> {
        let tokenizer =
            self.tokenizer.iter().map(|file| format!("tokenizer.file={}", toml::Value::from(file.as_str())));
        overrides::data(&self.data).into_iter().chain(tokenizer).chain(self.sets.iter().cloned()).collect()
    }
}

fn prepare(config: &Config, vocab: usize, interrupts: &Interrupts) -> CliResult {
    let begun = Instant::now();
    interrupts.now(Doing::Preparing);
    let mut progress = super::progress::preparing(interrupts);
    let data = match Prepared::new(&config.data, &config.tokenizer, vocab, &mut progress) {
        Err(DataError::Interrupted { .. }) => {
            print(|out| writeln!(out, "stopped; the same command goes on from there, nothing is prepared twice"))?;
            return Ok(ExitCode::SUCCESS);
        }
        data => data?,
    };
    note_repeated(&data);
    let tokens = |sources: &[Source]| sources.iter().map(|source| source.dataset.tokens().len() as u64).sum();
    let (trained, held) = (tokens(&data.train), tokens(&data.validation));
    let seconds = begun.elapsed().as_secs_f64();
    let cache = super::output::escape(&Path::new(&config.data.cache).to_string_lossy());
    print(|out| {
        writeln!(
            out,
            "{} tokens to train on, {} more held out for validation; kept in {cache} ({seconds:.1} s)",
            grouped(trained),
            grouped(held)
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
