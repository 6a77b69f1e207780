//! `tetrad import`.

use super::model_file::model_file;
use super::output::{escape, print};
use super::progress::converting;
use super::units::bytes;
use super::{CliResult, adapter_files, model_name, overwrite, pool};
use std::path::PathBuf;
use std::process::ExitCode;
use tetrad::convert::adapter::is_adapter;
use tetrad::convert::{Beside, Options, import, open};
use tetrad::model::{Scheme, TableStorage};
use tetrad::store::same_file;

/// Options that say how a model is stored, and nothing of an adapter.
const OF_MODELS: [&str; 8] = ["config", "tokenizer", "weights", "scheme", "group", "embedding", "head", "codes_only"];

/// Convert a model or an adapter to .tetrad: a Hugging Face directory, a safetensors file, or GGUF; a PEFT or mlx-lm folder.
///
/// Q4_0, Q4_1, Q8_0 and MXFP4 tensors keep their bits where they are stored as such; all other matrices are rounded, to codes and
/// residue of eight bits in total unless --weights says otherwise. The tokenizer is included. An adapter is imported for its base, named with --base.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Directory with config.json and model.safetensors, .safetensors file, or .gguf file; an adapter's folder or .gguf file.
    source: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace FILE if it is there already.
    #[arg(long)]
    overwrite: bool,
    /// The .tetrad model that an adapter was trained on, or the folder of its finished run; SOURCE is then an adapter.
    #[arg(long, value_name = "FILE", conflicts_with_all = OF_MODELS, value_parser = model_file())]
    base: Option<PathBuf>,
    /// config.json of a single safetensors file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// tokenizer.json, instead of the model's own.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Storage of the blocks' matrices: four-bit integers or floats (MXFP4), which are trained in place; int8 to fine-tune
    /// at low rates; bf16 and f32 to compare with, or as the base of an adapter [default: fp4 for MXFP4 sources, else int4].
    #[arg(long, value_enum)]
    weights: Option<TableArg>,
    /// Symmetric groups or groups with an offset [default: what the bits of the source need, else symmetric].
    #[arg(long, value_enum)]
    scheme: Option<SchemeArg>,
    /// Elements per group: 32, 64, 128 or 256 [default: 32 for quantized sources and fp4, else 64].
    #[arg(long)]
    group: Option<usize>,
    /// Storage of the embedding [default: int4 or int8 as in the source, bf16 for floats].
    #[arg(long, value_enum)]
    embedding: Option<TableArg>,
    /// Storage of an untied head [default: as for the embedding].
    #[arg(long, value_enum)]
    head: Option<TableArg>,
    /// Leave out the residue: smaller, but training continues from coarser weights.
    #[arg(long)]
    codes_only: bool,
    /// Threads; 0: all processors.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum SchemeArg {
    Symmetric,
    Asymmetric,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum TableArg {
    Int4,
    Fp4,
    Int8,
    Bf16,
    F32,
}

impl From<TableArg> for TableStorage {
    fn from(arg: TableArg) -> Self {
        match arg {
            TableArg::Int4 => Self::Int4,
            TableArg::Fp4 => Self::Fp4,
            TableArg::Int8 => Self::Int8,
            TableArg::Bf16 => Self::Bf16,
            TableArg::F32 => Self::F32,
        }
    }
}

/// Runs `tetrad import`.
///
/// # Errors
/// A source that is not a valid model of the family, options that do not fit it, errors of the file system.
pub fn run(args: Args) -> CliResult {
    pool::run(args.threads, || convert(&args))?
}

fn convert(args: &Args) -> CliResult {
    // The file that is read is refused as such, whatever the options.
    let itself = same_file(&args.output, &args.source);
    if !itself {
        model_name::refuse_other(&args.output)?;
    }
    if let Some(base) = &args.base {
        return adapter_files::import(&args.source, base, &args.output, args.overwrite);
    }
    if is_adapter(&args.source)? {
        let source = escape(&args.source.to_string_lossy());
        return Err(
            format!("{source}: is an adapter; name the model that it was trained on with --base FILE.tetrad").into()
        );
    }
    let beside = Beside { config: args.config.as_deref(), tokenizer: args.tokenizer.as_deref() };
    let source = open(&args.source, beside)?;
    for note in &source.notes {
        eprintln!("note: {}", escape(note));
    }
    overwrite::refuse_file(&args.output, args.overwrite || itself)?;
    let options = Options {
        weights: args.weights.map(Into::into),
        scheme: args.scheme.map(|scheme| match scheme {
            SchemeArg::Symmetric => Scheme::Symmetric,
            SchemeArg::Asymmetric => Scheme::Asymmetric,
        }),
        group: args.group,
        embedding: args.embedding.map(Into::into),
        head: args.head.map(Into::into),
        codes_only: args.codes_only,
    };
    let summary = import(&source, &options, &args.output, &mut converting("importing"))?;
    let output = escape(&args.output.to_string_lossy());
    print(|out| {
        writeln!(
            out,
            "{output}: {}, {} parameters, from a {}",
            bytes(summary.bytes),
            super::units::grouped(summary.config.model.parameters()),
            source.format
        )?;
        let (kept, rounded, floats) = (summary.kept, summary.rounded, summary.floats);
        writeln!(out, "{kept} tensors kept bit for bit or code for code, {rounded} rounded, {floats} floats")
    })?;
    Ok(ExitCode::SUCCESS)
}
