//! A Hugging Face directory, or a single safetensors file, as a model.

mod config;
mod index;

pub use config::write as write_config;

use super::gguf::TensorInfo;
use super::names::RowOrder;
use super::safetensors;
use super::source::{Beside, Found, Source, assign, beyond};
use crate::data::tokenize::read_sentence_piece;
use crate::error::{ConvertError, StoreError};
use crate::model::{ModelConfig, ParamKind};
use crate::store::Map;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The head of an untied model; a tied one may have it too.
const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Most bytes of a `config.json`.
pub(super) const MOST_CONFIG: u64 = 1 << 20;

/// Most bytes of a `tokenizer.json` or an index.
const MOST_TOKENIZER: u64 = 1 << 28;

/// How a file begins that stands for one that was not fetched.
pub(super) const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// What to do about it.
pub(super) const LFS_ADVICE: &str =
    "is a Git LFS pointer, which only names the file; run `git lfs pull` in its directory, or download it again";

/// Files of tokenizers that are not read.
const OTHER_TOKENIZERS: [(&str, &str); 2] =
    [("vocab.json", "a vocabulary and merges"), ("tekken.json", "Mistral's Tekken")];

/// Opens a directory: `config.json`, `model.safetensors` or `model.safetensors.index.json` with its shards, or all of a
/// model's shards, `tokenizer.json` or SentencePiece's `tokenizer.model`, `tokenizer_config.json`, `special_tokens_map.json`,
/// `generation_config.json`. Of a single file and an index of several, the single file is read, as in transformers.
///
/// # Errors
/// A file that is missing, damaged or outside of the directory; an unsupported model.
pub fn open_directory(dir: &Path, beside: Beside<'_>) -> Result<Source, ConvertError> {
    let index = dir.join("model.safetensors.index.json");
    let single = dir.join("model.safetensors");
    let mut notes = Vec::new();
    let names = match (index.exists(), single.exists()) {
        (stale, true) => {
            if stale {
                let note = "model.safetensors is read; model.safetensors.index.json beside it is of another save, and \
                            neither it nor its shards are";
                notes.push(note.into());
            }
            index::Index::of(vec!["model.safetensors".into()])
        }
        (true, false) => {
            let index = inside(dir, "model.safetensors.index.json")?;
            index::parse(&index, &read(&index, MOST_TOKENIZER)?)?
        }
        (false, false) => index::Index::of(shards(dir)?),
    };
    let mut files = Vec::new();
    for name in &names.files {
        let path = inside(dir, name)?;
        let map = Map::open(&path)?;
        refuse_pointer(&path, &map)?;
        files.push((path, map));
    }
    let config = match beside.config {
        Some(path) => path.to_path_buf(),
        None => inside(dir, "config.json")?,
    };
    let found = names.check(dir, &files)?;
    let beside_dir = |name: &str| dir.join(name).exists().then(|| inside(dir, name)).transpose();
    let tokenizer = match beside.tokenizer {
        Some(path) => Some(path.to_path_buf()),
        None => match beside_dir("tokenizer.json")? {
            Some(json) => Some(json),
            None => beside_dir("tokenizer.model")?,
        },
    };
    if tokenizer.is_none()
        && let Some((name, kind)) = OTHER_TOKENIZERS.into_iter().find(|(name, _)| dir.join(name).exists())
    {
        let what = format!(
            "its tokenizer is {name} ({kind}), and tokenizer.json is read; make one with transformers' \
             AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR), or give it with --tokenizer FILE"
        );
        return Err(ConvertError::Source { path: dir.into(), what });
    }
    let told = beside_dir("tokenizer_config.json")?;
    let template = beside_dir("chat_template.jinja")?;
    let mut source = assemble(dir, "Hugging Face directory", files, found, &config, tokenizer.as_deref())?;
    source.notes.extend(notes);
    let own = source.tokenizer_config.take();
    let special = beside_dir("special_tokens_map.json")?;
    source.tokenizer_config = tokenizer_config(told.as_deref(), special.as_deref(), template.as_deref(), own)?;
    let generation = beside_dir("generation_config.json")?;
    source.generation_config = generation_config(generation.as_deref(), &config, source.tokenizer_config.as_deref())?;
    source.notes.extend(beyond(special_ids(source.generation_config.as_deref()), source.model.vocab));
    Ok(source)
}

