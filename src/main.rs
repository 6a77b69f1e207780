//! The `tetrad` command.

fn main() {}
