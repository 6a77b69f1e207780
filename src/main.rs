//! The `tetrad` command.

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("tetrad: {e}");
            ExitCode::from(2)
        }
    }
}
