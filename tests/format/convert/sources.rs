//! What is no model of the family, or does not hold what it says, is refused by name.

use super::{bring_in, fixture, refusal};
use crate::harness::cases;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tetrad::checkpoint::Checkpoint;
use tetrad::convert::quants::Kind;
use tetrad::convert::{FloatType, Options, export_hugging_face, safetensors};
use tetrad::data::Tokenizer;

/// A directory with a model of two blocks, untied unless it is changed.
struct Directory {
    root: tempfile::TempDir,
}

impl Directory {
    fn new(shard: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        bring_in(&fixture("q4_0.gguf"), &Options::default(), &root.path().join("in.tetrad")).unwrap();
        let checkpoint = Checkpoint::open(&root.path().join("in.tetrad")).unwrap();
        let dir = root.path().join("model");
        export_hugging_face(&checkpoint, FloatType::F16, shard, &dir, &mut |_, _| {}).unwrap();
        Self { root }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join("model").join(name)
    }

    fn refused(&self) -> String {
        refusal(&self.root.path().join("model"), self.root.path())
    }

    fn accepted(&self) -> Checkpoint {
        let path = self.root.path().join("out.tetrad");
        bring_in(&self.root.path().join("model"), &Options::default(), &path).unwrap();
        Checkpoint::open(&path).unwrap()
    }

    fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut json = serde_json::from_slice(&std::fs::read(self.at(name)).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(self.at(name), serde_json::to_vec(&json).unwrap()).unwrap();
    }

    fn config(&self, key: &str, value: Value) {
        self.edit("config.json", |config| config[key] = value);
    }

    /// Rewrites a file's tensors: `change` gets names, shapes and bytes.
    fn tensors(&self, name: &str, change: impl FnOnce(&mut Vec<(String, Vec<u64>, Vec<u8>)>)) {
        let bytes = std::fs::read(self.at(name)).unwrap();
        let found = safetensors::parse(&bytes).unwrap().into_iter();
        let mut tensors: Vec<_> = found.map(|t| (t.name, t.dims, bytes[t.range].to_vec())).collect();
        change(&mut tensors);
        let specs: Vec<_> = tensors.iter().map(|t| (t.0.clone(), t.1.clone(), Kind::F16)).collect();
        let mut out = Vec::new();
        safetensors::write(&mut out, &specs, &mut |i, sink| sink(&tensors[i].2)).unwrap();
        std::fs::write(self.at(name), out).unwrap();
    }
}

