//! `tetrad verify`: checks every byte of files.

use super::hint::Options;
use super::model_file::any_file;
use super::output::{escape, json, json_line, print};
use super::{CliResult, explained};
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tetrad::error::StoreError;
use tetrad::format::File;
use tetrad::store::Map;

/// Exit status where a file cannot be read.
const UNREAD: u8 = 2;

/// Check every byte of .tetrad files against their checksums and rules.
///
/// Exit status: 0 if the file is valid, 1 if it is damaged, 2 if it cannot be read; of several files, that of the worst.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The files; the folder of a finished run stands for its weights.
    #[arg(required = true, value_name = "FILE", value_parser = any_file())]
    files: Vec<PathBuf>,
    /// Print JSON, of several files an object on a line for each.
    #[arg(long)]
    json: bool,
}

/// What is wrong with a file.
struct Checked {
    bytes: usize,
    findings: Vec<String>,
}

/// Runs `tetrad verify`.
///
/// # Errors
/// If the only file cannot be read. A file that breaks a rule is not an error but exit status 1.
pub fn run(args: Args) -> CliResult {
    let several = args.files.len() > 1;
    let mut worst = 0;
    for path in &args.files {
        worst = worst.max(match check(path) {
            Ok(checked) => {
                checked.show(path, args.json, several)?;
                u8::from(!checked.findings.is_empty())
            }
            // The other files are checked all the same.
            Err(error) if several => {
                let said = explained(&error, Options::Files);
                if args.json {
                    let value = json!({ "file": path.to_string_lossy(), "error": said });
                    print(|out| writeln!(out, "{}", json_line(&value)))?;
                }
                eprintln!("tetrad: {said}");
                UNREAD
            }
            Err(error) => return Err(error.into()),
        });
    }
    Ok(ExitCode::from(worst))
}

fn check(path: &Path) -> Result<Checked, StoreError> {
    let map = Map::open(path)?;
    let findings = match File::parse(&map) {
        Ok(file) => file.verify().iter().map(ToString::to_string).collect(),
        Err(e) => vec![e.to_string()],
    };
    Ok(Checked { bytes: map.len(), findings })
}

impl Checked {
    fn show(&self, path: &Path, as_json: bool, several: bool) -> io::Result<()> {
        let Self { bytes, findings } = self;
        let (name, sound) = (path.to_string_lossy(), findings.is_empty());
        print(|out| {
            if as_json {
                let value = json!({ "file": name, "bytes": bytes, "sound": sound, "findings": findings });
                return if several { writeln!(out, "{}", json_line(&value)) } else { json(out, &value) };
            }
            let name = escape(&name);
            findings.iter().try_for_each(|finding| writeln!(out, "{name}: {finding}"))?;
            match sound {
                true => writeln!(out, "{name}: sound, all {bytes} bytes checked"),
                false => writeln!(out, "{name}: damaged, {} finding(s)", findings.len()),
            }
        })
    }
}
