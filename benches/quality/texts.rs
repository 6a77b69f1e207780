//! Cuts and prepares the texts of the ladder from a folder of plain texts, one author or work to a file.
//!
//!     cargo run --release --example ladder_texts -- FOLDER OUT [--final NAME] [--validation NAME]
//!
//! Whole files are held out: `final` is scored once, when a run is finished, and no choice is made by it; `validation` is
//! what choices are made by. Unless they are named, `final` is the smallest file of at least 1 MB and `validation` the
//! next larger one. The rest is trained on, and a byte-level BPE of 4096 tokens is made from it. `OUT/texts.json` says
//! what went where, with digests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a held-out text at least.
const HELD_OUT: usize = 1_000_000;

/// Tokens of the BPE.
const VOCABULARY: usize = 4096;

/// What a text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Trained on.
    Train,
    /// Choices are made by it.
    Validation,
    /// Scored at the end, and nothing else.
    Final,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Final => "final",
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    /// The text that is scored at the end: the name of its file without the ending.
    pub last: Option<String>,
    /// The text that choices are made by, likewise.
    pub validation: Option<String>,
    /// Bytes of a held-out text at least.
    pub held_out: usize,
    /// Tokens of the BPE.
    pub vocabulary: usize,
}

/// The texts of a folder by name: UTF-8, lines ended by line feeds, the last one too.
///
/// # Errors
/// A folder or a file that cannot be read.
fn texts(folder: &Path) -> Result<BTreeMap<String, String>, String> {
    let fail = |path: &Path, what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(|e| fail(folder, &e))? {
        let path = entry.map_err(|e| fail(folder, &e))?.path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let bytes = std::fs::read(&path).map_err(|e| fail(&path, &e))?;
        let text = String::from_utf8(bytes).map_err(|e| fail(&path, &e))?;
        let mut text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").trim().to_owned();
        text.push('\n');
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        found.insert(name, text);
    }
    Ok(found)
}

/// Who is held out.
///
/// # Errors
/// A name without a file, too few texts, or one that is too short to measure by.
fn roles(texts: &BTreeMap<String, String>, cut: &Cut) -> Result<BTreeMap<String, Role>, String> {
    let mut by_size: Vec<(&String, usize)> = texts.iter().map(|(name, text)| (name, text.len())).collect();
    by_size.sort_by_key(|&(name, bytes)| (bytes, name));
    let mut roles: BTreeMap<String, Role> = texts.keys().map(|name| (name.clone(), Role::Train)).collect();
    for (role, asked) in [(Role::Final, &cut.last), (Role::Validation, &cut.validation)] {
        let free = |name: &str| roles.get(name) == Some(&Role::Train);
        let chosen = match asked {
            Some(name) if free(name) => name.clone(),
            Some(name) => return Err(format!("{name}: no text of that name is left for {}", role.word())),
            None => {
                let long = by_size.iter().find(|&&(name, bytes)| bytes >= cut.held_out && free(name));
                let (name, _) =
                    long.ok_or_else(|| format!("no text of {} bytes is left for {}", cut.held_out, role.word()))?;
                (*name).clone()
            }
        };
        let bytes = texts[&chosen].len();
        if bytes < cut.held_out {
            return Err(format!("{chosen}: has {bytes} bytes; {} are needed to measure by", cut.held_out));
        }
        roles.insert(chosen, role);
    }
    match roles.values().any(|role| *role == Role::Train) {
        true => Ok(roles),
        false => Err("nothing is left to train on; three texts are the least".into()),
    }
}

/// Writes `OUT/train/`, `OUT/validation/`, `OUT/final/`, `OUT/tokenizer.json` and `OUT/texts.json`, and gives the last.
///
/// # Errors
/// What cannot be read, cut or written.
pub fn prepare(folder: &Path, out: &Path, cut: &Cut) -> Result<String, String> {
    let texts = texts(folder)?;
    let roles = roles(&texts, cut)?;
    let write = |path: PathBuf, text: &str| {
        let folder = path.parent().expect("a file in a folder");
        let done = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, text));
        done.map_err(|e| format!("{}: {e}", path.display()))
    };
    let mut lines = Vec::new();
    for (name, text) in &texts {
        let role = roles[name].word();
        write(out.join(role).join(format!("{name}.txt")), text)?;
        let (bytes, digest) = (text.len(), xxh3_64(text.as_bytes()));
        lines.push(format!(
            "  {{\"name\": {name:?}, \"role\": \"{role}\", \"bytes\": {bytes}, \"xxh3\": \"{digest:016x}\"}}"
        ));
    }
    let trained = texts.iter().filter(|(name, _)| roles[*name] == Role::Train).map(|(_, text)| text);
    let tokenizer = tokenizer(trained, cut.vocabulary).map_err(|e| format!("the tokenizer: {e}"))?;
    write(out.join("tokenizer.json"), &tokenizer)?;
    let digest = xxh3_64(tokenizer.as_bytes());
    lines.push(format!(
        "  {{\"name\": \"tokenizer.json\", \"role\": \"tokenizer\", \"bytes\": {}, \"xxh3\": \"{digest:016x}\"}}",
        tokenizer.len()
    ));
    let list = format!("[\n{}\n]\n", lines.join(",\n"));
    write(out.join("texts.json"), &list)?;
    Ok(list)
}

/// A byte-level BPE, as GPT-2's, of these texts.
fn tokenizer<'a>(texts: impl Iterator<Item = &'a String> + Send, vocabulary: usize) -> tokenizers::Result<String> {
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from("<|endoftext|>", true)])
        .build()
        .into();
    let mut tokenizer = Tokenizer::new(BPE::default());
    let bytes = ByteLevel::new(false, true, true);
    tokenizer.with_pre_tokenizer(Some(bytes)).with_decoder(Some(bytes));
    // By paragraphs: a piece is never longer than a line, and a whole text at once takes many times its memory.
    let paragraphs = texts.flat_map(|text| text.split_inclusive("\n\n"));
    tokenizer.train(&mut trainer, paragraphs)?;
    tokenizer.to_string(true)
}

#[allow(dead_code)] // A test includes this file as a module.
fn main() {
    let mut cut = Cut { held_out: HELD_OUT, vocabulary: VOCABULARY, ..Cut::default() };
    let (mut places, mut args) = (Vec::new(), std::env::args().skip(1));
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--final" => cut.last = args.next(),
            "--validation" => cut.validation = args.next(),
            _ => places.push(PathBuf::from(arg)),
        }
    }
    let [folder, out] = places.as_slice() else {
        eprintln!("usage: ladder_texts FOLDER OUT [--final NAME] [--validation NAME]");
        std::process::exit(2);
    };
    match prepare(folder, out, &cut) {
        Ok(list) => print!("{list}"),
        Err(error) => {
            eprintln!("ladder_texts: {error}");
            std::process::exit(2);
        }
    }
}
