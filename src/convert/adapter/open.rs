//! Opening an adapter of any format.

use super::peft::Fault;
use super::{ForeignAdapter, gguf, mlx, peft};
use crate::convert::gguf::Gguf;
use crate::convert::hugging_face::{MOST_CONFIG, inside, read, refuse_pointer};
use crate::error::{AdapterError, ConvertError};
use crate::model::ModelConfig;
use crate::store::Map;
use std::path::Path;

/// The configuration of both kinds of folders.
const CONFIG: &str = "adapter_config.json";

/// PEFT's tensors, and those of its older versions.
const PEFT: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// mlx-lm's tensors, and those of its older versions.
const MLX: [&str; 2] = ["adapters.safetensors", "adapters.npz"];

/// Whether a path is an adapter of another program rather than a model: a folder with an `adapter_config.json` and no
/// `config.json`, or a GGUF file that says so.
///
/// # Errors
/// A file that cannot be read.
pub fn is_adapter(path: &Path) -> Result<bool, ConvertError> {
    if path.is_dir() {
        return Ok(path.join(CONFIG).exists() && !path.join("config.json").exists());
    }
    let map = Map::open(path)?;
    Ok(map.starts_with(b"GGUF") && Gguf::parse(&map).is_ok_and(|gguf| gguf::is_adapter(&gguf)))
}

/// Opens an adapter of another program for a base: a PEFT or mlx-lm folder, or a GGUF file.
///
/// # Errors
/// A file that is missing or damaged; an adapter of another base, one that is not whole, or one that computes what is not
/// known here.
pub fn open_adapter(path: &Path, base: &ModelConfig) -> Result<ForeignAdapter, ConvertError> {
    let source = |what: String| ConvertError::Source { path: path.into(), what };
    if !path.is_dir() {
        let map = Map::open(path)?;
        refuse_pointer(path, &map)?;
        if !map.starts_with(b"GGUF") {
            return Err(source("is neither a folder with an adapter_config.json nor a GGUF file".into()));
        }
        return gguf::read(path, &map, base);
    }
    let there = |name: &&str| path.join(name).exists();
    let (is_peft, is_mlx) = (there(&PEFT[0]), there(&MLX[0]));
    let name = match (is_peft, is_mlx) {
        (true, false) => PEFT[0],
        (false, true) => MLX[0],
        (true, true) => {
            return Err(source(format!("holds both {} and {}; remove the one that is not meant", PEFT[0], MLX[0])));
        }
        (false, false) => {
            let old = [PEFT[1], MLX[1]].into_iter().find(|name| there(name));
            return Err(source(match old {
                Some(old) => format!("its tensors are in {old}, which is not read; save it again as safetensors"),
                None => format!("holds neither {} (PEFT) nor {} (mlx-lm)", PEFT[0], MLX[0]),
            }));
        }
    };
    let config = inside(path, CONFIG)?;
    let json = read(&config, MOST_CONFIG)?;
    let file = inside(path, name)?;
    let map = Map::open(&file)?;
    refuse_pointer(&file, &map)?;
    read_folder(is_peft, (&config, &json), (&file, &map), path, base)
}

/// The adapter in the configuration and the tensors of PEFT's folder `path`, of which messages speak.
///
/// # Errors
/// As [`open_adapter`].
pub fn parse_peft(
    path: &Path,
    config: &[u8],
    tensors: &[u8],
    base: &ModelConfig,
) -> Result<ForeignAdapter, ConvertError> {
    read_folder(true, (&path.join(CONFIG), config), (&path.join(PEFT[0]), tensors), path, base)
}

/// The adapter in the bytes of a GGUF file `path`, of which messages speak.
///
/// # Errors
/// As [`open_adapter`].
pub fn parse_adapter_gguf(path: &Path, bytes: &[u8], base: &ModelConfig) -> Result<ForeignAdapter, ConvertError> {
    gguf::read(path, bytes, base)
}

/// Reads the configuration and the tensors of a folder, each with its path.
fn read_folder(
    is_peft: bool,
    (config, json): (&Path, &[u8]),
    (file, tensors): (&Path, &[u8]),
    path: &Path,
    base: &ModelConfig,
) -> Result<ForeignAdapter, ConvertError> {
    let found = if is_peft { peft::read(path, json, tensors, base) } else { mlx::read(path, json, tensors, base) };
    found.map_err(|fault| match fault {
        Fault::Safetensors(source) => ConvertError::Safetensors { path: file.into(), source },
        Fault::Adapter(fault) => {
            // What is wrong with an option is wrong with the configuration.
            let of_config = matches!(
                fault,
                AdapterError::Config { .. } | AdapterError::Option { .. } | AdapterError::Pattern { .. }
            );
            ConvertError::Adapter { path: if of_config { config } else { file }.into(), source: Box::new(fault) }
        }
    })
}
