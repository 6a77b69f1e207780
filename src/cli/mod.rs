//! One file per subcommand: `Args` (its doc comments are the help) and `run`.

pub mod diff;
pub mod dump;
mod flatten;
mod number;
mod output;
mod table;
pub mod verify;

use std::process::ExitCode;

/// What a subcommand ends with: its exit status, or an error of one sentence.
pub type CliResult = Result<ExitCode, Box<dyn std::error::Error>>;

/// Trains LLaMA-family models whose weights exist only as packed INT4 nibbles, and looks into their files.
#[derive(clap::Parser)]
#[command(name = "tetrad", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Dump(dump::Args),
    Verify(verify::Args),
    Diff(diff::Args),
}

/// Runs the command that was given.
///
/// # Errors
/// One sentence for the user; exit status 2 by convention, since `verify` and `diff` say "no" with 1.
pub fn run(cli: Cli) -> CliResult {
    match cli.command {
        Command::Dump(args) => dump::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Diff(args) => diff::run(args),
    }
}
