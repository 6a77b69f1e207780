//! What was probably meant by a word in the place of a command: a file, or what another program calls a command.

use super::output::{escape, shell};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::path::Path;
use tetrad::checkpoint::METRICS;

/// What other programs call commands.
const ELSEWHERE: [(&str, &str); 19] = [
    ("generate", "tetrad sample FILE --prompt TEXT"),
    ("inference", "tetrad sample FILE --prompt TEXT"),
    ("infer", "tetrad sample FILE --prompt TEXT"),
    ("complete", "tetrad sample FILE --prompt TEXT"),
    ("run", "tetrad chat FILE"),
    ("finetune", "tetrad train --from MODEL --data TEXT"),
    ("fine-tune", "tetrad train --from MODEL --data TEXT"),
    ("tune", "tetrad train --from MODEL --data TEXT"),
    ("lora", "tetrad train --from MODEL --adapter lora --data TEXT"),
    ("resume", "tetrad train RUN --resume"),
    ("evaluate", "tetrad eval FILE --text TEXT"),
    ("perplexity", "tetrad eval FILE --text TEXT"),
    ("convert", "tetrad import SOURCE -o FILE, or tetrad export FILE -o OUT"),
    ("quantize", "tetrad import SOURCE -o FILE"),
    ("fuse", "tetrad merge BASE --adapter ADAPTER -o OUT"),
    ("tokenize", "tetrad prepare --data TEXT --from MODEL"),
    ("inspect", "tetrad dump FILE"),
    ("show", "tetrad dump FILE"),
    ("serve", "tetrad export FILE -o model.gguf, and llama-server -m model.gguf"),
];

/// What to type instead, if `error` is about a word that is no command.
pub fn misnamed(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let shown = escape(word);
    let Some(kind) = kind(Path::new(word)) else {
        let (_, command) = ELSEWHERE.iter().find(|(name, _)| *name == word)?;
        return Some(format!("{shown}: is no command; try {command}"));
    };
    let file = shell(Path::new(word));
    let advice = match kind {
        PathKind::Text => {
            format!("is text; train on it with `tetrad train --data {file}`, with --from MODEL to fine-tune a model")
        }
        PathKind::Model => {
            format!("is a model; try `tetrad chat {file}`, `tetrad dump {file}`, or `tetrad train --from {file}`")
        }
        PathKind::Source => {
            format!("is a model of another program; bring it in with `tetrad import {file} -o model.tetrad`")
        }
        PathKind::Settings => {
            format!("is a configuration; try `tetrad train {file}`, or `tetrad sweep {file}` if it is a sweep")
        }
        PathKind::Run => {
            format!("is a run; continue it with `tetrad train {file} --resume`, or see it with `tetrad report {file}`")
        }
    };
    Some(format!("{shown}: {advice}"))
}

/// What a word on the command line may be in truth.
pub(super) enum PathKind {
    Text,
    Model,
    Source,
    Settings,
    Run,
}

/// What a file or folder is, by its name and what lies in it.
pub(super) fn kind(path: &Path) -> Option<PathKind> {
    if path.join(METRICS).is_file() {
        return Some(PathKind::Run);
    }
    if path.join("config.json").is_file() {
        return Some(PathKind::Source);
    }
    let name = path.file_name().filter(|_| path.is_file())?.to_string_lossy();
    let (_, ending) = name.trim_end_matches(".zst").rsplit_once('.')?;
    Some(match ending {
        "tetrad" => PathKind::Model,
        "gguf" | "safetensors" => PathKind::Source,
        "toml" => PathKind::Settings,
        "txt" | "jsonl" | "json" | "csv" | "tsv" | "parquet" => PathKind::Text,
        _ => return None,
    })
}
