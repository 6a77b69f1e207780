//! `tetrad sample`.

use super::output::{escape, harmless, json, print};
use super::{CliResult, device, eval, pool};
use serde_json::json;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use tetrad::backend::DeviceInfo;
use tetrad::checkpoint::{Capacity, Checkpoint, TOKENIZER_CONFIG, open_model, place_model};
use tetrad::data::{Decoder, SpecialTokens, Tokenizer};
use tetrad::model::{Generator, Sampling};

/// Prompt tokens in one pass.
const PASS_TOKENS: usize = 256;

/// Generate text with a model, token by token.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model.
    file: PathBuf,
    /// The text to continue.
    #[arg(long, default_value = "\n", hide_default_value = true)]
    prompt: String,
    /// 0 = greedy; 1 = the model's distribution; higher = more random.
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    /// Sample from the K most likely tokens only; 0 = from all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Sample from the smallest set of most likely tokens whose probabilities add up to P.
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f64,
    /// Seed: the same seed gives the same text.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Tokens to generate at most; the model may end the text earlier.
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    /// Keep generating past the end-of-text token.
    #[arg(long)]
    ignore_eos: bool,
    /// Print JSON at the end: prompt, text, their tokens, whether the model ended the text.
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
/// A file that is not a valid model, or options out of range.
pub fn run(args: Args) -> CliResult {
    check(&args)?;
    pool::run(args.threads, || sample(&args))?
}

fn check(args: &Args) -> Result<(), String> {
    if !(args.temperature >= 0.0 && args.temperature.is_finite()) {
        return Err(format!("--temperature {}: must be 0 or more", args.temperature));
    }
    if !(args.top_p > 0.0 && args.top_p <= 1.0) {
        return Err(format!("--top-p {}: must be above 0 and at most 1", args.top_p));
    }
    Ok(())
}

fn sample(args: &Args) -> CliResult {
    let checkpoint = Checkpoint::open(&args.file)?;
    checkpoint.verify_weights()?;
    let tokenizer = eval::tokenizer(&checkpoint)?;
    let special = checkpoint.special_tokens(&tokenizer);
    let prompt = prompt(args, &checkpoint, &tokenizer, &special)?;
    // No cache for positions that this text cannot reach, whatever context the file claims.
    let keys = checkpoint.meta.model.context.min(prompt.len().saturating_add(args.max_tokens));
    let tokens = PASS_TOKENS.min(prompt.len());
    let capacity = Capacity { tokens, keys, packing: false };
    let need = |sizes: &dyn DeviceInfo| place_model(&checkpoint, sizes, capacity).0.total() as u64;
    let mut opened = device::open(args.device, &checkpoint.meta.model, need)?;
    let device = opened.describe();
    let backend = opened.backend.as_mut();
    let model = open_model(&checkpoint, backend, capacity)?;
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed };
    let mut generator = Generator::new(&model);
    let mut printer = TokenPrinter::new(&tokenizer, &prompt, args.json);
    let mut written = Vec::new();
    let mut ended = false;
    printer.write(&args.prompt)?;
    generator.feed(backend, &prompt);
    while written.len() < args.max_tokens && printer.open {
        backend.status()?;
        let Some(id) = generator.sample(&sampling) else {
            let file = escape(&args.file.to_string_lossy());
            return Err(format!("{file}: the model's output is not finite; its training diverged").into());
        };
        written.push(id);
        ended = special.ends_with(id) && !args.ignore_eos;
        if ended {
            break;
        }
        printer.push(id)?;
        if written.len() < args.max_tokens {
            generator.feed(backend, &[id]);
        }
    }
    printer.finish()?;
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

/// The tokens of the prompt. A model whose tokenizer puts a beginning-of-text token before every text was trained with
/// it, so it is added here.
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
    let vocab = checkpoint.meta.model.vocab;
    match ids.iter().find(|&&id| id as usize >= vocab) {
        Some(id) => Err(format!("--prompt: token {id} is beyond the model's vocabulary of {vocab}").into()),
        None if ids.is_empty() => Err("--prompt: empty; give at least one character".into()),
        None => Ok(ids),
    }
}

/// Prints text to standard output as it is generated; silent with `--json`.
struct TokenPrinter {
    decoder: Decoder,
    silent: bool,
    terminal: bool,
    /// Whether standard output still has a reader.
    open: bool,
}

impl TokenPrinter {
    fn new(tokenizer: &Tokenizer, prompt: &[u32], silent: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self { decoder: Decoder::after(tokenizer, prompt), silent, terminal, open: true }
    }

    fn write(&mut self, text: &str) -> std::io::Result<()> {
        if self.silent {
            return Ok(());
        }
        let shown = if self.terminal { harmless(text) } else { text.into() };
        let mut out = std::io::stdout().lock();
        match out.write_all(shown.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => self.open = false,
            other => other?,
        }
        Ok(())
    }

    fn push(&mut self, id: u32) -> std::io::Result<()> {
        let text = self.decoder.push(id);
        self.write(&text)
    }

    fn finish(&mut self) -> std::io::Result<()> {
        let text = self.decoder.finish() + "\n";
        self.write(&text)
    }
}
