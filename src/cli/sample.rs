//! `tetrad sample`.

use super::output::{escape, harmless, json, print};
use super::{CliResult, device, eval, pool};
use serde_json::json;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use tetrad::backend::DeviceInfo;
use tetrad::checkpoint::{Checkpoint, TOKENIZER_CONFIG, open_model, place_model};
use tetrad::data::{Decoder, SpecialTokens, Tokenizer};
use tetrad::model::{Generator, Sampling};

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
    /// Go on where the model ends its text.
    #[arg(long)]
    ignore_eos: bool,
    /// Print JSON when the text is done: prompt, text, their tokens, whether the model ended it.
    #[arg(long)]
    json: bool,
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
    let special = checkpoint.special_tokens(&tokenizer);
    let prompt = prompt(args, &checkpoint, &tokenizer, &special)?;
    // No cache for positions that this text cannot reach, however long a context the file claims.
    let keys = checkpoint.config.model.context.min(prompt.len().saturating_add(args.max_tokens));
    let tokens = PASS_TOKENS.min(prompt.len());
    let need = |sizes: &dyn DeviceInfo| place_model(&checkpoint, sizes, tokens, keys).0.total() as u64;
    let mut opened = device::open(args.device, &checkpoint.config.model, need)?;
    let device = opened.describe();
    let backend = opened.backend.as_mut();
    let model = open_model(&checkpoint, backend, tokens, keys)?;
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed };
    let mut generator = Generator::new(&model);
    let mut voice = Voice::new(&tokenizer, &prompt, args.json);
    let mut written = Vec::new();
    let mut ended = false;
    voice.say(&args.prompt)?;
    generator.feed(backend, &prompt);
    while written.len() < args.max_tokens && voice.heard {
        backend.status()?;
        let Some(id) = generator.draw(&sampling) else {
            let file = escape(&args.file.to_string_lossy());
            return Err(format!("{file}: the model's output is not a number; its training diverged").into());
        };
        written.push(id);
        ended = special.ends_with(id) && !args.ignore_eos;
        if ended {
            break;
        }
        voice.push(id)?;
        if written.len() < args.max_tokens {
            generator.feed(backend, &[id]);
        }
    }
    voice.finish()?;
    if args.json {
        let text = tokenizer.decode(&written[..written.len() - usize::from(ended)]);
        print(|out| {
            let value = json!({
                "file": args.file.to_string_lossy(), "prompt": args.prompt, "prompt_tokens": prompt, "text": text,
                "tokens": written, "ended": ended, "device": device,
            });
            json(out, &value)
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The tokens that a text begins with. A model that came with a tokenizer which puts a token before every text saw that
/// token in its training.
fn prompt(
    args: &Args,
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    special: &SpecialTokens,
) -> Result<Vec<u32>, super::Failure> {
    let mut ids = tokenizer.encode(&args.prompt)?;
    let came = checkpoint.attachment(TOKENIZER_CONFIG).is_some();
    let begins =
        special.bos.filter(|bos| came && special.add_bos.unwrap_or(tokenizer.beginning().first() == Some(bos)));
    if begins.is_some() && ids.first() != begins.as_ref() {
        ids.splice(..0, begins);
    }
    if ids.is_empty() {
        ids.extend(special.bos.or(special.eos));
    }
    let vocab = checkpoint.config.model.vocab;
    match ids.iter().find(|&&id| id as usize >= vocab) {
        Some(id) => Err(format!("--prompt: token {id} is beyond the model's vocabulary of {vocab}").into()),
        None if ids.is_empty() => Err("--prompt: gives no token to start from; write at least one character".into()),
        None => Ok(ids),
    }
}

/// Text on standard output while it arrives; silent where JSON is asked for.
struct Voice {
    decoder: Decoder,
    silent: bool,
    terminal: bool,
    /// Whether there still is a reader.
    heard: bool,
}

impl Voice {
    fn new(tokenizer: &Tokenizer, prompt: &[u32], silent: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self { decoder: Decoder::after(tokenizer, prompt), silent, terminal, heard: true }
    }

    fn say(&mut self, text: &str) -> std::io::Result<()> {
        if self.silent {
            return Ok(());
        }
        let shown = if self.terminal { harmless(text) } else { text.into() };
        let mut out = std::io::stdout().lock();
        match out.write_all(shown.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => self.heard = false,
            other => other?,
        }
        Ok(())
    }

    fn push(&mut self, id: u32) -> std::io::Result<()> {
        let text = self.decoder.push(id);
        self.say(&text)
    }

    fn finish(&mut self) -> std::io::Result<()> {
        let text = self.decoder.finish() + "\n";
        self.say(&text)
    }
}
