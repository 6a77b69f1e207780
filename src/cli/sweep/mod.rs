//! `tetrad sweep`.

mod estimate;
mod execute;
mod file;
mod state;
mod values;

pub(super) use file::Sweep;

use super::number::counted;
use super::output::{escape, print};
use super::signals::{Doing, Interrupts};
use super::units::duration;
use super::{CliResult, device};
use estimate::estimate;
use execute::{Options, execute, threads};
use state::{State, States};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Train many runs: named arms, lists and ranges of settings, seeds.
///
/// FILE is TOML; docs/training.md describes it. Runs that are finished or recorded are skipped, runs that were
/// interrupted go on, and one that fails is noted and does not stop the others. SIGINT and SIGTERM let the runs under way
/// finish their step and save; the same command continues. Exit status: 1 if runs have failed, or could not be trained because
/// their folders hold runs of another configuration.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The sweep.
    file: PathBuf,
    /// Runs that are trained at once; they share the processors.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Try failed runs again.
    #[arg(long)]
    retry: bool,
    /// Print the state of every run and stop.
    #[arg(long, conflicts_with_all = ["dry_run", "retry"])]
    status: bool,
    /// Print the state of every run and how long the rest will take, and stop. What has not been trained yet is measured
    /// with a few steps.
    #[arg(long)]
    dry_run: bool,
    /// Where to compute: auto (a GPU if one can be used), cpu, cuda, cuda:N.
    #[arg(long, value_name = "DEVICE", env = "TETRAD_DEVICE", default_value = "auto")]
    device: device::Device,
}

/// Runs `tetrad sweep`.
///
/// # Errors
/// Mistakes in the file; folders that cannot be used.
pub fn run(args: Args) -> CliResult {
    let sweep = Sweep::open(&args.file)?;
    let jobs = usize::from(args.jobs);
    let (threads, device) = (threads(jobs), args.device.to_string());
    if args.status || args.dry_run {
        let states = States::of(&sweep, args.retry)?;
        show(&sweep, &states)?;
        if args.dry_run {
            let left = estimate(&sweep, &states, threads, &device)?;
            let time = duration(Duration::from_secs_f64(left.seconds / jobs as f64));
            print(|out| {
                let verb = if left.runs == 1 { "is" } else { "are" };
                writeln!(out, "{} {verb} left, about {time} with --jobs {jobs}", counted(left.runs as u64, "run"))?;
                match left.measured {
                    0 => Ok(()),
                    1 => writeln!(out, "(one kind of run was measured with a few steps)"),
                    kinds => writeln!(out, "({kinds} kinds of runs were measured with a few steps)"),
                }
            })?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let interrupts = Interrupts::watch()?;
    interrupts.now(Doing::Training);
    execute(&sweep, &Options { jobs, threads, device: &device, retry: args.retry, stop: &interrupts.stop })?;
    let states = States::of(&sweep, false)?;
    show(&sweep, &states)?;
    if interrupts.stopped() {
        print(|out| writeln!(out, "stopped; the same command continues"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let failed = states.0.iter().any(|state| matches!(state, State::Failed(_)));
    let held_up = states.0.iter().filter(|state| matches!(state, State::Differs)).count();
    if held_up > 0 {
        let (all, file) = (states.0.len(), escape(&args.file.to_string_lossy()));
        eprintln!(
            "{held_up} of {all} runs are held up, since their folders hold runs of another configuration; move those folders \
             away, or set another dir in {file}"
        );
    }
    Ok(if failed || held_up > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn show(sweep: &Sweep, states: &States) -> std::io::Result<()> {
    print(|out| {
        states.table(sweep).print(out)?;
        writeln!(out, "\n{}", states.summary())
    })
}
