//! `tetrad doctor`: what of the machine is there, and what is missing.

use super::hint::{Options, hint};
use super::output::{json, print};
use super::units::bytes;
use super::{CliResult, Failure};
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;
use tetrad::backend::cpu::Isa;
use tetrad::backend::cuda::{Cuda, Search};
use tetrad::error::BackendError;
use tetrad::train::{available, total_memory};

/// Report what tetrad can use of this machine, what is missing, and how to get it.
///
/// Exit status: 0; with `--gpu` 1 if no GPU can be used.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Exit with status 1 unless a GPU can be used.
    #[arg(long)]
    gpu: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One line of the findings.
struct Finding {
    what: &'static str,
    found: String,
    /// What to do, where something is missing.
    advice: Option<String>,
}

/// Runs `tetrad doctor`.
///
/// # Errors
/// If standard output cannot be written to.
pub fn run(args: Args) -> CliResult {
    let (libraries, gpu, usable) = gpu();
    let mut findings = vec![program(), processor(), memory(), disk(Path::new("."))];
    findings.extend(libraries);
    findings.push(gpu);
    print(|out| {
        if args.json {
            let line = |finding: &Finding| {
                let missing = finding.advice.is_some();
                (
                    finding.what.to_owned(),
                    json!({ "found": finding.found, "missing": missing, "advice": finding.advice }),
                )
            };
            return json(out, &Value::Object(findings.iter().map(line).collect()));
        }
        for Finding { what, found, advice } in &findings {
            writeln!(out, "{what:<10} {found}")?;
            if let Some(advice) = advice {
                writeln!(out, "{:<10} to do: {advice}", "")?;
            }
        }
        Ok(())
    })?;
    Ok(if args.gpu && !usable { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn program() -> Finding {
    let parquet = if cfg!(feature = "parquet") { "with" } else { "without" };
    let (version, arch, os) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, std::env::consts::OS);
    let found = format!("tetrad {version} for {arch} {os}, {parquet} Parquet");
    Finding { what: "program", found, advice: None }
}

fn processor() -> Finding {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let name = name.map_or("processor", |(_, name)| name.trim());
    let sets: Vec<&str> = Isa::available().map(Isa::name).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let used = sets.first().copied().unwrap_or("none");
    let found = format!("{name}, {threads} threads; instruction set used: {used}");
    let advice = (sets.len() == 1).then(|| "without AVX2 or AVX-512 the portable code is several times slower".into());
    Finding { what: "processor", found, advice }
}

fn memory() -> Finding {
    let amount = |count: Option<u64>| count.map_or("unknown".into(), bytes);
    let found = format!("{} in all, {} can be allocated", amount(total_memory()), amount(available()));
    Finding { what: "memory", found, advice: None }
}

/// The disk of the current folder, in which runs are kept unless another is named.
fn disk(folder: &Path) -> Finding {
    let free = rustix::fs::statvfs(folder).map(|disk| disk.f_bavail * disk.f_frsize);
    let writable = tempfile::tempfile_in(folder);
    let other = "name another folder with run.dir";
    let (found, advice) = match (free, writable) {
        (Ok(free), Ok(_)) => (format!("{} free in the current folder", bytes(free)), None),
        (_, Err(error)) => (format!("the current folder cannot be written to: {error}"), Some(other.to_owned())),
        (Err(error), _) => (format!("the free space of the current folder is unknown: {error}"), None),
    };
    Finding { what: "disk", found, advice }
}

/// The libraries, the first GPU, and whether it can be used.
fn gpu() -> (Vec<Finding>, Finding, bool) {
    let advise = |error: &Failure| hint(error.as_ref(), Options::Files).or_else(|| Some("use --device cpu".into()));
    let libraries = Search::usual().check().into_iter().map(|(library, found)| {
        let what = match library.split(' ').next() {
            Some("NVIDIA") => "driver",
            Some(first) => first,
            None => library,
        };
        match found {
            Ok(path) => {
                Finding { what, found: path.map_or("found".into(), |path| path.display().to_string()), advice: None }
            }
            Err(error) => {
                let found = match &error {
                    // The folders that were searched are many; `--device cuda` names them.
                    BackendError::Library { files, refused, .. } => {
                        let several = if what == "NCCL" { "; it is needed for several GPUs only" } else { "" };
                        format!("missing (looked for {files}){refused}{several}")
                    }
                    other => other.to_string(),
                };
                Finding { what, found, advice: advise(&error.into()) }
            }
        }
    });
    let libraries = libraries.collect();
    let (found, advice, usable) = match Cuda::open(0) {
        Ok(cuda) => match cuda.memory() {
            Ok((free, total)) => (format!("{}, {} of {} free", cuda.name(), bytes(free), bytes(total)), None, true),
            Err(error) => (error.to_string(), advise(&error.into()), false),
        },
        Err(_) => ("none can be used; training runs on the CPU".into(), None, false),
    };
    (libraries, Finding { what: "GPU", found, advice }, usable)
}