/// Opens a single safetensors file with its configuration.
///
/// # Errors
/// As [`open_directory`]; also if no configuration is given and none is in the same directory.
pub fn open_file(path: &Path, map: Map, beside: Beside<'_>) -> Result<Source, ConvertError> {
    let tensors = safetensors::parse(&map).map_err(|source| ConvertError::Safetensors { path: path.into(), source })?;
    let Some(config) = beside.config else {
        let what = "a safetensors file does not say what model it is; give the directory that holds it and its config.json, or name \
                    that with --config FILE".into();
        return Err(ConvertError::Source { path: path.into(), what });
    };
    let found = tensors.into_iter().map(|info| (info.name.clone(), (0, info))).collect();
    // What else the model was saved with lies beside its configuration, or beside the file itself.
    let folders = [config, path].into_iter().filter_map(Path::parent);
    let mut lying = folders.flat_map(|dir| ["tokenizer.json", "tokenizer.model"].map(|name| dir.join(name)));
    let lying = match beside.tokenizer {
        Some(_) => None,
        None => lying.find(|path| path.is_file()),
    };
    let tokenizer = beside.tokenizer.or(lying.as_deref());
    let mut source = assemble(path, "safetensors file", vec![(path.into(), map)], found, config, tokenizer)?;
    source.notes.extend(lying.map(|path| {
        format!("its tokenizer is {}, which lies beside it (--tokenizer FILE gives another)", path.display())
    }));
    Ok(source)
}

/// The bytes of a `tokenizer.json`, which a SentencePiece model is made to be, and what that says of its special tokens.
///
/// # Errors
/// If it cannot be read.
pub fn tokenizer_file(path: &Path) -> Result<(Vec<u8>, Option<Vec<u8>>), ConvertError> {
    let bytes = read(path, MOST_TOKENIZER)?;
    Ok(match read_sentence_piece(path, &bytes)? {
        Some((json, config)) => (json, Some(serde_json::to_vec_pretty(&config).expect("a JSON value is JSON"))),
        None => (bytes, None),
    })
}

fn assemble(
    path: &Path,
    format: &'static str,
    files: Vec<(PathBuf, Map)>,
    mut found: Found,
    config: &Path,
    tokenizer: Option<&Path>,
) -> Result<Source, ConvertError> {
    let mut model = config::parse(config, &read(config, MOST_CONFIG)?)?;
    let mut notes = Vec::new();
    tie(path, &mut model, &mut found, &files, &mut notes)?;
    let order = |_| RowOrder::Same;
    // Buffers that older versions saved; they are computed from the configuration.
    let ignored = |name: &str| name.ends_with(".rotary_emb.inv_freq");
    let tensors = assign(path, &model, found, ParamKind::name, order, ignored)?;
    let (tokenizer, tokenizer_config) = tokenizer.map(tokenizer_file).transpose()?.unzip();
    if tokenizer.is_none() {
        let unfit = match model.vocab {
            256 => String::new(),
            vocab => format!(", for which its vocabulary of {vocab} was not made"),
        };
        notes.push(format!(
            "there is no tokenizer.json; tokens are taken for bytes{unfit} (--tokenizer FILE gives another)"
        ));
    }
    Ok(Source {
        path: path.into(),
        format,
        files,
        model,
        tensors,
        tokenizer,
        tokenizer_config: tokenizer_config.flatten(),
        generation_config: None,
        notes,
    })
}

