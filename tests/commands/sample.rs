//! `sample`: repeatable, as long as asked, whatever the length of prompt and text.

use super::process::Workplace;
use super::{TINY, trained, workplace};
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
    assert_snapshot!(refused(&["--prompt", ""]), @"tetrad: --prompt: gives no token to start from; write at least one character");
    assert_snapshot!(refused(&["--temperature=-1"]), @"tetrad: --temperature -1: a number not below 0");
    assert_snapshot!(refused(&["--temperature", "nan"]), @"tetrad: --temperature NaN: a number not below 0");
    assert_snapshot!(refused(&["--top-p", "0"]), @"tetrad: --top-p 0: above 0 and at most 1");
    assert_snapshot!(refused(&["--top-p", "1.5"]), @"tetrad: --top-p 1.5: above 0 and at most 1");
    assert_snapshot!(refused(&["--threads", "5000"]), @"tetrad: 5000 threads: at most 4096 can be asked for, 0 means one per processor");
}
