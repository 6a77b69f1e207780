//! What is fuzzed: every reader of files that come from elsewhere. A reader gets bytes that may be anything and says how that
//! ended, in words that are alike for inputs that end alike; a panic is its fault.

mod adapter;
mod config;
mod gguf;
mod records;
mod safetensors;
mod template;
mod tetrad;
mod tokenizer;

use std::path::{Path, PathBuf};

/// A reader, and where the inputs are that it begins with.
pub struct Reader {
    pub name: &'static str,
    pub run: fn(&[u8]) -> String,
    /// Folders and the ends of the files' names.
    corpus: &'static [(&'static str, &'static str)],
}

pub static ALL: [Reader; 12] = [
    Reader { name: "tetrad", run: tetrad::run, corpus: &[("tests/fuzz/corpus/tetrad", ".tetrad")] },
    Reader { name: "gguf", run: gguf::run, corpus: &[("tests/fuzz/corpus/gguf", ".gguf")] },
    Reader { name: "safetensors", run: safetensors::run, corpus: &[("tests/fuzz/corpus/safetensors", ".safetensors")] },
    Reader { name: "tokenizer", run: tokenizer::run, corpus: &[("tests/fuzz/corpus/tokenizer", ".json")] },
    Reader { name: "sentencepiece", run: tokenizer::run, corpus: &[("fixtures/tokenizer", ".model")] },
    Reader {
        name: "tokenizer-config",
        run: template::run_config,
        corpus: &[("tests/fuzz/corpus/template", "tokenizer_config.json")],
    },
    Reader {
        name: "template",
        run: template::run,
        corpus: &[("tests/cases", "chat.jinja"), ("tests/fuzz/corpus/template", ".jinja")],
    },
    Reader {
        name: "jsonl",
        run: records::run_json,
        corpus: &[("tests/cases", "input.jsonl"), ("tests/cases", "input.json")],
    },
    Reader {
        name: "csv",
        run: records::run_csv,
        corpus: &[("tests/cases", "input.csv"), ("tests/cases", "input.tsv")],
    },
    Reader { name: "peft", run: adapter::run_peft, corpus: &[("fixtures/golden/adapters", "adapter_config.json")] },
    Reader { name: "adapter-gguf", run: adapter::run_gguf, corpus: &[("fixtures/golden/adapters", "adapter.gguf")] },
    Reader { name: "config", run: config::run, corpus: &[("tests/fuzz/corpus/config", ".toml")] },
];

/// How a reading ended: with a value, or with an error in its words.
fn ended<T, E: std::fmt::Display>(outcome: Result<T, E>) -> String {
    outcome.map_or_else(|error| error.to_string(), |_| "read".into())
}

impl Reader {
    /// The one of this name.
    pub fn named(name: &str) -> Option<&'static Reader> {
        ALL.iter().find(|reader| reader.name == name)
    }

    /// The inputs that it begins with.
    ///
    /// # Panics
    /// If there is none.
    pub fn corpus(&self) -> Vec<Vec<u8>> {
        let mut paths = Vec::new();
        for (folder, end) in self.corpus {
            // The libFuzzer target is a package of its own, here.
            let root = Path::new(env!("CARGO_MANIFEST_DIR").trim_end_matches("/tests/fuzz"));
            collect(&root.join(folder), end, &mut paths);
        }
        paths.sort();
        assert!(!paths.is_empty(), "the corpus of {} is empty", self.name);
        let read = |path: &PathBuf| {
            let bytes = std::fs::read(path).unwrap();
            if self.name == "peft" {
                adapter::joined(&bytes, &path.with_file_name("adapter_model.safetensors"))
            } else {
                bytes
            }
        };
        paths.iter().map(read).collect()
    }
}

fn collect(folder: &Path, end: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, end, found);
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
}