const ONE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// One folder of `tests/cases` for each configuration: `config.json` is laid over that of a sound model, and `expected.txt` has
/// lines of what the model is then, or `refused: ` and a part of the message.
#[test]
fn every_case_of_a_model_is_read_as_it_should_be() {
    let dir = Directory::new(u64::MAX);
    let cases = cases("config.json");
    assert!(cases.len() >= 19, "{} cases", cases.len());
    let (sound, mut wrong) = (std::fs::read(dir.at("config.json")).unwrap(), Vec::new());
    for (name, folder) in cases {
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
        let changes: serde_json::Map<String, Value> = serde_json::from_str(&read("config.json")).unwrap();
        changes.into_iter().for_each(|(key, value)| dir.config(&key, value));
        let expected = read("expected.txt");
        let found = match expected.strip_prefix("refused: ") {
            Some(reason) => Some(dir.refused()).filter(|said| !said.contains(reason.trim_end())),
            None => {
                let model = serde_json::to_value(&dir.accepted().meta.model).unwrap();
                let holds = |line: &str| {
                    let (key, value) = line.split_once(" = ").unwrap();
                    model[key] == serde_json::from_str::<Value>(value).unwrap()
                };
                (!expected.lines().all(holds)).then(|| model.to_string())
            }
        };
        wrong.extend(found.map(|found| format!("{name}: {found}\ninstead of {expected}")));
        std::fs::write(dir.at("config.json"), &sound).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_tied_flag_and_the_head_in_all_four_combinations() {
    let dir = Directory::new(u64::MAX);
    assert!(dir.accepted().meta.model.tied, "tied, and no head");
    dir.config("tie_word_embeddings", json!(false));
    assert!(dir.refused().contains("lm_head.weight is missing and tie_word_embeddings is false"), "{}", dir.refused());
    dir.tensors(ONE, |tensors| {
        let embedding = tensors.iter().find(|t| t.0 == EMBEDDING).unwrap();
        let head = (HEAD.to_owned(), embedding.1.clone(), embedding.2.clone());
        tensors.push(head);
    });
    assert!(!dir.accepted().meta.model.tied, "untied, and a head");
    dir.config("tie_word_embeddings", json!(true));
    assert!(dir.accepted().meta.model.tied, "tied, and a head that is the embedding");
    dir.tensors(ONE, |tensors| tensors.iter_mut().find(|t| t.0 == HEAD).unwrap().2[0] ^= 1);
    assert!(dir.refused().contains("tie_word_embeddings is true, but lm_head.weight differs"), "{}", dir.refused());
}

#[test]
fn missing_surplus_and_misshapen_tensors_are_listed() {
    let dir = Directory::new(u64::MAX);
    let whole = std::fs::read(dir.at(ONE)).unwrap();
    dir.tensors(ONE, |tensors| tensors.retain(|t| !t.0.contains("layers.1.mlp")));
    assert_eq!(
        dir.refused(),
        "model: 3 tensors are missing: model.layers.1.mlp.gate_proj.weight, model.layers.1.mlp.up_proj.weight, \
         model.layers.1.mlp.down_proj.weight"
    );
    std::fs::write(dir.at(ONE), &whole).unwrap();
    dir.tensors(ONE, |tensors| {
        tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), vec![8], vec![0; 16]));
        tensors.push(("model.layers.0.self_attn.q_proj.bias".into(), vec![64], vec![0; 128]));
    });
    assert_eq!(
        dir.refused(),
        "model: 1 tensors are not part of the model that the configuration describes: \
         model.layers.0.self_attn.q_proj.bias"
    );
    std::fs::write(dir.at(ONE), &whole).unwrap();
    dir.tensors(ONE, |tensors| {
        tensors.iter_mut().find(|t| t.0.ends_with("0.mlp.up_proj.weight")).unwrap().1 = vec![64, 96]
    });
    assert!(dir.refused().contains("up_proj.weight is [64, 96], the model's configuration requires [96, 64]"));
    std::fs::write(dir.at(ONE), &whole).unwrap();
    dir.tensors(ONE, |tensors| {
        let query = tensors.iter_mut().find(|t| t.0.ends_with("1.self_attn.q_proj.weight")).unwrap();
        query.2[2 * 64 * 5..][..2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
    });
    assert!(dir.refused().contains("q_proj.weight, row 5 holds a number that is not finite"), "{}", dir.refused());
    assert!(!dir.root.path().join("refused.tetrad").exists(), "nothing is left of a refused model");
}