/// Checks the tied flag against `lm_head`, in all four combinations: nothing is invented, and nothing that differs is
/// dropped.
fn tie(
    path: &Path,
    model: &mut ModelConfig,
    found: &mut Found,
    files: &[(PathBuf, Map)],
    notes: &mut Vec<String>,
) -> Result<(), ConvertError> {
    let bytes = |(file, info): &(usize, TensorInfo)| &files[*file].1[info.range.clone()];
    let same = match (found.get(HEAD), found.get(EMBEDDING)) {
        (None, _) => None,
        (Some(head), Some(embedding)) => {
            Some(head.1.dims == embedding.1.dims && head.1.kind == embedding.1.kind && bytes(head) == bytes(embedding))
        }
        (Some(_), None) => Some(false),
    };
    let what = match (model.tied, same) {
        (true, None) | (false, Some(_)) => return Ok(()),
        (true, Some(true)) => {
            found.remove(HEAD);
            notes.push(format!("{HEAD} is there although the model is tied, and equal to the embedding; kept once"));
            return Ok(());
        }
        (true, Some(false)) => format!(
            "tie_word_embeddings is true, but {HEAD} differs from {EMBEDDING}; set it to false in config.json if the \
             head is meant, or remove the tensor if it is not"
        ),
        (false, None) => format!(
            "{HEAD} is missing and tie_word_embeddings is false; set it to true in config.json if the head is the \
             embedding, or find the file that holds it"
        ),
    };
    Err(ConvertError::Source { path: path.into(), what })
}

type Object = serde_json::Map<String, serde_json::Value>;

/// A companion file of at most `most` bytes and the object in it: one that was cut off must not pass for one that says
/// nothing.
fn companion(path: &Path, most: u64, what: &str) -> Result<(Vec<u8>, Object), ConvertError> {
    let refuse = |e| ConvertError::Source { path: path.into(), what: format!("is no {what}: {e}") };
    let json = read(path, most)?;
    serde_json::from_slice(&json).map(|object| (json, object)).map_err(refuse)
}

/// `tokenizer_config.json`, with the chat template, which newer versions store in a separate file, with the special tokens
/// of `special_tokens_map.json` (`special`) as older versions have them, and with what the tokenizer itself says (`own`)
/// where it says nothing.
fn tokenizer_config(
    path: Option<&Path>,
    special: Option<&Path>,
    template: Option<&Path>,
    own: Option<Vec<u8>>,
) -> Result<Option<Vec<u8>>, ConvertError> {
    let told = path.map(|path| companion(path, MOST_TOKENIZER, "configuration of a tokenizer")).transpose()?;
    let special = special.map(|path| companion(path, MOST_TOKENIZER, "map of special tokens")).transpose()?;
    let own: Option<Object> = own.and_then(|own| serde_json::from_slice(&own).ok());
    let mut map = told.as_ref().map(|(_, map)| map.clone()).unwrap_or_default();
    // As in transformers: a configuration that lists its added tokens is of a version that no longer reads the map.
    let newer = map.contains_key("added_tokens_decoder");
    for (key, value) in special.into_iter().flat_map(|(_, map)| map).filter(|(_, value)| !value.is_null()) {
        let said = map.get(&key).is_some_and(|value| !value.is_null());
        if !(newer && said) {
            map.insert(key, value);
        }
    }
    for (key, value) in own.into_iter().flatten() {
        map.entry(key).or_insert(value);
    }
    if let Some(template) = template {
        let text = String::from_utf8(read(template, MOST_CONFIG)?)
            .map_err(|_| ConvertError::Source { path: template.into(), what: "is not UTF-8".into() })?;
        map.insert("chat_template".into(), text.into());
    }
    match told {
        // Its own bytes, where nothing is added to what it says.
        Some((json, said)) if said == map => Ok(Some(json)),
        None if map.is_empty() => Ok(None),
        _ => Ok(Some(serde_json::to_vec(&map).expect("a JSON value is JSON"))),
    }
}

/// `generation_config.json`; without one, `config.json` may say with which tokens a text begins and ends, as older models
/// do: a list of ends, or ids whose names `tokenizer_config.json` (`told`) does not say.
fn generation_config(path: Option<&Path>, config: &Path, told: Option<&[u8]>) -> Result<Option<Vec<u8>>, ConvertError> {
    let object = |path: &Path| companion(path, MOST_CONFIG, "configuration of generation");
    if let Some(path) = path {
        return object(path).map(|(json, _)| Some(json));
    }
    let (_, config) = object(config)?;
    let told: serde_json::Value = told.and_then(|told| serde_json::from_slice(told).ok()).unwrap_or_default();
    let mut found = serde_json::Map::new();
    for (id, name) in [("bos_token_id", "bos_token"), ("eos_token_id", "eos_token")] {
        let needed = |value: &&serde_json::Value| value.is_array() || value.is_u64() && told[name].is_null();
        if let Some(value) = config.get(id).filter(needed) {
            found.insert(id.into(), value.clone());
        }
    }
    Ok((!found.is_empty()).then(|| serde_json::Value::from(found).to_string().into_bytes()))
}

