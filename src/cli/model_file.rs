//! Models on the command line.

use clap::builder::{PathBufValueParser, TypedValueParser};
use std::path::PathBuf;
use tetrad::checkpoint::MODEL;

/// The file of a model: the one that is named, or the finished weights in the folder of a run.
pub(super) fn model_file() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().map(resolve)
}

fn resolve(path: PathBuf) -> PathBuf {
    let weights = path.join(MODEL);
    if weights.is_file() { weights } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_finished_weights_stands_for_them() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(resolve(run.path().into()), run.path());
        let weights = run.path().join(MODEL);
        std::fs::write(&weights, "").unwrap();
        assert_eq!(resolve(run.path().into()), weights);
        assert_eq!(resolve(weights.clone()), weights);
    }
}
