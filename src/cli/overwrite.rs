//! What is there already is replaced only where `--overwrite` says so.

use super::output::escape;
use std::path::Path;

/// Refuses to write the file `output` over another.
///
/// # Errors
/// What is there, and what helps.
pub(super) fn refuse_file(output: &Path, overwrite: bool) -> Result<(), String> {
    match std::fs::symlink_metadata(output) {
        // What is no file is refused by its kind, later.
        Ok(found) if !overwrite && (found.is_file() || found.is_symlink()) => {
            Err(format!("{}: exists already; name another file, or replace it with --overwrite", show(output)))
        }
        _ => Ok(()),
    }
}

/// Refuses to write a model's files into the folder `output` beside others; hidden files are none of a model's.
///
/// # Errors
/// What is there, and what helps.
pub(super) fn refuse_folder(output: &Path, overwrite: bool) -> Result<(), String> {
    let held = std::fs::read_dir(output).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let held: Vec<String> = held.map(|name| name.to_string_lossy().into_owned()).collect();
    match held.iter().filter(|name| !name.starts_with('.')).min() {
        Some(name) if !overwrite => {
            let advice = "name another folder, or replace the model in it with --overwrite";
            Err(format!("{}: is not empty, it holds {}; {advice}", show(output), escape(name)))
        }
        _ => Ok(()),
    }
}

fn show(path: &Path) -> String {
    escape(&path.to_string_lossy())
}
