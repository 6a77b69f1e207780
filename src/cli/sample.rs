//! `tetrad sample`.

use super::output::{escape, harmless};
use super::{CliResult, device, eval, pool};
use crate::backend::Sizes;
use crate::checkpoint::{Checkpoint, open_model, place_model};
use crate::data::Decoder;
use crate::model::{Generator, Sampling};
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Prompt tokens in one pass.
const PASS_TOKENS: usize = 256;

/// Write text with a model, token by token.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model.
    file: PathBuf,
    /// What the text begins with.
    #[arg(long, default_value = "\n", hide_default_value = true)]
    prompt: String,
    /// 0: always the likeliest token; 1: as the model says; more: wilder.
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    /// Draw from the likeliest K tokens only; 0: from all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Draw from the likeliest tokens that together have this probability.
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f64,
    /// Seed: the same seed gives the same text.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Tokens to write, unless the model ends the text before.
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    /// Where to compute: auto (a GPU if one can be used), cpu, cuda, cuda:N.
    #[arg(long, value_name = "DEVICE", env = "TETRAD_DEVICE", default_value = "auto")]
    device: device::Device,
    /// Threads; 0: all processors.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

/// Runs `tetrad sample`.
///
/// # Errors
/// A file that is no sound model, or settings that make no sense.
pub fn run(args: Args) -> CliResult {
    check(&args)?;
    pool::run(args.threads, || sample(&args))?
}

fn check(args: &Args) -> Result<(), String> {
    if !(args.temperature >= 0.0 && args.temperature.is_finite()) {
        return Err(format!("--temperature {}: a number not below 0", args.temperature));
    }
    if !(args.top_p > 0.0 && args.top_p <= 1.0) {
        return Err(format!("--top-p {}: above 0 and at most 1", args.top_p));
    }
    Ok(())
}

fn sample(args: &Args) -> CliResult {
    let checkpoint = Checkpoint::open(&args.file)?;
    checkpoint.verify_weights()?;
    let tokenizer = eval::tokenizer(&checkpoint)?;
    let mut prompt = tokenizer.encode(&args.prompt)?;
    if prompt.is_empty() {
        prompt.extend(tokenizer.bos().or(tokenizer.eos()));
    }
    let vocab = checkpoint.config.model.vocab;
    if let Some(id) = prompt.iter().find(|&&id| id as usize >= vocab) {
        return Err(format!("--prompt: token {id} is beyond the model's vocabulary of {vocab}").into());
    }
    if prompt.is_empty() {
        return Err("--prompt: gives no token to start from; write at least one character".into());
    }
    // No cache for positions that this text cannot reach, however long a context the file claims.
    let keys = checkpoint.config.model.context.min(prompt.len().saturating_add(args.max_tokens));
    let tokens = PASS_TOKENS.min(prompt.len());
    let need = |sizes: &dyn Sizes| place_model(&checkpoint, sizes, tokens, keys).0.total() as u64;
    let mut opened = device::open(args.device, need)?;
    let backend = opened.backend.as_mut();
    let model = open_model(&checkpoint, backend, tokens, keys)?;
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed };
    let mut generator = Generator::new(&model);
    let mut decoder = Decoder::after(&tokenizer, &prompt);
    let mut out = std::io::stdout().lock();
    let terminal = out.is_terminal();
    let shown = |text: &str| if terminal { harmless(text) } else { text.into() };
    let mut say = |text: &str| match out.write_all(shown(text).as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true),
    };
    let mut heard = say(&args.prompt)?;
    generator.feed(backend, &prompt);
    for _ in 0..args.max_tokens {
        backend.status()?;
        let Some(id) = generator.draw(&sampling) else {
            let file = escape(&args.file.to_string_lossy());
            return Err(format!("{file}: the model's output is not a number; its training diverged").into());
        };
        if Some(id) == tokenizer.eos() || !heard {
            break;
        }
        heard = say(&decoder.push(id))?;
        generator.feed(backend, &[id]);
    }
    say(&(decoder.finish() + "\n"))?;
    Ok(ExitCode::SUCCESS)
}
