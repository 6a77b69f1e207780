//! What several tests need.
#![allow(dead_code)]

pub mod adapter;
pub mod clip;
pub mod cpu;
pub mod gpu;
pub mod interpreted;
pub mod llama;
pub mod masked;
pub mod mutations;
pub mod operands;
pub mod process;
pub mod quantizers;
pub mod small;
pub mod state;

use safetensors::SafeTensors;
use std::collections::HashMap;
use std::path::PathBuf;

/// The repository: the current folder where it is one, since tests may have been built elsewhere (for a machine with a GPU),
/// else where they were built.
pub fn root() -> PathBuf {
    match std::env::current_dir() {
        Ok(here) if here.join("fixtures/golden").is_dir() => here,
        _ => PathBuf::from(env!("CARGO_MANIFEST_DIR")),
    }
}

/// A file under `fixtures/`.
pub fn fixture(path: &str) -> PathBuf {
    root().join("fixtures").join(path)
}

/// Does `work` in a thread whose backends have no other: a model so small is computed sooner than a second thread wakes up,
/// and the other cores have other tests.
pub fn in_one_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread").install(work)
}

/// The folders of `tests/cases` that hold a file whose name begins like this, with their names.
pub fn cases(file: &str) -> Vec<(String, PathBuf)> {
    let base = root().join("tests/cases");
    let folders = std::fs::read_dir(base).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let holds = |folder: &PathBuf| {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.into_iter().any(|name| name.to_string_lossy().starts_with(file))
    };
    let mut found: Vec<_> =
        folders.filter(holds).map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), path)).collect();
    found.sort();
    found
}

/// A recorded file: its tensors as numbers (integers become floats), with shapes, and its metadata.
pub struct Golden {
    pub tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
    pub metadata: HashMap<String, String>,
}

impl Golden {
    pub fn load(name: &str) -> Self {
        let bytes = std::fs::read(fixture(&format!("golden/{name}.safetensors"))).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            let data = view.data();
            let numbers = match view.dtype() {
                safetensors::Dtype::F32 => {
                    data.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
                }
                safetensors::Dtype::U8 => data.iter().map(|&byte| f64::from(byte)).collect(),
                safetensors::Dtype::I64 => {
                    data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect()
                }
                safetensors::Dtype::I32 => {
                    data.chunks_exact(4).map(|b| f64::from(i32::from_le_bytes(b.try_into().unwrap()))).collect()
                }
                other => panic!("{name} has type {other:?}"),
            };
            (name, (view.shape().to_vec(), numbers))
        });
        Self { tensors: tensors.collect(), metadata }
    }

    pub fn numbers(&self, name: &str) -> &[f64] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("{name} was not recorded")).1
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.numbers(name).iter().map(|&x| x as f32).collect()
    }
}
