//! One folder of `tests/cases` with a `case.toml` for each report of a command that went wrong. A case is data: steps that are
//! done in a folder of its own, in their order, and what each must lead to.
//!
//! | in the folder | what it is |
//! | --- | --- |
//! | `case.toml` | `about`, `[model]` if there is one, and the steps |
//! | `model/` | laid over a sound model of one block in `model` (see `Make`): members of its JSON files take the place of those members (`null`: they go), any other file that of the whole file |
//! | all else | laid beside it |
//!
//! | step | does or looks at | keys |
//! | --- | --- | --- |
//! | `run = [...]` | the program | `status` (0), `says` and `never` in what it prints, `limit`: KiB of a file |
//! | `learned = "cache"` | the samples in a folder of prepared tokens, learned parts in `[[ ]]`, a sample a line | `says`, `never` |
//! | `text = "file"` | a file | `says`, `never` |
//! | `names = "folder"` | the names in a folder, hidden ones too | `says`, `never` |
//! | `gguf = "file"` | its keys | `holds`, and `lacks` |
//! | `tensors = "file"` | floats of a safetensors file | `like`: another, or JSON of names and numbers; `within` |
//! | `same = ["a", "b"]` | the bytes of two files | |
//! | `remove`, `copy = ["a", "b"]` | files and folders | |
//! | `keys = "file"` | gives a GGUF file keys | `holds` |
//! | `bytes = "file"` | writes bytes | `at`, or `find`; `hex` |

mod look;
mod model;

use crate::harness::cases;
use crate::harness::process::Workplace;
use serde::Deserialize;
use std::fs;
use std::path::Path;
use std::process::Command;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What is right, in a sentence.
    about: String,
    model: Option<model::Make>,
    step: Vec<Step>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Step {
    run: Vec<String>,
    status: i32,
    limit: Option<u32>,
    says: Vec<String>,
    never: Vec<String>,
    learned: String,
    text: String,
    names: String,
    gguf: String,
    holds: toml::Table,
    lacks: Vec<String>,
    tensors: String,
    like: String,
    within: f64,
    same: Vec<String>,
    remove: String,
    copy: Vec<String>,
    keys: String,
    bytes: String,
    at: Option<usize>,
    find: String,
    hex: String,
}

/// What does not hold.
type Outcome = Result<(), String>;

impl Step {
    fn take(&self, place: &Workplace) -> Outcome {
        let path = |name: &str| place.path(name);
        match self {
            Step { run, .. } if !run.is_empty() => self.run(place),
            Step { learned, .. } if !learned.is_empty() => {
                self.words(&look::learned(&path(learned), &path("model/tokenizer.json"))?)
            }
            Step { text, .. } if !text.is_empty() => {
                self.words(&fs::read_to_string(path(text)).map_err(|e| format!("{text}: {e}"))?)
            }
            Step { names, .. } if !names.is_empty() => self.words(&look::names(&path(names))),
            Step { gguf, .. } if !gguf.is_empty() => look::keys(&path(gguf), &self.holds, &self.lacks),
            Step { tensors, .. } if !tensors.is_empty() => {
                look::tensors(&path(tensors), &path(&self.like), self.within)
            }
            Step { same, .. } if !same.is_empty() => {
                let read = |name: &String| fs::read(path(name)).map_err(|e| format!("{name}: {e}"));
                let right = read(&same[0])? == read(&same[1])?;
                if right { Ok(()) } else { Err(format!("{same:?} have other bytes")) }
            }
            Step { remove, .. } if !remove.is_empty() => {
                let path = path(remove);
                let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(|e| format!("{remove}: {e}"))
            }
            Step { copy, .. } if !copy.is_empty() => {
                model::copy(&path(&copy[0]), &path(&copy[1]));
                Ok(())
            }
            Step { keys, .. } if !keys.is_empty() => {
                model::set_keys(&path(keys), &self.holds);
                Ok(())
            }
            Step { bytes, .. } if !bytes.is_empty() => self.write_bytes(&path(bytes)),
            _ => Err("a step that is none".into()),
        }
    }

    fn run(&self, place: &Workplace) -> Outcome {
        let args: Vec<&str> = self.run.iter().map(String::as_str).collect();
        let mut command = place.command(&args);
        if let Some(limit) = self.limit {
            let program = command.get_program().to_owned();
            command = Command::new("bash");
            // In blocks of 1024 bytes.
            command.arg("-c").arg(format!("ulimit -f {limit}; exec \"$0\" \"$@\"")).arg(program).args(&args);
            command.current_dir(place.path("")).env("TETRAD_DEVICE", "cpu");
        }
        let output = command.output().map_err(|e| e.to_string())?;
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        if output.status.code() != Some(self.status) {
            return Err(format!("{args:?}: {}, not {}\n{said}", output.status, self.status));
        }
        // Whatever it is given.
        let panicked = said.contains("panicked at");
        if panicked { Err(format!("{args:?}: {said}")) } else { self.words(&said) }
    }

    fn words(&self, found: &str) -> Outcome {
        let missing = self.says.iter().find(|words| !found.contains(*words));
        let surplus = self.never.iter().find(|words| found.contains(*words));
        match (missing, surplus) {
            (None, None) => Ok(()),
            (Some(words), _) => Err(format!("{words:?} is not in\n{found}")),
            (_, Some(words)) => Err(format!("{words:?} is in\n{found}")),
        }
    }

    fn write_bytes(&self, path: &Path) -> Outcome {
        let mut bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let new: Vec<u8> =
            (0..self.hex.len() / 2).map(|at| u8::from_str_radix(&self.hex[2 * at..2 * at + 2], 16).unwrap()).collect();
        let found = |words: &str| bytes.windows(words.len()).position(|part| part == words.as_bytes());
        let at = self.at.or_else(|| found(&self.find)).ok_or_else(|| format!("{:?} is not in it", self.find))?;
        bytes[at..at + new.len()].copy_from_slice(&new);
        fs::write(path, bytes).map_err(|e| e.to_string())
    }
}

fn live(folder: &Path) -> Outcome {
    let text = fs::read_to_string(folder.join("case.toml")).unwrap();
    let case: Case = toml::from_str(&text).map_err(|e| e.to_string())?;
    assert!(!case.about.is_empty() && !case.step.is_empty());
    let place = Workplace::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let again = case.model.as_ref().and_then(|made| made.again.as_ref());
        if name != "model" && name != "case.toml" && Some(&name) != again {
            model::copy(&entry.path(), &place.path(&name));
        }
    }
    if let Some(made) = &case.model {
        for name in ["model"].into_iter().chain(made.again.as_deref()) {
            made.make(&place.path(name), &folder.join(name));
        }
    }
    for (number, step) in case.step.iter().enumerate() {
        step.take(&place).map_err(|wrong| format!("step {}: {wrong}\n{}", number + 1, case.about))?;
    }
    Ok(())
}

#[test]
fn every_case_of_a_command_ends_as_it_should() {
    let cases = cases("case.toml");
    assert!(cases.len() >= 46, "{} cases", cases.len());
    let chosen = std::env::var("TETRAD_CASE").unwrap_or_default();
    let cases = cases.into_iter().filter(|(name, _)| name.contains(&chosen));
    let wrong: Vec<String> =
        cases.filter_map(|(name, folder)| Some(format!("{name}: {}", live(&folder).err()?))).collect();
    assert!(wrong.is_empty(), "{} cases\n{}", wrong.len(), wrong.join("\n\n"));
}
