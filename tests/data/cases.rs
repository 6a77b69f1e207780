//! One folder of `tests/cases` for each input that was once misread: what is learned of it, or why it is refused.
//!
//! A folder holds `input.` and its kind (`txt`, `jsonl`, `json`), `chat.jinja` if it has conversations, and `expected.txt`:
//! a line for each sample, targets in `[[ ]]`, or `refused: ` and a part of the message. Tokens are bytes, so the text shows all of them; a line feed is `\n`.

use super::texts::Place;
use std::fs;
use std::path::{Path, PathBuf};
use tetrad::data::{IGNORE, Prepared, Tokenizer, Tokens};

fn folders() -> Vec<PathBuf> {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut found: Vec<PathBuf> = fs::read_dir(base).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    found
}

/// The samples of a source, one a line.
fn shown(tokens: &Tokens) -> String {
    let ids = tokens.to_vec();
    let mut targets = vec![0; ids.len()];
    tokens.read_targets(0, &mut targets);
    let starts = match tokens.samples().as_slice() {
        [] => vec![0, ids.len()],
        starts => starts.to_vec(),
    };
    let mut out = String::new();
    for sample in starts.windows(2) {
        let mut at = sample[0];
        while at < sample[1] {
            let learned = targets[at] != IGNORE;
            let end = (at..sample[1]).find(|&i| (targets[i] != IGNORE) != learned).unwrap_or(sample[1]);
            let text = Tokenizer::bytes().decode(&ids[at..end]).replace('\n', "\\n");
            out += &if learned { format!("[[{text}]]") } else { text };
            at = end;
        }
        out.push('\n');
    }
    out
}

fn outcome(folder: &Path) -> String {
    let input = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let input = input.into_iter().find(|path| path.file_stem().is_some_and(|stem| stem == "input")).unwrap();
    let name = input.file_name().unwrap().to_string_lossy().into_owned();
    let mut place = Place::with_rows(&[(&name, fs::read(&input).unwrap())], 8);
    if let Ok(template) = fs::read_to_string(folder.join("chat.jinja")) {
        place.config.data.chat_template = Some(template);
    }
    let config = &place.config;
    match Prepared::new(&config.data, &config.tokenizer, config.model.vocab, &mut |_| {}) {
        Ok(prepared) => shown(prepared.train[0].dataset.tokens()),
        Err(error) => format!("refused: {error}\n"),
    }
}

#[test]
fn every_case_is_read_as_it_should_be() {
    let folders = folders();
    assert!(folders.len() >= 12, "{} cases", folders.len());
    let mut wrong = Vec::new();
    for folder in folders {
        let (found, wanted) = (outcome(&folder), fs::read_to_string(folder.join("expected.txt")).unwrap());
        let right = match wanted.strip_prefix("refused: ") {
            Some(reason) => found.starts_with("refused: ") && found.contains(reason.trim_end()),
            None => found == wanted,
        };
        if !right {
            wrong.push(format!("{}:\n{found}instead of\n{wanted}", folder.file_name().unwrap().to_string_lossy()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
