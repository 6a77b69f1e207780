//! Damaged tokenizer files.

use std::panic;
use std::path::Path;
use std::thread;
use tetrad::data::Tokenizer;

/// Runs `work` without the messages of its panics, which the library catches: they would only hide those of this test.
/// Other threads, on which other tests run, keep theirs.
fn silently(work: impl FnOnce()) {
    let (this, usual) = (thread::current().id(), panic::take_hook());
    panic::set_hook(Box::new(move |info| {
        if thread::current().id() != this {
            usual(info);
        }
    }));
    let result = panic::catch_unwind(panic::AssertUnwindSafe(work));
    let _ = panic::take_hook();
    if let Err(payload) = result {
        panic::resume_unwind(payload);
    }
}

/// Whatever one changed byte makes of a tokenizer, loading and using it ends without a panic.
#[test]
fn a_tokenizer_with_any_byte_changed_never_panics() {
    let mut survivors = 0;
    silently(|| {
        for name in ["byte_level.json", "byte_fallback.json"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizer").join(name);
            let json = std::fs::read(path).unwrap();
            for at in (0..json.len()).step_by(7) {
                let mut broken = json.clone();
                broken[at] = [b'"', b'9', b'[', b'}', 0x80, b' '][at % 6];
                if let Ok(tokenizer) = Tokenizer::from_json(&broken) {
                    survivors += 1;
                    let ids = tokenizer.encode("It is a truth, na\u{ef}ve \u{1f600}").unwrap_or_default();
                    tokenizer.decode(&ids);
                    tokenizer.decode(&[0, 5, 100_000, u32::MAX]);
                }
            }
        }
    });
    assert!(survivors > 10, "only {survivors} changed files were still tokenizers");
}