#[test]
fn an_index_leads_nowhere_else() {
    let dir = Directory::new(60_000);
    dir.accepted();
    let index = std::fs::read(dir.at(INDEX)).unwrap();
    let outside = dir.root.path().join("outside.safetensors");
    let (first, second) = ("model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors");
    std::fs::copy(dir.at(first), &outside).unwrap();
    let (outside, links) = (outside.to_str().unwrap().to_owned(), dir.at("link.safetensors"));
    std::os::unix::fs::symlink(&outside, &links).unwrap();
    for name in ["../outside.safetensors", &outside, "a/../../outside.safetensors", "link.safetensors", "", "."] {
        dir.edit(INDEX, |json| json["weight_map"][EMBEDDING] = name.into());
        assert!(dir.refused().contains("leads out of the directory"), "{name}: {}", dir.refused());
    }
    // Nor do the other files.
    std::fs::write(dir.at(INDEX), &index).unwrap();
    for name in [
        INDEX,
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
    ] {
        let (at, away) = (dir.at(name), dir.root.path().join("away.json"));
        std::fs::write(&at, if at.exists() { std::fs::read(&at).unwrap() } else { b"{}".to_vec() }).unwrap();
        std::fs::rename(&at, &away).unwrap();
        std::os::unix::fs::symlink(&away, &at).unwrap();
        assert!(dir.refused().contains("leads out of the directory"), "{name}: {}", dir.refused());
        std::fs::remove_file(&at).unwrap();
        std::fs::rename(&away, &at).unwrap();
    }
    dir.accepted();
    dir.edit(INDEX, |json| json["weight_map"][EMBEDDING] = "none.safetensors".into());
    assert!(dir.refused().contains("none.safetensors: no such file"), "{}", dir.refused());
    dir.edit(INDEX, |json| json["weight_map"][EMBEDDING] = second.into());
    assert!(dir.refused().contains("holds tensor \"model.embed_tokens.weight\", which it does not"));
    let text = String::from_utf8(index.clone()).unwrap();
    let twice = text.replacen("\"weight_map\": {", "\"weight_map\": {\"x\": \"a\", \"x\": \"b\",", 1);
    std::fs::write(dir.at(INDEX), twice).unwrap();
    assert!(dir.refused().contains("names the tensor \"x\" twice"), "{}", dir.refused());
    // Two files that both hold a tensor.
    std::fs::write(dir.at(INDEX), &index).unwrap();
    let first = std::fs::read(dir.at(first)).unwrap();
    std::fs::write(dir.at("more.safetensors"), first).unwrap();
    dir.edit(INDEX, |json| json["weight_map"]["extra"] = "more.safetensors".into());
    assert!(dir.refused().contains("is claimed by two files"), "{}", dir.refused());
}

#[test]
fn a_cache_of_links_is_a_directory_like_any_other() {
    let dir = Directory::new(u64::MAX);
    let (blobs, snapshot) = (dir.root.path().join("cache/blobs"), dir.root.path().join("cache/snapshots/1234"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    for name in [ONE, "config.json", "tokenizer.json"] {
        std::fs::rename(dir.at(name), blobs.join(name)).unwrap();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(name), snapshot.join(name)).unwrap();
    }
    bring_in(&snapshot, &Options::default(), &dir.root.path().join("out.tetrad")).unwrap();
}

#[test]
fn a_tokenizer_larger_than_the_vocabulary_is_refused() {
    let dir = Directory::new(u64::MAX);
    dir.edit("tokenizer.json", |json| json["model"]["vocab"]["beyond"] = 560.into());
    assert!(dir.refused().contains("560"), "{}", dir.refused());
    let other = Directory::new(u64::MAX);
    std::fs::remove_file(other.at("config.json")).unwrap();
    assert!(other.refused().contains("config.json"), "{}", other.refused());
    std::fs::remove_file(other.at(ONE)).unwrap();
    assert!(other.refused().contains("holds neither model.safetensors nor"), "{}", other.refused());
}

#[test]
fn shards_without_an_index_are_read_if_they_are_all_there() {
    let dir = Directory::new(60_000);
    let with_index = dir.accepted().file().tensors().len();
    std::fs::remove_file(dir.at(INDEX)).unwrap();
    assert_eq!(dir.accepted().file().tensors().len(), with_index);
    let third = dir.at("model-00003-of-00004.safetensors");
    std::fs::rename(&third, dir.at("third")).unwrap();
    assert_eq!(dir.refused(), "model: holds 3 of the 4 shards of a model; number 3 is missing, fetch it");
    std::fs::rename(dir.at("third"), &third).unwrap();
    std::fs::copy(&third, dir.at("model-00001-of-00002.safetensors")).unwrap();
    let said = dir.refused();
    assert!(said.contains("of a model of 2 files and of one of 4") && said.contains("stale"), "{said}");
}

#[test]
fn a_single_file_is_read_although_an_index_of_another_save_lies_there() {
    let (old, new) = (Directory::new(60_000), Directory::new(u64::MAX));
    new.tensors(ONE, |tensors| tensors.iter_mut().for_each(|tensor| tensor.2.fill(0x11)));
    for entry in std::fs::read_dir(old.root.path().join("model")).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        if name.contains("safetensors") {
            std::fs::copy(entry.path(), new.at(&name)).unwrap();
        }
    }
    let source = tetrad::convert::open(&new.root.path().join("model"), tetrad::convert::Beside::default()).unwrap();
    assert!(
        source.notes.iter().any(|note| note.contains("model.safetensors.index.json beside it")),
        "{:?}",
        source.notes
    );
    assert!(source.files.len() == 1 && source.files[0].0.ends_with(ONE));
}