/// The special tokens of `generation_config.json`, with their keys.
fn special_ids(generation: Option<&[u8]>) -> Vec<(String, u64)> {
    let told: serde_json::Value = generation.and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
    let ids = |key: &str| -> Vec<(String, u64)> {
        let ids = told[key].as_array().map_or(vec![&told[key]], |ids| ids.iter().collect());
        ids.into_iter().filter_map(|id| Some((key.to_owned(), id.as_u64()?))).collect()
    };
    ["bos_token_id", "eos_token_id", "pad_token_id"].into_iter().flat_map(ids).collect()
}

/// The shards of a model that has no index, all of them: `model-00001-of-00003.safetensors` and so on.
///
/// # Errors
/// A directory without any, with some of them, or with those of several models.
fn shards(dir: &Path) -> Result<Vec<String>, ConvertError> {
    let refuse = |what: String| Err(ConvertError::Source { path: dir.into(), what });
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut found = BTreeMap::new();
    for name in names.filter_map(|name| name.into_string().ok()) {
        let numbers = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
        let numbers = numbers.and_then(|rest| rest.split_once("-of-"));
        let parsed = numbers.and_then(|(number, count)| Some((count.parse().ok()?, number.parse().ok()?)));
        if let Some((count, number)) = parsed {
            let (count, number): (usize, usize) = (count, number);
            found.insert((count, number), name);
        }
    }
    let Some(&(count, _)) = found.keys().next() else {
        let what = "holds neither model.safetensors nor model.safetensors.index.json; .bin files (pickles) are not \
                    read, convert them with transformers' save_pretrained";
        return refuse(what.into());
    };
    if let Some((other, _)) = found.keys().find(|(other, _)| *other != count) {
        return refuse(format!(
            "holds shards of a model of {count} files and of one of {other}, and no model.safetensors.index.json says \
             which; remove those that are stale"
        ));
    }
    let missing = (1..=count.min(found.len() + 1)).find(|number| !found.contains_key(&(count, *number)));
    match missing {
        None if found.len() == count => Ok(found.into_values().collect()),
        _ => refuse(format!(
            "holds {} of the {count} shards of a model; number {} is missing, fetch it",
            found.len(),
            missing.unwrap_or(0)
        )),
    }
}

pub(super) fn refuse_pointer(path: &Path, bytes: &[u8]) -> Result<(), ConvertError> {
    match bytes.starts_with(LFS_POINTER) {
        true => Err(ConvertError::Source { path: path.into(), what: LFS_ADVICE.into() }),
        false => Ok(()),
    }
}

/// Reads a small file.
pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>, ConvertError> {
    let map = Map::open(path)?;
    refuse_pointer(path, &map)?;
    if map.len() as u64 > most {
        let what = format!("has {} bytes, at most {most} are read", map.len());
        return Err(ConvertError::Source { path: path.into(), what });
    }
    Ok(map.to_vec())
}

/// The path of a file in a directory. Neither its name nor a link may lead out of the directory, except the links of
/// Hugging Face's own cache, from `snapshots/REVISION/` to `blobs/`.
pub(super) fn inside(dir: &Path, name: &str) -> Result<PathBuf, ConvertError> {
    let refuse = |what: &str| {
        let what = format!("names the file {name:?}, {what}; names of files beside it are read");
        ConvertError::Source { path: dir.into(), what }
    };
    let plain = Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if !plain || name.is_empty() || name.contains(['\0', '\\']) {
        return Err(refuse("which leads out of the directory"));
    }
    let path = dir.join(name);
    let real = |path: &Path| std::fs::canonicalize(path).map_err(|e| StoreError::io(path, "open it", e));
    let (target, home) = (real(&path)?, real(dir)?);
    let cache = home.parent().filter(|parent| parent.ends_with("snapshots")).and_then(Path::parent);
    let in_cache = cache.is_some_and(|cache| target.starts_with(cache.join("blobs")));
    if target.starts_with(&home) || in_cache { Ok(path) } else { Err(refuse("a link that leads out of the directory")) }
}
