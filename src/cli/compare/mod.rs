//! `tetrad compare`.

mod analysis;
mod gather;
mod page;
mod sheets;
mod stats;

use super::number::counted;
use super::output::{escape, json, print, write_file};
use super::overwrite::{OutputKind, refuse_other};
use super::{CliResult, chart};
use analysis::{Analysis, analyse};
use gather::gather;
use sheets::{Sheet, sheets};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Compare runs: final losses, learning rates, paired differences with their intervals, curves.
///
/// Runs that differ in learning rate and seed only are of one arm; arms of a sweep have their names, other runs are told
/// apart by the settings in which they differ. Prints Markdown unless something else is asked for.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Run directories, folders of them, sweeps (.toml), or records of finished runs (.jsonl).
    #[arg(required = true, value_name = "RUN|SWEEP")]
    runs: Vec<PathBuf>,
    /// The arm that others are compared with [default: the first].
    #[arg(long, value_name = "ARM")]
    baseline: Option<String>,
    /// The loss that steps are counted to [default: the baseline's].
    #[arg(long, value_name = "LOSS")]
    target: Option<f64>,
    /// Write a file: an HTML page, Markdown or JSON, by its name's ending (.html, .md, .json); may be repeated.
    #[arg(short, long, value_name = "FILE")]
    output: Vec<PathBuf>,
    /// Replace a FILE also if it is no comparison of its kind.
    #[arg(long, requires = "output")]
    overwrite: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `tetrad compare`.
///
/// # Errors
/// Paths without a run, no finished run, files that cannot be read or written.
pub fn run(args: Args) -> CliResult {
    let formats: Vec<Format> = args.output.iter().map(|path| Format::of(path)).collect::<Result<_, _>>()?;
    let mut outputs = args.output.iter().zip(&formats);
    outputs.try_for_each(|(path, format)| refuse_other(path, format.kind(), args.overwrite))?;
    let analysis = analyse(gather(&args.runs)?, args.baseline.as_deref(), args.target)?;
    analysis.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let names: Vec<_> = args.runs.iter().map(|path| path.to_string_lossy()).collect();
    for (path, format) in args.output.iter().zip(formats) {
        let text = format.text(&names.join(", "), &analysis);
        let shown = escape(&path.to_string_lossy());
        write_file(path, text.as_bytes())?;
        print(|out| writeln!(out, "{shown}: {}", counted(analysis.groups.len() as u64, "arm")))?;
    }
    if args.json {
        print(|out| json(out, &serde_json::to_value(&analysis).expect("numbers and texts are JSON")))?;
    } else if args.output.is_empty() {
        print(|out| out.write_all(markdown(&analysis).trim_end().as_bytes()).and_then(|()| out.write_all(b"\n")))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What every comparison in Markdown begins with.
const MARKDOWN: &str = "## Arms\n\nEach arm at its best learning rate.";

/// The kinds of files that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Html,
    Markdown,
    Json,
}

impl Format {
    fn of(path: &Path) -> Result<Self, String> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("html") => Ok(Self::Html),
            Some("md") => Ok(Self::Markdown),
            Some("json") => Ok(Self::Json),
            _ => Err(format!("--output {}: must end in .html, .md or .json", escape(&path.to_string_lossy()))),
        }
    }

    /// As it is known again.
    fn kind(self) -> OutputKind {
        match self {
            Self::Html => OutputKind { name: "a page of a comparison", head: chart::HEAD },
            Self::Markdown => OutputKind { name: "a comparison in Markdown", head: MARKDOWN },
            Self::Json => OutputKind { name: "a comparison in JSON", head: "{\n  \"groups\": [" },
        }
    }

    fn text(self, title: &str, analysis: &Analysis) -> String {
        match self {
            Self::Html => page::whole(title, analysis),
            Self::Markdown => markdown(analysis),
            Self::Json => serde_json::to_string_pretty(analysis).expect("numbers and texts are JSON") + "\n",
        }
    }
}

fn markdown(analysis: &Analysis) -> String {
    sheets(analysis).iter().map(Sheet::markdown).collect()
}
