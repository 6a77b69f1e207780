//! `tetrad diff`: what changed between two files.

mod report;

use super::CliResult;
use super::model_file::any_file;
use super::output::{in_file, json, print, warn_of_damage};
use std::path::PathBuf;
use std::process::ExitCode;
use tetrad::format::{File, diff};
use tetrad::store::Map;

/// Compare two .tetrad files tensor by tensor.
///
/// Per tensor: codes (or values) changed, their share, the root mean square of the change, and what changed in every
/// other plane; then metadata and attachments. Exit status: 0 if the contents are the same, 1 if not, 2 if a file
/// cannot be read.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The file to compare from, or the folder of a finished run for its weights.
    #[arg(value_parser = any_file())]
    a: PathBuf,
    /// The file to compare to, likewise.
    #[arg(value_parser = any_file())]
    b: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `tetrad diff`.
///
/// # Errors
/// If a file cannot be read or is no valid .tetrad file.
pub fn run(args: Args) -> CliResult {
    let (map_a, map_b) = (Map::open(&args.a)?, Map::open(&args.b)?);
    let a = File::parse(&map_a).map_err(|e| in_file(&args.a, &e))?;
    let b = File::parse(&map_b).map_err(|e| in_file(&args.b, &e))?;
    for (path, file) in [(&args.a, &a), (&args.b, &b)] {
        warn_of_damage(path, file);
    }
    let diff = diff(&a, &b);
    print(|out| if args.json { json(out, &report::json(&diff)) } else { report::text(out, &diff) })?;
    Ok(if diff.is_same() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
