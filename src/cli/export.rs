//! `tetrad export`.

use super::model_file::any_file;
use super::output::{escape, print};
use super::progress::converting;
use super::units::bytes;
use super::{CliResult, adapter_files, adapters, budget, model_name, overwrite, pool};
use std::path::PathBuf;
use std::process::ExitCode;
use tetrad::checkpoint::Checkpoint;
use tetrad::convert::{FloatType, GgufTypes, TableType, export_gguf, export_hugging_face, gguf_left_out};
use tetrad::model::ActivationQuant;

/// Convert a model or an adapter for other programs: GGUF for llama.cpp, or a Hugging Face directory (PEFT's for an adapter).
///
/// GGUF gets exactly the bits that were trained, as Q4_0 or Q4_1; a directory gets their values.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model or the adapter, or the folder of a run that is finished.
    #[arg(value_parser = any_file())]
    file: PathBuf,
    /// Of an adapter that has learned several tasks, export this module.
    #[arg(long, value_enum, value_name = "MODULE")]
    expert: Option<adapters::Expert>,
    /// What to write: a name ending in .gguf, or a directory.
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// Replace a file that is there already, or the model in a directory.
    #[arg(long)]
    overwrite: bool,
    /// GGUF: type of the embedding [default: its own bits, bf16 as f16].
    #[arg(long, value_enum)]
    embedding: Option<TableArg>,
    /// GGUF: type of an untied head [default: its own bits, bf16 as f16].
    #[arg(long, value_enum)]
    head: Option<TableArg>,
    /// Directory: type of the values [default: f32, which is exact].
    #[arg(long = "type", value_enum)]
    float: Option<FloatArg>,
    /// Directory: maximal size of a safetensors file [default: 4GiB].
    #[arg(long, value_name = "SIZE")]
    shard_size: Option<String>,
    /// Threads; 0: all processors.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum TableArg {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FloatArg {
    F32,
    F16,
    Bf16,
}

impl From<TableArg> for TableType {
    fn from(arg: TableArg) -> Self {
        match arg {
            TableArg::F32 => Self::F32,
            TableArg::F16 => Self::F16,
            TableArg::Bf16 => Self::Bf16,
            TableArg::Q8_0 => Self::Q8_0,
            TableArg::Q4_0 => Self::Q4_0,
        }
    }
}

/// Runs `tetrad export`.
///
/// # Errors
/// A file that is not a valid model, options that exclude each other, errors of the file system.
pub fn run(args: Args) -> CliResult {
    pool::run(args.threads, || convert(&args))?
}

fn convert(args: &Args) -> CliResult {
    let gguf = model_name::is_gguf(&args.output);
    if gguf && args.float.is_some() {
        return Err(
            "--type applies to directories; a GGUF file gets the bits of the model (see --embedding, --head)".into()
        );
    }
    if gguf && args.shard_size.is_some() {
        return Err("--shard-size applies to directories; a GGUF file is one file".into());
    }
    if !gguf && (args.embedding.is_some() || args.head.is_some()) {
        return Err("--embedding and --head apply to GGUF; give --output a name that ends in .gguf".into());
    }
    let output = escape(&args.output.to_string_lossy());
    if !gguf && args.output.is_file() {
        return Err(format!("{output}: is a file; give a name that ends in .gguf, or a directory").into());
    }
    // Such a directory is what nobody means.
    if let Some(ending) = model_name::of_single_file(&args.output) {
        return Err(format!(
            "{output}: a model is written as GGUF (a name that ends in .gguf) or as a directory with model.safetensors and all that \
             belongs to it; give one of those names, without .{ending}"
        )
        .into());
    }
    let checkpoint = Checkpoint::open(&args.file)?;
    if checkpoint.meta.adapter.is_some() {
        if args.embedding.is_some() || args.head.is_some() || args.float.is_some() {
            return Err("--embedding, --head and --type apply to models; an adapter keeps its numbers".into());
        }
        return adapter_files::export((&args.file, args.expert), &args.output, gguf, args.overwrite);
    }
    if args.expert.is_some() {
        return Err("--expert applies to adapters".into());
    }
    match gguf {
        true => overwrite::refuse_file(&args.output, args.overwrite)?,
        false => overwrite::refuse_folder(&args.output, args.overwrite)?,
    }
    if checkpoint.meta.activations.quant != ActivationQuant::None {
        eprintln!("note: the model was trained with four-bit activations, which other programs do not simulate");
    }
    let mut bar = converting("exporting");
    if gguf {
        let types = GgufTypes { embedding: args.embedding.map(Into::into), head: args.head.map(Into::into) };
        for note in gguf_left_out(&checkpoint)? {
            eprintln!("note: {}", escape(&note));
        }
        let counts = export_gguf(&checkpoint, types, &args.output, &mut bar)?;
        let size = std::fs::metadata(&args.output).map_or(0, |meta| meta.len());
        let kinds: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {}", kind.name())).collect();
        print(|out| writeln!(out, "{output}: {}, tensors: {}", bytes(size), kinds.join(", ")))?;
        return Ok(ExitCode::SUCCESS);
    }
    let float = match args.float {
        None | Some(FloatArg::F32) => FloatType::F32,
        Some(FloatArg::F16) => FloatType::F16,
        Some(FloatArg::Bf16) => FloatType::Bf16,
    };
    let shard =
        budget::parse_bytes(args.shard_size.as_deref().unwrap_or("4GiB")).map_err(|e| format!("--shard-size {e}"))?;
    let files = export_hugging_face(&checkpoint, float, shard, &args.output, &mut bar)?;
    print(|out| writeln!(out, "{output}: {} as {}", files.join(", "), float.torch()))?;
    Ok(ExitCode::SUCCESS)
}
