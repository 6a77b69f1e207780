//! SentencePiece models encode as SentencePiece does: encodings recorded by `fixtures/tokenizer/make_sentencepiece.py`.

use crate::harness::fixture;
use serde_json::{Value, json};
use std::fs;
use tetrad::data::{SampleFormat, Tokenizer, TokenizerConfig};

fn cases() -> Vec<Value> {
    let text = fs::read_to_string(fixture("tokenizer").join("sentencepiece.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap().as_array().unwrap().clone()
}

#[test]
fn every_recorded_text_has_the_recorded_tokens() {
    let mut wrong = Vec::new();
    for case in cases() {
        let name = case["model"].as_str().unwrap();
        let tokenizer = Tokenizer::from_file(&fixture("tokenizer").join(format!("{name}.model"))).unwrap();
        let text = case["text"].as_str().unwrap();
        let recorded: Vec<u32> = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let found = tokenizer.encode(text).unwrap();
        if found != recorded {
            wrong.push(format!("{name}: {text:?}\n{found:?} instead of\n{recorded:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a model of bytes keeps of a text, it gives back.
#[test]
fn texts_come_back() {
    for case in cases().iter().filter(|case| case["model"] != "unigram") {
        let name = case["model"].as_str().unwrap();
        let tokenizer = Tokenizer::from_file(&fixture("tokenizer").join(format!("{name}.model"))).unwrap();
        let text = case["text"].as_str().unwrap();
        if !text.contains('\u{2581}') {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()), text, "{name}");
        }
    }
}

#[test]
fn symbols_of_a_user_are_found_in_texts() {
    let tokenizer = Tokenizer::from_file(&fixture("tokenizer").join("bpe.model")).unwrap();
    let ids = tokenizer.encode("<|im_start|>user\nHello<|im_end|>\n").unwrap();
    assert_eq!((ids[0], ids.iter().filter(|id| **id == 4).count()), (3, 1), "{ids:?}");
}

#[test]
fn files_beside_a_model_add_tokens_or_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::copy(fixture("tokenizer").join("bpe.model"), at("tokenizer.model")).unwrap();
    let read = || Tokenizer::from_file(&at("tokenizer.model"));
    assert_eq!((read().unwrap().vocab_size(), read().unwrap().beginning()), (600, vec![1]));
    fs::write(at("added_tokens.json"), json!({ "<pad>": 600, "<tool>": 601 }).to_string()).unwrap();
    let config =
        json!({ "add_bos_token": false, "added_tokens_decoder": { "1": { "content": "<s>", "special": true } } });
    fs::write(at("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = read().unwrap();
    assert_eq!(tokenizer.encode("<tool>").unwrap().last(), Some(&601));
    assert_eq!((tokenizer.vocab_size(), tokenizer.beginning()), (602, vec![]));
    for (added, named) in [
        (json!({ "<pad>": 700 }), "\"<pad>\" beside it has 700"),
        (json!({ "<pad>": 5 }), "for the id 5, which is to be \"<pad>\""),
        (json!({ "<pad>": "600" }), "added_tokens.json with the id"),
        (json!([]), "added_tokens.json that is no object"),
    ] {
        fs::write(at("added_tokens.json"), added.to_string()).unwrap();
        let error = read().err().unwrap().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn a_model_says_itself_how_texts_begin_and_end() {
    let model = fixture("tokenizer").join("bpe.model");
    let config = TokenizerConfig::of(Some(&model), None).unwrap();
    assert_eq!((config.bos(), config.eos(), config.add_bos()), (Some("<s>"), Some("</s>"), Some(true)));
    let _ = SampleFormat { tokenizer: Tokenizer::from_file(&model).unwrap(), config };
}

/// No file makes the reader panic, and none that was cut is taken for whole.
#[test]
fn damaged_models_are_refused_or_other_models() {
    let whole = fs::read(fixture("tokenizer").join("bpe.model")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.model");
    let mut refused = 0;
    for at in (0..whole.len()).step_by(97) {
        for bytes in [whole[..at].to_vec(), [&whole[..at], &[whole[at] ^ 0x41], &whole[at + 1..]].concat()] {
            fs::write(&path, bytes).unwrap();
            refused += usize::from(Tokenizer::from_file(&path).is_err());
        }
    }
    assert!(refused > whole.len() / 97, "{refused}");
}
