//! A short run of what `tests/fuzz` fuzzes, without its engine: each reader on the files that fuzzing begins with, and on
//! thousands of mutations of them that are the same in every run.

#[path = "../fuzz/readers/gguf.rs"]
mod gguf_reader;
#[path = "../fuzz/readers/safetensors.rs"]
mod safetensors_reader;
#[path = "../fuzz/readers/tetrad.rs"]
mod tetrad_reader;

use crate::support::mutate::{Random, mutate};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

const MUTATIONS: u64 = 6000;

/// Reads the corpus of that name, as it is and mutated.
fn smoke(corpus: &str, read: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(corpus);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let files: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(!files.is_empty(), "the corpus {corpus} is empty");
    files.iter().for_each(|file| read(file));
    for seed in 0..MUTATIONS {
        let number = seed as usize % files.len();
        let mut bytes = files[number].clone();
        let mut random = Random(seed);
        // Most of a file is data, which no mutation makes wrong: half of them change the first bytes only.
        let head = if random.next(2) == 0 { bytes.len() } else { 256 };
        mutate(&mut bytes, head, &mut random);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| read(&bytes))) {
            eprintln!("seed {seed}, a mutation of {}", paths[number].display());
            resume_unwind(panic);
        }
    }
}

#[test]
fn tetrad_files_end_in_an_error_or_a_file() {
    smoke("tetrad", tetrad_reader::run);
}

#[test]
fn gguf_files_end_in_an_error_or_a_file() {
    smoke("gguf", gguf_reader::run);
}

#[test]
fn safetensors_files_end_in_an_error_or_a_list() {
    smoke("safetensors", safetensors_reader::run);
}
