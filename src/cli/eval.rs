//! `tetrad eval`.

use super::compute::ComputeArgs;
use super::held_out::{Cut, HeldOut, HeldOutLoss};
use super::model_file::model_file;
use super::output::{json, print};
use super::units::grouped;
use super::{CliResult, Failure, adapters, device, number, pool};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tetrad::checkpoint::{Adapted, Checkpoint};
use tetrad::data::Tokenizer;
use tetrad::model::Ensemble;

/// Measure a model on text: loss, perplexity, bits per byte.
///
/// The text is cut into consecutive sequences; each token but the first of a sequence is predicted from those before
/// it in its sequence. Samples (prompt and completion, messages) stay whole and are independent of each other, and only
/// their target tokens count. Weights are read directly from the mapped file.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model, or the folder of a run that is finished.
    #[arg(value_parser = model_file())]
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
    /// Add this adapter, times SCALE if that is given: a file, or the folder of its finished run; may be repeated.
    #[arg(long = "adapter", value_name = "FILE[=SCALE]")]
    adapters: Vec<String>,
    /// Of an adapter that has learned several tasks, use one module alone [default: both, as its file says].
    #[arg(long, value_enum, value_name = "MODULE")]
    expert: Option<adapters::Expert>,
    #[command(flatten)]
    compute: ComputeArgs,
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
    let adapted = args.compute.apply(&checkpoint, adapted)?;
    // A result measured on damaged weights would be believed.
    checkpoint.verify_weights()?;
    let cut = Cut { sequence: args.sequence, most: args.sequences, template: args.chat_template.as_deref() };
    let held = HeldOut::prepare(&checkpoint, &args.text, cut, &args.cache)?;
    let (windows, sequence) = (&held.windows, held.sequence);
    let all: Vec<usize> = (0..windows.len()).collect();
    let HeldOutLoss { loss, device, both, .. } = held.loss(&adapted, &all, args.device)?;
    let perplexity = loss.exp();
    let bits = held.bytes_per_token.map(|bytes| loss / std::f64::consts::LN_2 / bytes);
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
        let (predicted, all) = (grouped(windows.targets()), grouped(held.tokens as u64));
        writeln!(out, "{predicted} of {all} tokens predicted, in sequences of {sequence}")?;
        for packing in windows.packings().filter(|packing| packing.truncated + packing.cut + packing.empty > 0) {
            let (samples, cut, empty) = (packing.samples, packing.truncated, packing.empty);
            if packing.cut > 0 {
                writeln!(
                    out,
                    "{} of {samples} were left out: what is to be predicted in them lies behind that",
                    packing.cut
                )?;
            }
            writeln!(
                out,
                "{cut} of {samples} samples are longer than that and were truncated, {empty} have no target"
            )?;
        }
        writeln!(out, "on {device}")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The tokenizer in a file.
pub(super) fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer, Failure> {
    Ok(match checkpoint.tokenizer() {
        Some(json) => Tokenizer::from_json(&json)?,
        None => Tokenizer::bytes(),
    })
}
