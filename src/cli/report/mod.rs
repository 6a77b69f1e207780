//! `tetrad report`.

mod about;
mod continual;
mod live;
mod page;
mod sheet;

use super::output::{escape, print, write_file};
use super::overwrite::{OutputKind, refuse_other};
use super::{CliResult, Failure, chart, runs};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Write the curves of runs as one self-contained HTML page, or as CSV.
///
/// The pointer on a chart shows the values of all runs there. `tetrad compare` compares runs by their final losses.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folders of runs, or folders of such folders: each `metrics.jsonl` is read.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The file to write [default: report.html, with --csv report.csv, in the first RUN].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write all metrics as CSV, a line for each step, or to standard output with `-o -`.
    #[arg(long)]
    csv: bool,
    /// Replace FILE also if it is no page, with --csv no table, of an earlier report.
    #[arg(long)]
    overwrite: bool,
    /// Serve the page on this machine, to its own browsers only, and keep it up to date until the command is stopped.
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "6007", conflicts_with_all = ["csv", "output", "overwrite"])]
    live: Option<u16>,
}

/// What is written, as it is known again.
const PAGE: OutputKind = OutputKind { name: "a page of a report", head: chart::HEAD };
const SHEET: OutputKind = OutputKind { name: "a table of a report", head: "run,step" };

/// A run that is drawn.
#[derive(Default)]
struct Run {
    name: String,
    record: runs::Record,
    /// Every key of its configuration with its value as TOML.
    keys: BTreeMap<String, String>,
    written: about::Written,
    lines: Vec<Value>,
    /// Numbers of lines that could not be read.
    faults: Vec<usize>,
}

/// Runs `tetrad report`.
///
/// # Errors
/// If there are no metrics or the page cannot be written.
pub fn run(args: Args) -> CliResult {
    let (name, kind) = if args.csv { ("report.csv", SHEET) } else { ("report.html", PAGE) };
    let output = args.output.clone().unwrap_or_else(|| args.runs[0].join(name));
    let prints = output == Path::new("-");
    if args.live.is_none() && !prints {
        refuse_other(&output, kind, args.overwrite)?;
    }
    let found = read(&args.runs)?;
    let matrices = || args.runs.iter().map(|folder| continual::section(folder)).collect::<String>();
    if let Some(port) = args.live {
        return live::serve(port, &|| read(&args.runs).map(|runs| page::page_of(&runs, &matrices(), true)));
    }
    for Run { name, faults, .. } in &found {
        if let [first, ..] = faults.as_slice() {
            let (name, count) = (escape(name), faults.len());
            eprintln!(
                "note: {name}: {count} of the lines of metrics.jsonl are no JSON and are left out, the first is line {first}"
            );
        }
    }
    let text = if args.csv { sheet::csv(&found)? } else { page::page_of(&found, &matrices(), false).into_bytes() };
    if prints {
        print(|out| out.write_all(&text))?;
        return Ok(ExitCode::SUCCESS);
    }
    write_file(&output, &text)?;
    let lines: usize = found.iter().map(|run| run.lines.len()).sum();
    print(|out| {
        let runs = if found.len() == 1 { "1 run".into() } else { format!("{} runs", found.len()) };
        writeln!(out, "{}: {runs}, {lines} lines of metrics", escape(&output.to_string_lossy()))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The runs below some folders that have done a step.
///
/// # Errors
/// A folder that cannot be read, or without a run that has begun.
fn read(folders: &[PathBuf]) -> Result<Vec<Run>, Failure> {
    let mut found = Vec::new();
    for folder in folders {
        let shown = escape(&folder.to_string_lossy());
        let before = found.len();
        for dir in runs::find(folder).map_err(|e| format!("{e}; name the folder of a run (run.dir)"))? {
            let (lines, faults) = runs::lines_and_faults(&dir)?;
            if lines.iter().any(|line| line["step"].as_u64().is_some()) {
                let (record, keys) = runs::read_with(&dir, &lines)?;
                let (name, written) = (dir.to_string_lossy().into_owned(), about::Written::of(&dir));
                found.push(Run { name, record, keys, written, lines, faults });
            }
        }
        if found.len() == before {
            return Err(format!(
                "{shown}: holds no run that has done a step; name the folder of a run (run.dir), or one of several runs"
            )
            .into());
        }
    }
    // What all names begin with says nothing.
    if found.len() > 1 {
        let names: Vec<String> = found.iter().map(|run| run.name.clone()).collect();
        let shared = common_folder(&names);
        found.iter_mut().for_each(|run| run.name = run.name[shared..].to_owned());
    }
    Ok(found)
}

/// Bytes of the folders that all paths begin with.
fn common_folder(paths: &[String]) -> usize {
    let first = &paths[0];
    let mut ends = first.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| at + 1);
    ends.rfind(|&end| paths.iter().all(|path| path.len() > end && path.starts_with(&first[..end]))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_the_folders_they_share() {
        let names = |paths: &[&str]| {
            let paths: Vec<String> = paths.iter().map(|&path| path.into()).collect();
            let shared = common_folder(&paths);
            paths.iter().map(|path| path[shared..].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&["runs/a/seed=1", "runs/a/seed=2"]), ["seed=1", "seed=2"]);
        assert_eq!(names(&["a", "b"]), ["a", "b"]);
        assert_eq!(names(&["runs/a", "runs/a"]), ["a", "a"]);
    }
}
