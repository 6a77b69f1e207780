//! `tokenizer.json` files of the two families: ids, round trips, streaming.

use std::path::Path;
use tetrad::data::{Decoder, Tokenizer};

const TEXT: &str = "It is a truth universally acknowledged,  that\n\n\ta na\u{ef}ve \u{1f600} \u{4f60}\u{597d} man. ";

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizer").join(name)).unwrap()
}

fn all() -> [Tokenizer; 3] {
    [Tokenizer::bytes(), tokenizer("byte_level.json"), tokenizer("byte_fallback.json")]
}

#[test]
fn any_text_comes_back_unchanged() {
    for tokenizer in all() {
        let ids = tokenizer.encode(TEXT).unwrap();
        assert_eq!(tokenizer.decode(&ids), TEXT);
        assert!(ids.iter().all(|id| u64::from(*id) < tokenizer.vocab_size()));
    }
}

/// 1 + 256 + 300 tokens for bytes as characters, 3 + 256 + letters + 300 for byte fallback.
#[test]
fn vocabularies_and_special_tokens_are_those_of_the_files() {
    let [bytes, level, fallback] = all();
    assert_eq!([bytes.vocab_size(), level.vocab_size()], [256, 557]);
    assert_eq!((level.bos(), level.eos()), (None, Some(0)));
    assert_eq!((fallback.bos(), fallback.eos()), (Some(1), Some(2)));
    assert_eq!(level.encode("<|endoftext|>").unwrap(), [0]);
}

#[test]
fn nothing_is_added_truncated_or_padded_whatever_the_file_asks() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizer/byte_fallback.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    json["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = serde_json::json!({
        "strategy": {"Fixed": 512}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"
    });
    json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    });
    let asking = Tokenizer::from_json(json.to_string().as_bytes()).unwrap();
    assert_eq!(asking.encode(TEXT).unwrap(), tokenizer("byte_fallback.json").encode(TEXT).unwrap());
}

#[test]
fn the_embedded_file_is_the_same_tokenizer() {
    for tokenizer in &all()[1..] {
        let embedded = Tokenizer::from_json(tokenizer.json().unwrap()).unwrap();
        assert_eq!(embedded.fingerprint(), tokenizer.fingerprint());
        assert_eq!(embedded.encode(TEXT).unwrap(), tokenizer.encode(TEXT).unwrap());
    }
    let [bytes, level, fallback] = all().map(|tokenizer| tokenizer.fingerprint());
    assert!(bytes != level && level != fallback && bytes != fallback);
}

#[test]
fn streamed_pieces_make_up_the_whole_text_and_no_character_is_split() {
    for tokenizer in all() {
        let ids = tokenizer.encode(TEXT).unwrap();
        let mut decoder = Decoder::new(&tokenizer);
        let pieces: Vec<String> = ids.iter().map(|id| decoder.push(*id)).collect();
        assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)), "{pieces:?}");
        assert!(pieces.iter().filter(|piece| !piece.is_empty()).count() > 20, "not streamed: {pieces:?}");
        assert_eq!(pieces.concat() + &decoder.finish(), TEXT);
    }
}
