//! Names of files that say what is in them.

use super::output::escape;
use std::path::Path;

/// Endings of other programs' files, and of texts of a model's directory: what is written under such a name would not be what
/// it says.
const FILES: [&str; 8] = ["safetensors", "bin", "pt", "pth", "ckpt", "onnx", "json", "npz"];

/// Whether a name says that it is a GGUF file.
pub(super) fn is_gguf(path: &Path) -> bool {
    ending(path).as_deref() == Some("gguf")
}

/// The ending of a name that says that it is another single file than GGUF's, `.tetrad` among them.
pub(super) fn of_single_file(path: &Path) -> Option<String> {
    ending(path).filter(|ending| FILES.contains(&ending.as_str()) || ending == "tetrad")
}

/// Refuses to write a `.tetrad` file under the name of another program's, or in the place of a directory.
///
/// # Errors
/// What the name says, and what helps.
pub(super) fn refuse_other(output: &Path) -> Result<(), String> {
    let shown = escape(&output.to_string_lossy());
    if output.is_dir() || output.to_string_lossy().ends_with('/') {
        return Err(format!(
            "{shown}: is a directory, and a .tetrad file is written; name the file, such as {}",
            escape(&output.join("model.tetrad").to_string_lossy())
        ));
    }
    match ending(output).filter(|ending| FILES.contains(&ending.as_str()) || ending == "gguf") {
        None => Ok(()),
        Some(ending) => Err(format!(
            "{shown}: a .tetrad file is written, and its name would say .{ending}; name it {}, and `tetrad export` makes \
             other programs' files of it",
            escape(&output.with_extension("tetrad").to_string_lossy())
        )),
    }
}

fn ending(path: &Path) -> Option<String> {
    path.extension().map(|ending| ending.to_string_lossy().to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_another_format_is_refused_in_any_case() {
        for name in ["x.gguf", "x.GGUF", "a/x.safetensors", "x.Bin", "x.pt", "x.json", "out/"] {
            assert!(refuse_other(Path::new(name)).is_err(), "{name}");
        }
        for name in ["x.tetrad", "x", "x.gguf.tetrad", "Llama-3.1-8B", "a.dir/x.ttd"] {
            assert_eq!(refuse_other(Path::new(name)), Ok(()), "{name}");
        }
        let said = refuse_other(Path::new("m.gguf")).unwrap_err();
        assert!(said.contains("name it m.tetrad, and `tetrad export`"), "{said}");
    }

    #[test]
    fn single_files_are_told_from_directories() {
        assert_eq!(of_single_file(Path::new("m.SafeTensors")).as_deref(), Some("safetensors"));
        assert_eq!(of_single_file(Path::new("m.tetrad")).as_deref(), Some("tetrad"));
        assert!(of_single_file(Path::new("Qwen2.5")).is_none() && is_gguf(Path::new("m.Gguf")));
    }
}
