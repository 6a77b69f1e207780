//! The `tetrad` command.

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::try_parse().unwrap_or_else(|error| match cli::misnamed(&error) {
        Some(said) => {
            eprintln!("tetrad: {said}");
            std::process::exit(2)
        }
        None => error.exit(),
    });
    match cli::run(cli) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("tetrad: {e}");
            ExitCode::from(2)
        }
    }
}
