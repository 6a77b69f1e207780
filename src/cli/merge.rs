//! `tetrad merge`.

use super::held_out::{Cut, HeldOut};
use super::model_file::model_file;
use super::output::{escape, json, print};
use super::progress::converting;
use super::units::{bytes, grouped};
use super::{CliResult, Failure, adapters, device, model_name, number, overwrite, pool};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use tetrad::backend::cpu::Cpu;
use tetrad::checkpoint::{Adapted, Capacity, Checkpoint};
use tetrad::convert::{Calibration, MergeSummary, MergeTarget, merge};
use tetrad::store::same_file;

/// Exit status where less of the adapter's gain survived than was asked for.
const TOO_LITTLE: u8 = 3;

/// Windows that errors of rounding are fed by, at most.
const CALIBRATION: usize = 64;

/// Add adapters to their base and write the sum as a model of its own.
///
/// Packed weights keep their scales and are rounded stochastically, so that changes below a step survive; what the codes
/// leave over goes to the residue. With --text every second window of the text feeds the errors of rounding to later codes,
/// and the others tell how much of the adapter's gain survived.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model that the adapters were trained on, or the folder of its finished run.
    #[arg(value_parser = model_file())]
    base: PathBuf,
    /// An adapter, a file or the folder of its finished run, and what it is multiplied by if that is not 1; may be repeated.
    #[arg(long, required = true, value_name = "FILE[=SCALE]")]
    adapter: Vec<String>,
    /// Of an adapter that has learned several tasks, merge this module.
    #[arg(long, value_enum, value_name = "MODULE")]
    expert: Option<adapters::Expert>,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace FILE if it is there already.
    #[arg(long)]
    overwrite: bool,
    /// Storage of the matrices [default: as in the base]: int8 is sixteen times as fine, in twice the bytes of four bits.
    #[arg(long, value_enum)]
    into: Option<Into>,
    /// Held-out text files and globs, of any type that training reads.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    text: Vec<String>,
    /// Share of the adapter's gain on the text that must survive; below it the exit status is 3.
    #[arg(long, value_name = "SHARE", default_value_t = 0.9, requires = "text")]
    least: f64,
    /// Tokens per sequence of the text [default: as in training, at most the model's context].
    #[arg(long, requires = "text")]
    sequence: Option<usize>,
    /// Where to compute: auto (a GPU if one can be used), cpu, cuda, cuda:N.
    #[arg(long, value_name = "DEVICE", env = "TETRAD_DEVICE", default_value = "auto")]
    device: device::Device,
    /// Folder of prepared tokens.
    #[arg(long, default_value = "runs/cache")]
    cache: PathBuf,
    /// Threads; 0: all processors.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Into {
    Int4,
    Int8,
    Bf16,
    F32,
}

/// Losses on the windows that fed no errors, in nats per token.
struct Losses {
    base: f64,
    adapter: f64,
    merged: f64,
    targets: u64,
    device: String,
}

impl Losses {
    /// Share of the adapter's gain that the merged model has; none where the adapter gains nothing.
    fn kept(&self) -> Option<f64> {
        let gain = self.base - self.adapter;
        (gain > 0.0).then(|| (self.base - self.merged) / gain)
    }
}

/// Runs `tetrad merge`.
///
/// # Errors
/// An adapter of another base, a base that cannot be merged into, options out of range.
pub fn run(args: Args) -> CliResult {
    // Rounding may help a little, so that a share may be above 1; in percent it is not.
    if !(args.least.is_finite() && args.least < 10.0) {
        let reason = "is a share of the gain, not percent: 1 is all of it, 0.9 the default";
        return Err(format!("--least {}: {reason}", args.least).into());
    }
    if !same_file(&args.output, &args.base) {
        model_name::refuse_other(&args.output)?;
    }
    pool::run(args.threads, || add(&args))?
}

