//! The `tetrad` command.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match tetrad::cli::run(tetrad::cli::Cli::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("tetrad: {e}");
            ExitCode::from(2)
        }
    }
}
