//! `sample`: repeatable, as long as asked, whatever the length of prompt and text.

use super::{TINY, json, train, trained, workplace};
use crate::harness::process::Workplace;
use insta::assert_snapshot;

fn sample(place: &Workplace, more: &[&str]) -> String {
    let text = place.ok(&[&["sample", "run/model.tetrad"], more].concat());
    text.strip_suffix('\n').expect("a sample ends its line").to_owned()
}

#[test]
fn the_same_seed_gives_the_same_text_on_any_number_of_threads() {
    let place = trained();
    let text = |seed: &str, threads: &str| {
        sample(&place, &["--prompt", "The ", "--seed", seed, "--threads", threads, "--max-tokens", "100"])
    };
    assert_eq!(text("5", "1"), text("5", "2"));
    assert_ne!(text("5", "1"), text("6", "1"));
    assert!(text("5", "1").starts_with("The "));
}

#[test]
fn zero_temperature_and_a_choice_of_one_are_the_likeliest_text() {
    let place = trained();
    let likeliest = |seed: &str| sample(&place, &["--prompt", "The ", "--temperature", "0", "--seed", seed]);
    assert_eq!(likeliest("1"), likeliest("2"));
    let only = ["--prompt", "The ", "--top-k", "1", "--temperature", "5", "--top-p", "1"];
    assert_eq!(sample(&place, &only), likeliest("1"));
    let nucleus = ["--prompt", "The ", "--top-p", "0.000001", "--temperature", "5"];
    assert_eq!(sample(&place, &nucleus), likeliest("1"));
}

#[test]
fn a_model_is_used_in_the_arithmetic_that_was_chosen() {
    let place = trained();
    let loss = |more: &[&str]| {
        let said = json(&place.ok(&[&["eval", "run/model.tetrad", "--text", "val.txt", "--json"], more].concat()));
        said["loss"].as_f64().unwrap()
    };
    let (floats, integers) = (loss(&[]), loss(&["--compute", "int8"]));
    assert_eq!(floats, loss(&["--compute", "f32"]));
    assert!(floats != integers && (floats - integers).abs() < 0.01 * floats, "{integers}, not {floats}");
    let small = loss(&["--compute", "fp8"]);
    assert!(floats != small && integers != small && (floats - small).abs() < 0.02 * floats, "{small}, not {floats}");
    // One token at a time is computed otherwise than many.
    let text = sample(&place, &["--prompt", "The ", "--compute", "int8", "--threads", "1", "--max-tokens", "50"]);
    assert_eq!(
        text,
        sample(&place, &["--prompt", "The ", "--compute", "int8", "--threads", "2", "--max-tokens", "50"])
    );
    let floats = [
        "storage.weights=bf16",
        "storage.embedding=bf16",
        "storage.head=bf16",
        "run.dir=floats",
        "train.steps=2",
        "train.warmup=1",
    ];
    train(&place, &floats.map(|set| ["--set", set]).concat());
    let refused = place.fails(&["sample", "floats/model.tetrad", "--compute", "int8"]);
    assert_snapshot!(refused, @"tetrad: --compute int8: multiplies weights that are codes, and this model's are floats");
    let refused = place.fails(&["sample", "floats/model.tetrad", "--compute", "fp8"]);
    assert_snapshot!(refused, @"tetrad: --compute fp8: multiplies weights of four bits, and this model has none");
}

#[test]
fn as_many_tokens_are_written_as_were_asked_for() {
    let place = trained();
    let text = |count: &str| sample(&place, &["--prompt", "The ", "--temperature", "0", "--max-tokens", count]);
    assert_eq!(text("0"), "The ");
    let (ten, twenty) = (text("10"), text("20"));
    // The likeliest bytes of English are ASCII: a token is a character.
    assert_eq!((ten.chars().count(), twenty.chars().count()), (14, 24), "{twenty:?}");
    assert!(twenty.starts_with(&ten));
}

/// The context is 64 tokens.
#[test]
fn prompt_and_text_may_be_longer_than_the_context() {
    let place = trained();
    let prompt = "It is a truth universally acknowledged. ".repeat(20);
    let text = sample(&place, &["--prompt", &prompt, "--temperature", "0", "--max-tokens", "10"]);
    assert_eq!(text.strip_prefix(&prompt).map(|rest| rest.chars().count()), Some(10));
    let text = sample(&place, &["--prompt", "The ", "--temperature", "0", "--max-tokens", "300"]);
    assert_eq!(text.chars().count(), 304);
    // What was seen does not depend on how far the text will go.
    let part = sample(&place, &["--prompt", "The ", "--temperature", "0", "--max-tokens", "150"]);
    assert!(text.starts_with(&part));
}

