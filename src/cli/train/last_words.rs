//! Why a rank failed, for torchrun: it names the first that failed, and says what that one left in a file of its own.

use serde_json::json;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where torchrun looks; another file for each process.
const FILE: &str = "TORCHELASTIC_ERROR_FILE";

/// Leaves what went wrong, if somebody looks for it. That it cannot be written is no news: it has been said, too.
pub(in crate::cli) fn leave(said: &str) {
    let Some(file) = std::env::var_os(FILE).filter(|file| !file.is_empty()) else { return };
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let extra = json!({ "py_callstack": "", "timestamp": seconds.to_string() });
    let words = json!({ "message": { "message": said.trim_end(), "extraInfo": extra } });
    let _ = std::fs::write(file, words.to_string());
}
