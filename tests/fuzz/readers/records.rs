//! Files of records: lines and arrays of JSON, tables.

use super::ended;
use tetrad::data::{Input, InputKind};

pub fn run_json(bytes: &[u8]) -> String {
    ended(Input::in_memory("input.jsonl", InputKind::JsonLines, bytes.to_vec()).count_documents())
}

/// The separator follows from the name.
pub fn run_csv(bytes: &[u8]) -> String {
    let tabs = ended(Input::in_memory("input.tsv", InputKind::Csv, bytes.to_vec()).count_documents());
    let commas = ended(Input::in_memory("input.csv", InputKind::Csv, bytes.to_vec()).count_documents());
    if commas == "read" { tabs } else { commas }
}
