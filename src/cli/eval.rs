//! `tetrad eval`.

use super::held_out::{HeldOutLoss, mean_loss};
use super::output::{json, print};
use super::signals::{Doing, Interrupts};
use super::units::grouped;
use super::{CliResult, Failure, adapters, device, number, pool};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tetrad::checkpoint::{Adapted, Checkpoint, TOKENIZER_CONFIG};
use tetrad::data::{
    Corpus, Dataset, Overlong, Packing, SampleFormat, Source, Tokenizer, TokenizerConfig, Windows, prepare,
};
use tetrad::error::DataError;
use tetrad::model::Ensemble;

/// Measure a model on text: loss, perplexity, bits per byte.
///
/// The text is cut into consecutive sequences; each token but the first of a sequence is predicted from those before
/// it in its sequence. Samples (prompt and completion, messages) stay whole and are independent of each other, and only
/// their target tokens count. Weights are read directly from the mapped file.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model.
    file: Option<PathBuf>,
    /// Text files and globs, of any type that training reads.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    text: Vec<String>,
    /// Tokens per sequence [default: as in training, at most the model's context].
    #[arg(long)]
    sequence: Option<usize>,
    /// Sequences at most; 0 = all.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    sequences: usize,
    /// Add this adapter, times SCALE if that is given; may be repeated.
    #[arg(long = "adapter", value_name = "FILE[=SCALE]")]
    adapters: Vec<String>,
    /// Of an adapter that has learned several tasks, use one module alone [default: both, as its file says].
    #[arg(long, value_enum, value_name = "MODULE")]
    expert: Option<adapters::Expert>,
    /// Threads; 0: all processors.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Where to compute: auto (a GPU if one can be used), cpu, cuda, cuda:N.
    #[arg(long, value_name = "DEVICE", env = "TETRAD_DEVICE", default_value = "auto")]
    device: device::Device,
    /// The chat template for messages: a file, or the template itself [default: the one in FILE].
    #[arg(long, value_name = "TEMPLATE")]
    chat_template: Option<String>,
    /// Folder of prepared tokens.
    #[arg(long, default_value = "runs/cache")]
    cache: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    fn model(&self) -> &Path {
        self.file.as_deref().expect("checked before anything else")
    }
}

/// Runs `tetrad eval`.
///
/// # Errors
/// A file that is not a valid model, or text that it has no tokens for.
pub fn run(mut args: Args) -> CliResult {
    // A list of texts takes the model that is written behind it.
    let last = |texts: &[String]| texts.len() > 1 && texts[texts.len() - 1].ends_with(".tetrad");
    if args.file.is_none() && last(&args.text) {
        args.file = args.text.pop().map(PathBuf::from);
    }
    if args.file.is_none() {
        return Err("no model is named; write `tetrad eval FILE --text TEXT`".into());
    }
    pool::run(args.threads, || eval(&args))?
}