fn add(args: &Args) -> CliResult {
    let base = Checkpoint::open(&args.base)?;
    let files = adapters::open(&args.adapter)?;
    let adapted = adapters::Expert::choose(args.expert, Adapted::new(&base, &files)?)?;
    let read = |(file, scale): &(Checkpoint, f32)| Ok((adapters::Expert::read(args.expert, file)?, *scale));
    let added = files.iter().map(read).collect::<Result<Vec<_>, Failure>>()?;
    overwrite::refuse_file(&args.output, args.overwrite)?;
    if same_file(&args.output, &args.base) {
        return Err(
            format!("{}: is the base; name another file to write", escape(&args.output.to_string_lossy())).into()
        );
    }
    let target = target(args, &base)?;
    if args.text.is_empty() {
        let summary = merge(&base, &added, target, None, &args.output, &mut converting("merging"))?;
        return report(args, &summary, None);
    }
    let cut = Cut { sequence: args.sequence, ..Cut::default() };
    let windows = HeldOut::prepare(&base, &args.text, cut, &args.cache)?;
    let (feeding, measuring): (Vec<_>, Vec<_>) = (0..windows.len()).partition(|i| i % 2 == 0);
    if measuring.is_empty() {
        return Err("--text: is one window; a second one is needed to measure what the first one does not know".into());
    }
    let tokens = windows.tokens(feeding.into_iter().take(CALIBRATION));
    let capacity = Capacity { tokens: tokens.len(), keys: windows.sequence, sampling: false, packing: false };
    let (mut opened, mut products) = (device::open_for(args.device, &adapted, capacity)?, Cpu::new());
    let calibration = Calibration {
        model: &adapted,
        backend: opened.backend.as_mut(),
        products: &mut products,
        tokens: &tokens,
        sequence: windows.sequence,
    };
    let summary = merge(&base, &added, target, Some(calibration), &args.output, &mut converting("merging"))?;
    let device = opened.describe();
    drop((opened, products));
    let merged = Checkpoint::open(&args.output)?;
    let loss = |model: &Adapted<'_>| windows.loss(model, &measuring, args.device);
    let alone = [Adapted::new(&base, &[])?, Adapted::new(&merged, &[])?];
    let (base, adapter, merged) = (loss(&alone[0])?, loss(&adapted)?, loss(&alone[1])?);
    let losses = Losses { base: base.loss, adapter: adapter.loss, merged: merged.loss, targets: base.counted, device };
    report(args, &summary, Some(&losses))
}

fn target(args: &Args, base: &Checkpoint) -> Result<MergeTarget, Failure> {
    let own = base.meta.storage.matrix_format();
    Ok(match args.into {
        None => MergeTarget::Own,
        Some(Into::Int4) if own.codec().takes_residue() => MergeTarget::Own,
        Some(Into::Int4) => {
            let found = own.codec().name();
            return Err(format!(
                "--into int4: the base's matrices are {found}; only packed ones have scales that codes can be merged onto"
            )
            .into());
        }
        Some(Into::Int8) => MergeTarget::Int8,
        Some(Into::Bf16) => MergeTarget::Bf16,
        Some(Into::F32) => MergeTarget::F32,
    })
}

fn report(args: &Args, summary: &MergeSummary, losses: Option<&Losses>) -> CliResult {
    let output = escape(&args.output.to_string_lossy());
    let kept = losses.and_then(Losses::kept);
    print(|out| {
        if args.json {
            let mut value = json!({
                "file": args.output.to_string_lossy(), "bytes": summary.bytes, "merged": summary.merged,
                "groups": summary.groups, "refitted": summary.refitted,
            });
            if let Some(losses) = losses {
                value["base"] = number::json(losses.base);
                value["adapter"] = number::json(losses.adapter);
                value["merged_loss"] = number::json(losses.merged);
                value["kept"] = kept.map_or(serde_json::Value::Null, number::json);
                value["tokens"] = losses.targets.into();
                value["device"] = losses.device.as_str().into();
            }
            return json(out, &value);
        }
        let (matrices, refitted, groups) = (summary.merged, grouped(summary.refitted), grouped(summary.groups));
        writeln!(out, "{output}: {}, {matrices} matrices merged", bytes(summary.bytes))?;
        if summary.groups > 0 {
            writeln!(out, "{refitted} of {groups} groups got new scales, because values had left their range")?;
        }
        let Some(losses) = losses else {
            return writeln!(out, "how much of the adapter survived is not known: --text measures it");
        };
        writeln!(out, "base     {:.4} nats per token", losses.base)?;
        writeln!(out, "adapter  {:.4}", losses.adapter)?;
        writeln!(out, "merged   {:.4}", losses.merged)?;
        match kept {
            Some(kept) => writeln!(
                out,
                "kept     {:.1} % of the gain, at least {:.1} % asked for",
                100.0 * kept,
                100.0 * args.least
            )?,
            None => writeln!(out, "kept     nothing to keep: on this text the adapter is no better than the base")?,
        }
        writeln!(out, "{} tokens predicted on {}", grouped(losses.targets), losses.device)
    })?;
    let enough = losses.is_none() || kept.is_some_and(|kept| kept >= args.least);
    Ok(if enough { ExitCode::SUCCESS } else { ExitCode::from(TOO_LITTLE) })
}
