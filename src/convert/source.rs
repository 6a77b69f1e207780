//! A model to be imported: mapped, with a known configuration, and every tensor found once in the right shape.

use super::gguf::TensorInfo;
use super::names::RowOrder;
use super::quants::Kind;
use crate::config::Config;
use crate::data::Tokenizer;
use crate::error::ConvertError;
use crate::model::{ModelConfig, ParamKind, param_specs};
use crate::store::Map;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A tensor of a source.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Number of the file that holds it.
    pub file: usize,
    /// Name, shape, type, range.
    pub info: TensorInfo,
    /// Order of its rows.
    pub order: RowOrder,
}

/// A mapped model.
#[derive(Debug)]
pub struct Source {
    /// The path that was opened.
    pub path: PathBuf,
    /// Its format, for the first line of output: `GGUF`, `Hugging Face directory`.
    pub format: &'static str,
    /// Its files.
    pub files: Vec<(PathBuf, Map)>,
    /// Its configuration.
    pub model: ModelConfig,
    /// Its tensors.
    pub tensors: HashMap<ParamKind, Stored>,
    /// Its tokenizer, a `tokenizer.json`.
    pub tokenizer: Option<Vec<u8>>,
    /// Special tokens and chat template, a `tokenizer_config.json`.
    pub tokenizer_config: Option<Vec<u8>>,
    /// The tokens that end a text, from a `generation_config.json`.
    pub generation_config: Option<Vec<u8>>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// The configuration and tokenizer of a single safetensors file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside<'a> {
    /// A `config.json`.
    pub config: Option<&'a Path>,
    /// A `tokenizer.json`.
    pub tokenizer: Option<&'a Path>,
}

impl Source {
    /// The bytes of a tensor's row `row`, in our order of rows.
    pub fn row(&self, stored: &Stored, row: usize) -> &[u8] {
        let cols = stored.info.dims[stored.info.dims.len() - 1] as usize;
        let bytes = stored.info.kind.row_bytes(cols);
        let at = stored.info.range.start + stored.order.theirs(row) * bytes;
        &self.files[stored.file].1[at..at + bytes]
    }

    /// The kind of a parameter's tensor.
    pub fn kind(&self, role: ParamKind) -> Option<Kind> {
        self.tensors.get(&role).map(|stored| stored.info.kind)
    }

    /// Refuses a tokenizer with ids beyond the vocabulary: better now than after a day of training.
    pub(super) fn check_tokenizer(&self) -> Result<(), ConvertError> {
        if let Some(json) = &self.tokenizer {
            Tokenizer::from_json(json)?.check_vocabulary(self.model.vocab)?;
        }
        Ok(())
    }
}

/// The configuration of a model, with defaults for everything else.
///
/// # Errors
/// If the model is impossible.
pub(super) fn configuration(path: &Path, model: &ModelConfig) -> Result<Config, ConvertError> {
    let mut config = Config { model: model.clone(), ..Config::default() };
    // Whether the vocabulary is large enough is the tokenizer's business.
    config.tokenizer.file = Some("tokenizer.json".into());
    config.train.sequence = model.context.min(config.train.sequence);
    config
        .validate()
        .map_err(|e| ConvertError::Source { path: path.into(), what: format!("an impossible model: {e}") })?;
    Ok(config)
}

/// Tensors of a source by their own names, each with the number of its file.
pub(super) type Found = HashMap<String, (usize, TensorInfo)>;

/// Finds the tensor of every parameter. `name` is a parameter's name in the source; tensors for which `ignored` holds
/// may be left over.
///
/// # Errors
/// Missing and surplus tensors, all of them by name, and shapes that are not those of the configuration.
pub(super) fn assign(
    path: &Path,
    model: &ModelConfig,
    mut found: Found,
    name: impl Fn(ParamKind) -> String,
    order: impl Fn(ParamKind) -> RowOrder,
    ignored: impl Fn(&str) -> bool,
) -> Result<HashMap<ParamKind, Stored>, ConvertError> {
    let config = configuration(path, model)?;
    let (mut tensors, mut missing) = (HashMap::new(), Vec::new());
    for entry in param_specs(&config.settings()) {
        let (role, g) = (entry.kind, entry.shape);
        let Some((file, info)) = found.remove(&name(role)) else {
            missing.push(name(role));
            continue;
        };
        let expected = if role.is_vector() { vec![g.cols as u64] } else { vec![g.rows as u64, g.cols as u64] };
        if info.dims != expected {
            let (tensor, found) = (info.name, info.dims);
            return Err(ConvertError::Shape { path: path.into(), tensor, found, expected });
        }
        tensors.insert(role, Stored { file, info, order: order(role) });
    }
    if !missing.is_empty() {
        return Err(listed(path, "tensors are missing", missing));
    }
    let mut surplus: Vec<String> = found.into_keys().filter(|name| !ignored(name)).collect();
    surplus.sort();
    if !surplus.is_empty() {
        return Err(listed(path, "tensors are not part of the model that the configuration describes", surplus));
    }
    Ok(tensors)
}

/// A note for each special token, by its key, that the vocabulary does not have, as bad conversions leave them.
pub(super) fn beyond(special: Vec<(String, u64)>, vocab: usize) -> Vec<String> {
    let beyond = special.into_iter().filter(|(_, id)| *id >= vocab as u64);
    beyond.map(|(key, id)| format!("{key} is {id}, beyond the vocabulary of {vocab} tokens; no text has it")).collect()
}

fn listed(path: &Path, problem: &'static str, names: Vec<String>) -> ConvertError {
    let count = names.len();
    let mut shown = names.iter().take(20).cloned().collect::<Vec<_>>().join(", ");
    if count > 20 {
        shown += ", ...";
    }
    ConvertError::Tensors { path: path.into(), count, problem, names: shown }
}