/// The pieces of the fixture's model, of whose vocabulary the model here has the size.
#[test]
fn a_model_with_sentence_pieces_alone_keeps_its_tokens() {
    let dir = Directory::new(u64::MAX);
    let fixture = crate::harness::fixture("tokenizer").join("plain.model");
    std::fs::remove_file(dir.at("tokenizer.json")).unwrap();
    std::fs::remove_file(dir.at("tokenizer_config.json")).unwrap();
    std::fs::copy(&fixture, dir.at("tokenizer.model")).unwrap();
    assert!(dir.refused().contains("699"), "{}", dir.refused());
    let small = crate::harness::fixture("tokenizer").join("unigram.model");
    std::fs::copy(&small, dir.at("tokenizer.model")).unwrap();
    let checkpoint = dir.accepted();
    let own = Tokenizer::from_json(&checkpoint.tokenizer().unwrap()).unwrap();
    let text = "It is a truth universally acknowledged";
    assert_eq!(own.encode(text).unwrap(), Tokenizer::from_file(&small).unwrap().encode(text).unwrap());
    let special = checkpoint.special_tokens(&own);
    assert_eq!((special.bos, special.eos, special.add_bos), (Some(1), Some(2), Some(true)));
    std::fs::write(dir.at("tokenizer.model"), b"\x0a\x07\x0a\x03<s>\x18\x03").unwrap();
    assert!(
        dir.refused().contains("tokenizer.model: not a usable SentencePiece model: it has 1 pieces"),
        "{}",
        dir.refused()
    );
}

#[test]
fn special_tokens_that_the_vocabulary_does_not_have_are_named() {
    let dir = Directory::new(u64::MAX);
    let told = json!({ "bos_token_id": 1, "eos_token_id": [2, 99_999], "pad_token_id": null });
    std::fs::write(dir.at("generation_config.json"), told.to_string()).unwrap();
    let source = tetrad::convert::open(&dir.root.path().join("model"), Default::default()).unwrap();
    let named: Vec<_> = source.notes.iter().filter(|note| note.contains("beyond the vocabulary")).collect();
    assert!(named.len() == 1 && named[0].starts_with("eos_token_id is 99999, "), "{named:?}");
}

#[test]
fn special_tokens_of_a_map_beside_the_configuration_are_read_as_transformers_does() {
    let dir = Directory::new(u64::MAX);
    let said = || {
        let json = dir.accepted().attachment("tokenizer_config.json").expect("one that was made of the map");
        serde_json::from_slice::<Value>(&json).unwrap()
    };
    let map = |value: Value| std::fs::write(dir.at("special_tokens_map.json"), value.to_string()).unwrap();
    let config = |value: Value| std::fs::write(dir.at("tokenizer_config.json"), value.to_string()).unwrap();
    map(json!({ "eos_token": { "content": "<|end|>", "lstrip": false } }));
    let _ = std::fs::remove_file(dir.at("tokenizer_config.json"));
    assert_eq!(said()["eos_token"]["content"], "<|end|>");
    // The older form lets the map say otherwise, the newer one, which lists its tokens, does not read it.
    config(json!({ "eos_token": "other", "bos_token": null }));
    assert_eq!(said()["eos_token"]["content"], "<|end|>");
    config(json!({ "eos_token": "other", "added_tokens_decoder": {} }));
    assert_eq!(said()["eos_token"], "other");
    std::fs::write(dir.at("special_tokens_map.json"), b"{\"eos_token\": {").unwrap();
    assert!(dir.refused().contains("special_tokens_map.json: is no map of special tokens"), "{}", dir.refused());
}
