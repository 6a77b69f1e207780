//! A tokenizer that went through GGUF's arrays gives the same tokens.

use super::{bring_in, fixture};
use crate::harness;
use std::path::Path;
use tetrad::checkpoint::Checkpoint;
use tetrad::convert::{Beside, FloatType, GgufTypes, Options, export_gguf, export_hugging_face, import, open};
use tetrad::data::Tokenizer;
use tetrad::model::TableStorage;

fn tokenizer(path: &Path) -> Tokenizer {
    Tokenizer::from_json(&Checkpoint::open(path).unwrap().tokenizer().unwrap()).unwrap()
}

#[test]
fn both_families_survive_the_arrays() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    bring_in(&fixture("q4_0.gguf"), &Options::default(), &at("in.tetrad")).unwrap();
    let checkpoint = Checkpoint::open(&at("in.tetrad")).unwrap();
    export_hugging_face(&checkpoint, FloatType::F32, u64::MAX, &at("model"), &mut |_, _| {}).unwrap();
    let text = include_str!("../../../assets/corpus/austen.txt");
    let text = &text[text.len() / 2..][..20_000];
    for name in ["byte_level.json", "byte_fallback.json"] {
        // The vocabulary has 560 rows, so of the larger one only the part that fits is kept.
        let json = trimmed(&harness::fixture("tokenizer").join(name), 560);
        std::fs::write(at("tokenizer.json"), &json).unwrap();
        let original = Tokenizer::from_json(&json).unwrap();
        let beside = Beside { config: None, tokenizer: Some(&at("tokenizer.json")) };
        let source = open(&at("model"), beside).unwrap();
        let options = Options { embedding: Some(TableStorage::Int8), ..Options::default() };
        import(&source, &options, &at("with.tetrad"), &mut |_, _| {}).unwrap();
        let checkpoint = Checkpoint::open(&at("with.tetrad")).unwrap();
        export_gguf(&checkpoint, GgufTypes::default(), &at("with.gguf"), &mut |_, _| {}).unwrap();
        bring_in(&at("with.gguf"), &Options::default(), &at("again.tetrad")).unwrap();
        let rebuilt = tokenizer(&at("again.tetrad"));
        for text in [text, "", " ", "caf\u{e9} \u{20ac}5 \u{1f600}\r\n\tx", "it's  two", "<|endoftext|></s>"] {
            let (found, wanted) = (rebuilt.encode(text).unwrap(), original.encode(text).unwrap());
            assert_eq!(found, wanted, "{name}");
            assert_eq!(rebuilt.decode(&found), original.decode(&wanted), "{name}");
        }
    }
}

/// A tokenizer with the first `count` ids only.
fn trimmed(path: &Path, count: u64) -> Vec<u8> {
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let model = json["model"].as_object_mut().unwrap();
    model["vocab"].as_object_mut().unwrap().retain(|_, id| id.as_u64().unwrap() < count);
    let vocab = model["vocab"].clone();
    let known = |token: &str| vocab.get(token).is_some();
    model["merges"].as_array_mut().unwrap().retain(|merge| {
        let (left, right) = match merge {
            serde_json::Value::String(text) => text.split_once(' ').unwrap(),
            pair => (pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        };
        known(left) && known(right) && known(&format!("{left}{right}"))
    });
    serde_json::to_vec(&json).unwrap()
}
