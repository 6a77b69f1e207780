//! What is there already is replaced only where `--overwrite` says so, or where it is an earlier output of the same kind.

use super::output::escape;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What a command writes again and again: a page is looked at, and drawn anew after more steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutputKind {
    /// Its name with an article.
    pub name: &'static str,
    /// What every file of this kind begins with.
    pub head: &'static str,
}

/// Refuses to write the file `output` over another.
///
/// # Errors
/// What is there, and what helps.
pub(super) fn refuse_file(output: &Path, overwrite: bool) -> Result<(), String> {
    match std::fs::symlink_metadata(output) {
        Ok(found) if found.is_dir() => Err(format!("{}: is a folder; name a file to write", show(output))),
        // What else is no file is refused by its kind, later.
        Ok(found) if !overwrite && (found.is_file() || found.is_symlink()) => {
            Err(format!("{}: exists already; name another file, or replace it with --overwrite", show(output)))
        }
        _ => Ok(()),
    }
}

/// Refuses to write over a file that is no earlier output of this kind: a slip of the hand must not cost a model.
///
/// # Errors
/// What is there, and what helps.
pub(super) fn refuse_other(output: &Path, kind: OutputKind, overwrite: bool) -> Result<(), String> {
    match overwrite || is_free(output, kind) {
        true => Ok(()),
        false => {
            let (output, name) = (show(output), kind.name);
            Err(format!(
                "{output}: exists already and is not {name}; name another file, or replace it with --overwrite"
            ))
        }
    }
}

/// Whether nothing is lost by writing a file of this kind to `output`: there is none, or it is empty or an earlier one.
pub(super) fn is_free(output: &Path, kind: OutputKind) -> bool {
    // What is no file is refused by its kind, later; nobody waits here for the writer of a pipe.
    if !output.is_file() {
        return true;
    }
    let mut found = Vec::new();
    let read = File::open(output).and_then(|file| file.take(kind.head.len() as u64).read_to_end(&mut found));
    read.is_ok() && (found.is_empty() || found == kind.head.as_bytes())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_earlier_outputs_of_a_kind_are_replaced() {
        const KIND: OutputKind = OutputKind { name: "a table", head: "run,step" };
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a");
        let told = |text: &[u8]| {
            std::fs::write(&path, text).unwrap();
            (refuse_other(&path, KIND, false).is_ok(), refuse_other(&path, KIND, true).is_ok())
        };
        assert_eq!(refuse_other(&path, KIND, false), Ok(()), "there is none");
        assert_eq!([b"".as_slice(), b"run,step,loss\n"].map(told), [(true, true); 2]);
        assert_eq!([b"run,st".as_slice(), b"\x89TETRAD", b"[run]"].map(told), [(false, true); 3]);
        let refused = refuse_other(&path, KIND, false).unwrap_err();
        let said = ": exists already and is not a table; name another file, or replace it with --overwrite";
        assert!(refused.ends_with(said), "{refused}");
        assert!(is_free(place.path(), KIND), "folders are refused where they are written");
    }
}
