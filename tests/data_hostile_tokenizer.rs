//! Damaged tokenizer files. Alone in its program, since it silences the panic messages of the whole process.

use std::path::Path;
use tetrad::data::Tokenizer;

/// Whatever one changed byte makes of a tokenizer, loading and using it ends without a panic.
#[test]
fn a_tokenizer_with_any_byte_changed_never_panics() {
    // The panics of the library are caught inside; their messages would only hide those of this test.
    std::panic::set_hook(Box::new(|_| {}));
    let mut survivors = 0;
    for name in ["byte_level.json", "byte_fallback.json"] {
        let json = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizer").join(name)).unwrap();
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
    let _ = std::panic::take_hook();
    assert!(survivors > 10, "only {survivors} changed files were still tokenizers");
}