fn eval(args: &Args) -> CliResult {
    let checkpoint = Checkpoint::open(args.model())?;
    let adapters = adapters::open(&args.adapters)?;
    let adapted = adapters::Expert::choose(args.expert, Adapted::new(&checkpoint, &adapters)?)?;
    // A result measured on damaged weights would be believed.
    checkpoint.verify_weights()?;
    let tokenizer = tokenizer(&checkpoint)?;
    let corpus = Corpus::resolve(&args.text)?;
    let format = SampleFormat { tokenizer, config: tokenizer_config(args, &checkpoint)? };
    let interrupts = Interrupts::watch()?;
    interrupts.now(Doing::Preparing);
    let mut progress = super::progress::preparing(&interrupts);
    let (shard, dataset) = prepare(&corpus, &format, Packing::Auto, Overlong::Truncate, &args.cache, &mut progress)?;
    interrupts.now(Doing::Nothing);
    shard.check_vocabulary(&corpus, checkpoint.meta.model.vocab)?;
    let sequence = sequence(args, &checkpoint, shard.tokens.len())?;
    let packing = matches!(dataset, Dataset::Samples(_));
    let part = Source { name: String::new(), weight: 1.0, dataset };
    let windows = Windows::of(&[part], sequence, args.sequences)?;
    let all: Vec<usize> = (0..windows.len()).collect();
    let HeldOutLoss { loss, device, both, .. } =
        mean_loss(&adapted, (&windows, &all), (sequence, packing), args.device)?;
    let perplexity = loss.exp();
    let bits = shard.bytes_per_token().map(|bytes| loss / std::f64::consts::LN_2 / bytes);
    print(|out| {
        if args.json {
            let mut value = json!({
                "file": args.model().to_string_lossy(), "loss": number::json(loss), "perplexity": number::json(perplexity),
                "bits_per_byte": bits.map(number::json), "tokens": windows.targets(), "sequence": sequence,
                "samples_cut": windows.packings().map(|packing| packing.truncated).sum::<usize>(),
                "device": device,
            });
            if let Some(both) = &both {
                value["by"] = json!(adapted.ensemble().unwrap_or_default().name());
                value["losses"] =
                    Ensemble::ALL.map(|by| (by.name().to_owned(), number::json(both.mean(by)))).into_iter().collect();
            }
            return json(out, &value);
        }
        writeln!(out, "loss           {loss:.4} nats per token")?;
        writeln!(out, "perplexity     {perplexity:.4} per token")?;
        if let Some(both) = &both {
            let by = |by: Ensemble| format!("{} {:.4}", by.name(), both.mean(by));
            let used = adapted.ensemble().unwrap_or_default().name();
            writeln!(out, "by {used}; losses: {}", Ensemble::ALL.map(by).join(", "))?;
        }
        if let Some(bits) = bits {
            writeln!(out, "bits per byte  {bits:.4}")?;
        }
        let (predicted, all) = (grouped(windows.targets()), grouped(shard.tokens.len() as u64));
        writeln!(out, "{predicted} of {all} tokens predicted, in sequences of {sequence}")?;
        for packing in windows.packings().filter(|packing| packing.truncated + packing.empty > 0) {
            let (samples, cut, empty) = (packing.samples, packing.truncated, packing.empty);
            writeln!(
                out,
                "{cut} of {samples} samples are longer than that and were truncated, {empty} have no target"
            )?;
        }
        writeln!(out, "on {device}")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration of the tokenizer in a file.
fn tokenizer_config(args: &Args, checkpoint: &Checkpoint) -> Result<TokenizerConfig, DataError> {
    let config = match checkpoint.attachment(TOKENIZER_CONFIG) {
        Some(json) => TokenizerConfig::parse(&args.model().to_string_lossy(), &json)?,
        None => TokenizerConfig::default(),
    };
    match &args.chat_template {
        Some(given) => config.with_template(given),
        None => Ok(config),
    }
}

/// The tokenizer in a file.
pub(super) fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer, Failure> {
    Ok(match checkpoint.tokenizer() {
        Some(json) => Tokenizer::from_json(&json)?,
        None => Tokenizer::bytes(),
    })
}

fn sequence(args: &Args, checkpoint: &Checkpoint, tokens: usize) -> Result<usize, Failure> {
    let context = checkpoint.meta.model.context;
    if let Some(asked) = args.sequence {
        return match asked {
            0 => Err("--sequence 0: at least 1 token".into()),
            asked if asked > context => {
                Err(format!("--sequence {asked}: the model's context is {context} tokens, the longest possible").into())
            }
            asked if asked >= tokens => {
                Err(format!("--sequence {asked}: the text has {tokens} tokens, and one more than a sequence is needed")
                    .into())
            }
            asked => Ok(asked),
        };
    }
    if tokens < 2 {
        return Err(format!("--text: {tokens} token in total; at least 2 are needed").into());
    }
    // A text shorter than a training sequence is one sequence.
    Ok(checkpoint.meta.train.sequence.min(context).min(tokens - 1))
}
