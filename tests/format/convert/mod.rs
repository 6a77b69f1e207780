//! Models of other programs in and out: values against recordings, bits against bits, hostile files.

mod blocks;
mod hostile;
mod round_trip;
mod sources;
mod tokenizers;

use std::path::{Path, PathBuf};
use tetrad::convert::{Beside, Options, Summary, import, open};
use tetrad::error::ConvertError;

/// A file under `fixtures/convert/`.
pub fn fixture(name: &str) -> PathBuf {
    crate::harness::fixture("convert").join(name)
}

/// Brings `from` in.
pub fn bring_in(from: &Path, options: &Options, to: &Path) -> Result<Summary, ConvertError> {
    let source = open(from, Beside::default())?;
    import(&source, options, to, &mut |_, _| {})
}

/// What a refusal says, without the folder it happened in.
pub fn refusal(from: &Path, root: &Path) -> String {
    let error = bring_in(from, &Options::default(), &root.join("refused.tetrad")).map(|_| ()).unwrap_err();
    error.to_string().replace(&format!("{}/", root.display()), "").replace(&root.display().to_string(), ".")
}