#[test]
fn a_model_with_a_tokenizer_needs_nothing_else_and_splits_no_character() {
    for name in ["byte_level", "byte_fallback"] {
        let place = workplace();
        let json = std::fs::read(format!("{}/fixtures/tokenizer/{name}.json", env!("CARGO_MANIFEST_DIR"))).unwrap();
        std::fs::write(place.path("tokenizer.json"), json).unwrap();
        let text = "na\u{ef}ve \u{1f600} caf\u{e9}s \u{4f60}\u{597d}. ".repeat(300);
        std::fs::write(place.path("train.txt"), text).unwrap();
        let toml = format!("{TINY}\n[data]\ntrain = ['train.txt']\n[tokenizer]\nfile = 'tokenizer.json'\n");
        std::fs::write(place.path("words.toml"), toml.replace("vocab = 256", "vocab = 700")).unwrap();
        place.ok(&["train", "words.toml", "--set", "train.steps=80"]);
        std::fs::remove_file(place.path("tokenizer.json")).unwrap();
        // `ok` refuses output that is not UTF-8.
        let wild = sample(&place, &["--prompt", "caf\u{e9}s \u{1f600}", "--temperature", "2", "--max-tokens", "300"]);
        assert!(wild.starts_with("caf\u{e9}s \u{1f600}"), "{name}: {wild}");
        let learned = sample(&place, &["--prompt", "na\u{ef}ve", "--temperature", "0", "--max-tokens", "100"]);
        assert!(learned.contains("\u{1f600} caf\u{e9}s \u{4f60}\u{597d}"), "{name}: {learned}");
        // The last token may be half a character; nothing else may, nor is the space after the prompt lost.
        let whole = learned.trim_end_matches(char::REPLACEMENT_CHARACTER);
        assert!(!whole.contains(char::REPLACEMENT_CHARACTER), "{name}: {learned}");
        assert!(learned.starts_with("na\u{ef}ve "), "{name}: {learned}");
    }
}

#[test]
fn settings_without_a_meaning_are_refused() {
    let place = trained();
    let refused = |more: &[&str]| place.fails(&[&["sample", "run/model.tetrad"], more].concat());
    assert_snapshot!(refused(&["--prompt", ""]), @"tetrad: --prompt: empty; give at least one character");
    assert_snapshot!(refused(&["--temperature=-1"]), @"tetrad: --temperature -1: must be 0 or more");
    assert_snapshot!(refused(&["--temperature", "nan"]), @"tetrad: --temperature NaN: must be 0 or more");
    assert_snapshot!(refused(&["--top-p", "0"]), @"tetrad: --top-p 0: must be above 0 and at most 1");
    assert_snapshot!(refused(&["--top-p", "1.5"]), @"tetrad: --top-p 1.5: must be above 0 and at most 1");
    assert_snapshot!(refused(&["--threads", "5000"]), @"tetrad: 5000 threads: at most 4096 are possible, 0 means one per processor");
}

