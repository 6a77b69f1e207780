//! `model.safetensors.index.json`: the file of each tensor.

use crate::convert::safetensors;
use crate::convert::source::Found;
use crate::error::ConvertError;
use crate::store::Map;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Most files of an index.
const MOST_FILES: usize = 4096;

/// Files, and which tensors each should hold.
#[derive(Debug)]
pub struct Index {
    /// Names of the files, each once.
    pub files: Vec<String>,
    /// Tensors and the numbers of their files; nothing where the files hold what they hold.
    tensors: Option<HashMap<String, usize>>,
}

/// Pairs of a JSON object in the order of the text, repeated names among them.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors' names with files' names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = members.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

#[derive(serde::Deserialize)]
struct File {
    weight_map: Pairs,
}

/// Reads an index.
///
/// # Errors
/// An invalid index, or one that assigns a tensor to two files.
pub fn parse(path: &Path, json: &[u8]) -> Result<Index, ConvertError> {
    let refuse = |what: String| ConvertError::Source { path: path.into(), what };
    let file: File = serde_json::from_slice(json).map_err(|e| refuse(format!("is no index: {e}")))?;
    let (mut files, mut numbers, mut tensors) = (Vec::new(), HashMap::new(), HashMap::new());
    for (tensor, name) in file.weight_map.0 {
        let number = *numbers.entry(name.clone()).or_insert_with(|| {
            files.push(name);
            files.len() - 1
        });
        if files.len() > MOST_FILES {
            return Err(refuse(format!("names more than {MOST_FILES} files")));
        }
        if tensors.insert(tensor.clone(), number).is_some() {
            return Err(refuse(format!("names the tensor {tensor:?} twice")));
        }
    }
    if files.is_empty() {
        return Err(refuse("names no file".into()));
    }
    Ok(Index { files, tensors: Some(tensors) })
}

impl Index {
    /// Files that hold what they hold.
    pub fn of(files: Vec<String>) -> Self {
        Self { files, tensors: None }
    }

    /// All tensors of the files, which are those of the index, each in the file that the index says.
    ///
    /// # Errors
    /// Damaged files; tensors in two files, or not where they should be.
    pub fn check(&self, dir: &Path, files: &[(PathBuf, Map)]) -> Result<Found, ConvertError> {
        let refuse = |what: String| Err(ConvertError::Source { path: dir.into(), what });
        let mut found = Found::new();
        for (number, (path, map)) in files.iter().enumerate() {
            let tensors =
                safetensors::parse(map).map_err(|source| ConvertError::Safetensors { path: path.clone(), source })?;
            for info in tensors {
                let name = info.name.clone();
                if let Some((other, _)) = found.insert(name.clone(), (number, info)) {
                    let (first, second) = (&self.files[other], &self.files[number]);
                    return refuse(format!("tensor {name} is claimed by two files, {first:?} and {second:?}"));
                }
            }
        }
        for (name, number) in self.tensors.iter().flatten() {
            if found.get(name).is_none_or(|(holder, _)| holder != number) {
                return refuse(format!(
                    "the index says that {:?} holds tensor {name:?}, which it does not",
                    self.files[*number]
                ));
            }
        }
        Ok(found)
    }
}
