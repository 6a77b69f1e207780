//! `tetrad verify`: checks every byte of a file.

use super::CliResult;
use super::output::{escape, json, print};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use tetrad::format::File;
use tetrad::store::Map;

/// Check every byte of a .tetrad file against its checksums and rules.
///
/// Exit status: 0 if the file is valid, 1 if it is damaged, 2 if it cannot be read.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The file.
    file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `tetrad verify`.
///
/// # Errors
/// If the file cannot be read. A file that breaks a rule is not an error but exit status 1.
pub fn run(args: Args) -> CliResult {
    let map = Map::open(&args.file)?;
    let findings: Vec<String> = match File::parse(&map) {
        Ok(file) => file.verify().iter().map(ToString::to_string).collect(),
        Err(e) => vec![e.to_string()],
    };
    let sound = findings.is_empty();
    print(|out| {
        let name = args.file.to_string_lossy();
        if args.json {
            return json(out, &json!({ "file": name, "bytes": map.len(), "sound": sound, "findings": findings }));
        }
        findings.iter().try_for_each(|finding| writeln!(out, "{}: {finding}", escape(&name)))?;
        match sound {
            true => writeln!(out, "{}: sound, all {} bytes checked", escape(&name), map.len()),
            false => writeln!(out, "{}: damaged, {} finding(s)", escape(&name), findings.len()),
        }
    })?;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