/// A text of a model that has learned nothing, always the same: its tokens, and whether the model ended it.
fn words(place: &Workplace, file: &str, more: &[&str]) -> (Vec<u64>, bool) {
    let args = ["sample", file, "--prompt", "It is", "--temperature", "2", "--max-tokens", "12", "--json"];
    let said = json(&place.ok(&[&args, more].concat()));
    let tokens = said["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    (tokens, said["ended"].as_bool().unwrap())
}

/// The first token that was not written before, from the fourth on: a place to end at.
fn place_to_end(tokens: &[u64]) -> usize {
    (3..tokens.len()).find(|&i| !tokens[..i].contains(&tokens[i])).expect("a text of one word")
}

#[test]
fn a_text_ends_where_an_imported_gguf_file_says() {
    let place = Workplace::new();
    let mut bytes = std::fs::read(format!("{}/fixtures/convert/q4_1.gguf", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let key = b"tokenizer.ggml.eos_token_id";
    let value = bytes.windows(key.len()).position(|part| part == key).unwrap() + key.len() + 4;
    std::fs::write(place.path("model.gguf"), &bytes).unwrap();
    place.ok(&["import", "model.gguf", "-o", "model.tetrad", "--overwrite"]);
    let (tokens, _) = words(&place, "model.tetrad", &["--ignore-eos"]);
    assert_eq!(tokens.len(), 12);
    let at = place_to_end(&tokens);
    bytes[value..value + 4].copy_from_slice(&(tokens[at] as u32).to_le_bytes());
    std::fs::write(place.path("model.gguf"), &bytes).unwrap();
    place.ok(&["import", "model.gguf", "-o", "model.tetrad", "--overwrite"]);
    assert_eq!(words(&place, "model.tetrad", &[]), (tokens[..=at].to_vec(), true));
    assert_eq!(words(&place, "model.tetrad", &["--ignore-eos"]), (tokens.clone(), false));
    // The token that ends a text is not part of it.
    let plain = ["sample", "model.tetrad", "--prompt", "It is", "--temperature", "2", "--max-tokens"];
    let up_to = |count: usize, more: &[&str]| place.ok(&[&plain[..], &[&count.to_string()], more].concat());
    assert_eq!(up_to(12, &[]), up_to(at, &["--ignore-eos"]));
}

#[test]
fn a_text_ends_at_any_token_of_generation_config_whichever_way_the_model_went() {
    let place = Workplace::new();
    let fixture = format!("{}/fixtures/convert/q4_0.gguf", env!("CARGO_MANIFEST_DIR"));
    place.ok(&["import", &fixture, "-o", "first.tetrad"]);
    place.ok(&["export", "first.tetrad", "-o", "dir"]);
    place.ok(&["import", "dir", "-o", "model.tetrad", "--overwrite"]);
    let (tokens, _) = words(&place, "model.tetrad", &["--ignore-eos"]);
    let at = place_to_end(&tokens);
    let ends = format!("{{\"eos_token_id\": [559, {}]}}", tokens[at]);
    let ended = (tokens[..=at].to_vec(), true);
    std::fs::write(place.path("dir/generation_config.json"), &ends).unwrap();
    place.ok(&["import", "dir", "-o", "model.tetrad", "--overwrite"]);
    assert_eq!(words(&place, "model.tetrad", &[]), ended);
    place.ok(&["export", "model.tetrad", "-o", "out"]);
    assert_eq!(place.read("out/generation_config.json"), ends.as_bytes());
    place.ok(&["export", "model.tetrad", "-o", "out.gguf"]);
    place.ok(&["import", "out.gguf", "-o", "again.tetrad"]);
    assert_eq!(words(&place, "again.tetrad", &[]), ended);
    // Older models say it in config.json.
    std::fs::remove_file(place.path("dir/generation_config.json")).unwrap();
    let mut config = json(&String::from_utf8(place.read("dir/config.json")).unwrap());
    config["eos_token_id"] = serde_json::json!([559, tokens[at]]);
    std::fs::write(place.path("dir/config.json"), config.to_string()).unwrap();
    place.ok(&["import", "dir", "-o", "older.tetrad"]);
    assert_eq!(words(&place, "older.tetrad", &[]), ended);
    std::fs::write(place.path("dir/generation_config.json"), "[]").unwrap();
    assert_snapshot!(place.fails(&["import", "dir", "-o", "new.tetrad"]), @"tetrad: dir/generation_config.json: is no configuration of generation: invalid type: sequence, expected a map at line 1 column 0");
}

#[test]
fn json_holds_prompt_text_and_tokens() {
    let place = trained();
    let args = ["--prompt", "The ", "--temperature", "0", "--max-tokens", "9"];
    let text = sample(&place, &args);
    let said = json(&place.ok(&[&["sample", "run/model.tetrad", "--json"], &args[..]].concat()));
    assert_eq!(format!("The {}", said["text"].as_str().unwrap()), text);
    assert_eq!(said["prompt_tokens"], serde_json::json!([84, 104, 101, 32]));
    assert_eq!((said["tokens"].as_array().unwrap().len(), &said["ended"]), (9, &false.into()));
}

/// What other programs put before a text, an imported model has seen before every text.
#[test]
fn a_prompt_begins_as_the_imported_tokenizer_begins_texts() {
    let place = Workplace::new();
    let fixture = format!("{}/fixtures/convert/q4_0.gguf", env!("CARGO_MANIFEST_DIR"));
    place.ok(&["import", &fixture, "-o", "first.tetrad"]);
    place.ok(&["export", "first.tetrad", "-o", "dir"]);
    let name = "dir/tokenizer_config.json";
    let mut told = json(&String::from_utf8(place.read(name)).unwrap());
    let vocab = json(&String::from_utf8(place.read("dir/tokenizer.json")).unwrap())["model"]["vocab"].clone();
    told["bos_token"] = "Z".into();
    let mut begun = |adds: bool, prompt: &str| {
        told["add_bos_token"] = adds.into();
        std::fs::write(place.path(name), told.to_string()).unwrap();
        place.ok(&["import", "dir", "-o", "model.tetrad", "--overwrite"]);
        let said = place.ok(&["sample", "model.tetrad", "--prompt", prompt, "--max-tokens", "1", "--json"]);
        json(&said)["prompt_tokens"].as_array().unwrap().clone()
    };
    let plain = begun(false, "It is");
    assert_ne!(plain[0], vocab["Z"]);
    assert_eq!(begun(true, "It is"), [&[vocab["Z"].clone()], &plain[..]].concat());
    assert_eq!(begun(true, "ZIt is")[..2], [vocab["Z"].clone(), plain[0].clone()], "not twice");
}
