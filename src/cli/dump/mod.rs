//! `tetrad dump`: what is in a file, read from its head alone unless contents are asked for.

mod bytes;
mod hex;
mod histogram;
mod pairs;
mod quantile;
mod stats;
mod summary;

use super::CliResult;
use super::model_file::any_file;
use super::output::{in_file, print, warn_of_damage};
use std::path::PathBuf;
use std::process::ExitCode;
use tetrad::format::File;
use tetrad::store::Map;

/// Show what is in a .tetrad file.
///
/// Reads only the head, whatever the file's size, unless --stats or --hex ask for contents.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The file, or the folder of a finished run for its weights.
    #[arg(value_parser = any_file())]
    file: PathBuf,
    /// Add statistics of every tensor's values: extremes, mean, rms, quantiles, zeros, saturation, histogram of codes; and
    /// of an adapter how much each pair of matrices adds.
    #[arg(long)]
    stats: bool,
    /// Only tensors whose name matches this pattern (*, ?, [a-z]).
    #[arg(long, value_name = "GLOB")]
    tensor: Option<glob::Pattern>,
    /// Show one plane: offset, bytes, decoded values. Planes: data, codes, bytes, scales, offsets, residue, m,
    /// m-scales, v, v-scales, v-rows, v-cols, scalars, and what the file names.
    #[arg(long, value_name = "TENSOR:PLANE", conflicts_with_all = ["stats", "tensor", "bytes"])]
    hex: Option<String>,
    /// Account for every byte of the file exactly once.
    #[arg(long, conflicts_with_all = ["stats", "tensor"])]
    bytes: bool,
    /// Print JSON; non-finite numbers are "nan", "inf" or "-inf".
    #[arg(long)]
    json: bool,
}

/// Runs `tetrad dump`.
///
/// # Errors
/// If the file cannot be read, is no valid .tetrad file, or has no such tensor or plane.
pub fn run(args: Args) -> CliResult {
    let map = Map::open(&args.file)?;
    let file = File::parse(&map).map_err(|e| in_file(&args.file, &e))?;
    if let Some(which) = &args.hex {
        let plane = hex::find(&file, which)?;
        print(|out| if args.json { hex::json(out, &file, &plane) } else { hex::text(out, &file, &plane) })?;
    } else if args.bytes {
        print(|out| if args.json { bytes::json(out, &file) } else { bytes::text(out, &file) })?;
    } else {
        let tensors = select(&file, args.tensor.as_ref())?;
        if args.stats {
            warn_of_damage(&args.file, &file);
        }
        let stats = if args.stats { stats::of(&file, &tensors) } else { Vec::new() };
        // Part of the whole, not of some tensors.
        let wanted = args.stats && args.tensor.is_none() && file.metadata().contains_key("adapter");
        let pairs = if wanted { pairs::of(&args.file) } else { Ok(Vec::new()) };
        print(|out| {
            if args.json {
                return summary::json(out, &file, &tensors, &stats, pairs.as_deref().unwrap_or_default());
            }
            summary::text(out, &file, &tensors)?;
            stats::text(out, &stats)?;
            pairs::text(out, &pairs)
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Indices of the tensors that match; all without a pattern.
fn select(file: &File<'_>, pattern: Option<&glob::Pattern>) -> Result<Vec<usize>, String> {
    let names = file.tensors().iter().map(|t| &t.spec.name).enumerate();
    let chosen: Vec<_> = names.filter(|(_, name)| pattern.is_none_or(|p| p.matches(name))).map(|(i, _)| i).collect();
    match pattern {
        Some(p) if chosen.is_empty() => {
            let (total, first) = (file.tensors().len(), &file.tensors()[0].spec.name);
            Err(format!("no tensor matches {:?}: there are {total}, the first is {first}", p.as_str()))
        }
        _ => Ok(chosen),
    }
}
