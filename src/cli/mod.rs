//! One file per subcommand: `Args` (its doc comments are the help) and `run`.

mod adapter_files;
mod adapters;
mod budget;
mod chart;
pub mod chat;
pub mod compare;
mod compute;
pub mod config;
pub mod continual;
pub mod device;
mod diff;
pub mod doctor;
pub mod dump;
pub mod eval;
pub mod export;
mod flatten;
mod held_out;
mod hint;
pub mod import;
pub mod merge;
mod misnamed;
mod model_file;
mod model_name;
mod number;
mod output;
mod overrides;
mod overwrite;
pub mod plan;
mod pool;
pub mod prepare;
mod progress;
pub mod report;
mod runs;
pub mod sample;
mod signals;
pub mod sweep;
mod table;
pub mod tokenizer;
pub mod train;
mod units;
pub mod verify;
mod writing;

use hint::{Options, hint};
pub use misnamed::misnamed;
use std::process::ExitCode;

/// An error of one sentence, which may come from another thread.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a subcommand ends with.
pub type CliResult = Result<ExitCode, Failure>;

/// Train LLaMA-family models whose weights exist only as packed INT4 codes, and inspect their files.
#[derive(clap::Parser)]
#[command(name = "tetrad", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Train(train::Args),
    Eval(eval::Args),
    Sample(sample::Args),
    Chat(chat::Args),
    Import(import::Args),
    Export(export::Args),
    Merge(merge::Args),
    Dump(dump::Args),
    Verify(verify::Args),
    Diff(diff::Args),
    Plan(plan::Args),
    Prepare(prepare::Args),
    Tokenizer(tokenizer::Args),
    Config(config::Args),
    Doctor(doctor::Args),
    Report(report::Args),
    Sweep(sweep::Args),
    Compare(compare::Args),
    Continual(continual::Args),
}

/// Runs the command that was given.
///
/// # Errors
/// One sentence for the user; exit status 2 by convention, since `verify` and `diff` say "no" with 1.
pub fn run(cli: Cli) -> Result<ExitCode, String> {
    signals::survive_file_limits().map_err(|error| format!("the signals of the system cannot be used: {error}"))?;
    let options = match cli.command {
        Command::Train(_)
        | Command::Plan(_)
        | Command::Prepare(_)
        | Command::Config(_)
        | Command::Sweep(_)
        | Command::Continual(_) => Options::Keys,
        Command::Eval(_) => Options::Eval,
        _ => Options::Files,
    };
    execute(cli.command).map_err(|error| {
        let said = explained(error.as_ref(), options);
        train::last_words::leave(&said);
        said
    })
}

/// An error with what can be done about it; of a rank beside rank 0, with its number.
fn explained(error: &(dyn std::error::Error + 'static), options: Options) -> String {
    let speaker = train::ranks::speaker();
    match hint(error, options) {
        Some(advice) => format!("{speaker}{error}; {advice}"),
        None => format!("{speaker}{error}"),
    }
}

fn execute(command: Command) -> CliResult {
    match &command {
        Command::Sweep(_) => train::ranks::refuse("sweep")?,
        Command::Continual(_) => train::ranks::refuse("continual")?,
        _ => {}
    }
    match command {
        Command::Train(args) => {
            train::gpus::name_address();
            train::run(args)
        }
        Command::Eval(args) => eval::run(args),
        Command::Sample(args) => sample::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Import(args) => import::run(args),
        Command::Export(args) => export::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Dump(args) => dump::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Prepare(args) => prepare::run(args),
        Command::Tokenizer(args) => tokenizer::run(args),
        Command::Config(args) => config::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Report(args) => report::run(args),
        Command::Sweep(args) => sweep::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Continual(args) => continual::run(args),
    }
}
