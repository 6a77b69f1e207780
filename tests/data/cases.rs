//! One folder of `tests/cases` for each input that was once misread: what is made of it, or why it is refused. What a folder
//! holds says what it is a case of:
//!
//! | file | case of | `expected.txt` |
//! | --- | --- | --- |
//! | `input.` and its kind | data, with `chat.jinja` if it has conversations | a line for each sample, targets in `[[ ]]` |
//! | `tokenizer.json` | a tokenizer | a line of ids for each line of `text.txt` |
//! | `talk.json` | the template in `chat.jinja` | the prompt |
//! | `config.json` | a model (see `tests/format/convert/sources.rs`) | what it is |
//!
//! or `refused: ` and a part of the message. Tokens of data are bytes, so the text shows all of them; a line feed is `\n`.

use super::texts::Place;
use crate::harness::cases;
use std::fs;
use std::path::Path;
use tetrad::data::{IGNORE, Message, Prepared, Tokenizer, TokenizerConfig, Tokens};

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

/// The ids of each line.
fn ids(folder: &Path) -> String {
    match Tokenizer::from_file(&folder.join("tokenizer.json")) {
        Ok(tokenizer) => {
            let text = fs::read_to_string(folder.join("text.txt")).unwrap();
            let line = |line| tokenizer.encode(line).unwrap().iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
            text.lines().map(|text| line(text) + "\n").collect()
        }
        Err(error) => format!("refused: {error}\n"),
    }
}

/// What the template makes of the talk.
fn prompt(folder: &Path) -> String {
    let template = fs::read_to_string(folder.join("chat.jinja")).unwrap();
    let json = serde_json::json!({ "bos_token": "<s>", "eos_token": "</s>", "chat_template": template });
    let config = TokenizerConfig::parse("case", json.to_string().as_bytes()).unwrap();
    let talk: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(folder.join("talk.json")).unwrap()).unwrap();
    let message = |message: &serde_json::Value| Message {
        role: ["system", "user", "assistant"].into_iter().find(|role| message["role"] == *role).unwrap(),
        content: message["content"].as_str().unwrap().into(),
    };
    let talk: Vec<Message> = talk.iter().map(message).collect();
    match config.chat_prompt().unwrap().expect("there is a template").render(&talk) {
        Ok(text) => text.replace('\n', "\\n") + "\n",
        Err(reason) => format!("refused: {reason}\n"),
    }
}

/// Compares what is made of each folder that holds such a file with what it expects.
fn every_case(file: &str, least: usize, outcome: fn(&Path) -> String) {
    let cases = cases(file);
    assert!(cases.len() >= least, "{} cases with {file}", cases.len());
    let mut wrong = Vec::new();
    for (name, folder) in cases {
        let (found, wanted) = (outcome(&folder), fs::read_to_string(folder.join("expected.txt")).unwrap());
        let right = match wanted.strip_prefix("refused: ") {
            Some(reason) => found.starts_with("refused: ") && found.contains(reason.trim_end()),
            None => found == wanted,
        };
        if !right {
            wrong.push(format!("{name}:\n{found}instead of\n{wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_case_of_data_is_read_as_it_should_be() {
    every_case("input.", 23, outcome);
}

#[test]
fn every_case_of_a_tokenizer_gives_its_ids() {
    every_case("tokenizer.json", 6, ids);
}

#[test]
fn every_case_of_a_template_writes_its_prompt() {
    every_case("talk.json", 4, prompt);
}

#[test]
fn every_folder_is_a_case() {
    let all = cases("expected.txt");
    let kinds = ["input.", "tokenizer.json", "talk.json", "config.json"].map(cases);
    assert_eq!(all.len(), kinds.iter().map(Vec::len).sum::<usize>(), "a folder is a case of one thing");
}
