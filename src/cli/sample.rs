//! `tetrad sample`.

use super::compute::ComputeArgs;
use super::model_file::model_file;
use super::output::{escape, json, print};
use super::writing::{NOT_UTF8, PASS_TOKENS, SamplingArgs, TokenPrinter, text_prompt};
use super::{CliResult, adapters, device, eval, pool};
use serde_json::json;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tetrad::checkpoint::{Adapted, Capacity, Checkpoint, TOKENIZER_CONFIG};
use tetrad::data::{Message, SpecialTokens, Tokenizer};
use tetrad::model::{Generator, Sampling};

/// Generate text with a model, token by token.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model, or the folder of a run that is finished.
    #[arg(value_parser = model_file())]
    file: PathBuf,
    /// The text to continue.
    #[arg(short, long, default_value = "\n", hide_default_value = true)]
    prompt: String,
    /// Read the text to continue from a file; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// Take the prompt as a user's message, put it into the model's chat template, and generate the reply.
    #[arg(long)]
    chat: bool,
    /// With --chat: the system prompt.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// With --chat: a chat template in place of the model's own, a .jinja file or a tokenizer_config.json.
    #[arg(long, value_name = "FILE", requires = "chat")]
    chat_template: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Tokens to generate at most; the model may end the text earlier.
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    /// Keep generating past the end-of-text token.
    #[arg(long)]
    ignore_eos: bool,
    /// Print JSON at the end: prompt, text, their tokens, whether the model ended the text.
    #[arg(long)]
    json: bool,
    /// Add this adapter, times SCALE if that is given: a file, or the folder of its finished run; may be repeated.
    #[arg(long = "adapter", value_name = "FILE[=SCALE]")]
    adapters: Vec<String>,
    /// Of an adapter that has learned several tasks, use one module alone [default: both, as its file says].
    #[arg(long, value_enum, value_name = "MODULE")]
    expert: Option<adapters::Expert>,
    #[command(flatten)]
    compute: ComputeArgs,
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
    let sampling = args.sampling.sampling()?;
    let text = match &args.prompt_file {
        Some(file) => read_prompt(file)?,
        None => args.prompt.clone(),
    };
    pool::run(args.threads, || sample(&args, &text, &sampling))?
}

/// The text in a file, or on standard input.
fn read_prompt(file: &Path) -> Result<String, super::Failure> {
    let text = match file.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(file),
    };
    let shown = escape(&file.to_string_lossy());
    Ok(text.map_err(|error| match error.kind() {
        ErrorKind::InvalidData => format!("--prompt-file {shown}: is not UTF-8; {NOT_UTF8}"),
        _ => format!("--prompt-file {shown}: cannot be read: {error}"),
    })?)
}

fn sample(args: &Args, text: &str, sampling: &Sampling) -> CliResult {
    let checkpoint = Checkpoint::open(&args.file)?;
    let adapters = adapters::open(&args.adapters)?;
    let adapted = adapters::Expert::choose(args.expert, Adapted::new(&checkpoint, &adapters)?)?;
    let adapted = args.compute.apply(&checkpoint, adapted)?;
    checkpoint.verify_weights()?;
    let tokenizer = eval::tokenizer(&checkpoint)?;
    let special = checkpoint.special_tokens(&tokenizer);
    let prompt = match args.chat {
        true => chat_prompt(args, text, &checkpoint, &tokenizer)?,
        false => prompt(args, text, &checkpoint, &tokenizer, &special)?,
    };
    let context = checkpoint.meta.model.context;
    if prompt.len() > context {
        let given = format!("the prompt has {} tokens, the model's context {context}", prompt.len());
        if args.chat {
            return Err(format!("{given}; shorten the message").into());
        }
        eprintln!("note: {given}; only the last {} are read", (context / 2).max(1));
    }
    // No cache for positions that this text cannot reach, whatever context the file claims.
    let keys = context.min(prompt.len().saturating_add(args.max_tokens));
    let tokens = PASS_TOKENS.min(prompt.len());
    let capacity = Capacity { tokens, keys, sampling: true, packing: false };
    let mut opened = device::open_for(args.device, &adapted, capacity)?;
    let device = opened.describe();
    let backend = opened.backend.as_mut();
    let model = adapted.open(backend, capacity)?;
    let mut generator = Generator::by(&model, adapted.ensemble().unwrap_or_default());
    let mut printer = TokenPrinter::new(&tokenizer, &prompt, args.sampling.stops(), args.json);
    let mut written = Vec::new();
    let mut ended = false;
    if !args.chat {
        printer.write(text)?;
    }
    generator.feed(backend, &prompt);
    while written.len() < args.max_tokens && printer.open {
        backend.status()?;
        let Some(id) = generator.sample(sampling) else {
            let file = escape(&args.file.to_string_lossy());
            return Err(format!("{file}: the model's output is not finite; its training diverged").into());
        };
        written.push(id);
        ended = special.ends_with(id) && !args.ignore_eos;
        if ended {
            break;
        }
        if printer.push(id)? {
            break;
        }
        if written.len() < args.max_tokens {
            generator.feed(backend, &[id]);
        }
    }
    printer.finish()?;
    if args.json {
        print(|out| {
            let value = json!({
                "file": args.file.to_string_lossy(), "prompt": text, "prompt_tokens": prompt, "text": printer.text,
                "tokens": written, "ended": ended, "device": device,
            });
            json(out, &value)
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The tokens of the prompt.
fn prompt(
    args: &Args,
    text: &str,
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    special: &SpecialTokens,
) -> Result<Vec<u32>, super::Failure> {
    let came = checkpoint.attachment(TOKENIZER_CONFIG).is_some();
    within(text_prompt(text, tokenizer, special, came)?, args, checkpoint)
}

/// The tokens of a conversation whose user says `text`.
fn chat_prompt(
    args: &Args,
    text: &str,
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
) -> Result<Vec<u32>, super::Failure> {
    let template = super::chat::template(&args.file, checkpoint, args.chat_template.as_deref())?;
    let system = args.system.iter().map(|system| Message { role: "system", content: system.clone() });
    let messages: Vec<_> = system.chain([Message { role: "user", content: text.into() }]).collect();
    within(tokenizer.encode(&template.render(&messages)?)?, args, checkpoint)
}

/// The tokens of a prompt, which must be of the model's vocabulary.
fn within(ids: Vec<u32>, args: &Args, checkpoint: &Checkpoint) -> Result<Vec<u32>, super::Failure> {
    let vocab = checkpoint.meta.model.vocab;
    let given = || match &args.prompt_file {
        Some(file) => format!("--prompt-file {}", escape(&file.to_string_lossy())),
        None => "--prompt".into(),
    };
    match ids.iter().find(|&&id| id as usize >= vocab) {
        Some(id) => Err(format!("{}: token {id} is beyond the model's vocabulary of {vocab}", given()).into()),
        None if ids.is_empty() => Err(format!("{}: empty; give at least one character", given()).into()),
        None => Ok(ids),
    }
}
