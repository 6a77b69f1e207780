//! Presets, files and overrides: which value wins.

use tetrad::backend::{Moment, SecondMoment};
use tetrad::config::{Config, PRESETS};
use tetrad::data::{Overlong, Packing, SourceConfig};
use tetrad::model::{RopeScaling, Weights};
use tetrad::optim::Rule;

fn load(source: Option<&str>, sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    Config::load(source, &sets).unwrap()
}

fn load_text(text: &str, sets: &[&str]) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    std::fs::write(&path, text).unwrap();
    load(path.to_str(), sets)
}

#[test]
fn nothing_means_the_quick_start() {
    assert_eq!(load(None, &[]), Config::default());
    assert_eq!(load(Some("quickstart"), &[]), Config::default());
    assert_eq!(load_text("", &[]), Config::default());
}

#[test]
fn a_file_is_laid_over_its_preset_and_overrides_over_the_file() {
    let config =
        load_text("preset = '60m'\n[model]\nlayers = 2\n[train]\nbatch = 4\n", &["train.batch=8", "train.batch=9"]);
    assert_eq!(config.model, tetrad::model::ModelConfig { layers: 2, ..Config::preset("60m").unwrap().model });
    assert_eq!(config.train.batch, 9);
    assert_eq!(config.optimizer.lr, 1e-3);
}

#[test]
fn overrides_need_no_quotes_for_words_texts_and_single_files() {
    let sets = ["storage.m=int8", "storage.weights=\"f32\"", "run.dir=2024", "data.train=a.txt", "optimizer.lr=1e-3"];
    let config = load(None, &sets);
    assert_eq!((config.storage.m, config.storage.weights), (Moment::Int8, Weights::F32));
    assert_eq!(config.run.dir.to_str(), Some("2024"));
    assert_eq!(config.data.train, ["a.txt"]);
    assert_eq!(config.optimizer.lr, 1e-3);
    assert_eq!(load(None, &["data.train=[\"a.txt\", 'b.jsonl']"]).data.train, ["a.txt", "b.jsonl"]);
    assert_eq!(
        load(None, &["optimizer.weight_decay=0", "train.sample_prompt= To be = "]).train.sample_prompt,
        "To be ="
    );
}

#[test]
fn sources_are_tables_in_a_file_and_in_an_override() {
    let text = "[[data.source]]\nfiles = ['a.txt']\nweight = 0.7\n[[data.source]]\nfiles = ['b/*.jsonl', 'c.txt']\n";
    let sources =
        [("a.txt", 0.7), ("b/*.jsonl", 1.0)].map(|(file, weight)| SourceConfig { files: vec![file.into()], weight });
    let config = load_text(text, &[]);
    assert_eq!(config.data.source[0], sources[0]);
    assert_eq!(config.data.source[1].files, ["b/*.jsonl", "c.txt"]);
    assert_eq!(load_text(&config.to_toml(), &[]), config);
    let set = "data.source=[{ files = ['a.txt'], weight = 0.7 }, { files = ['b/*.jsonl'] }]";
    assert_eq!(load(None, &[set]).data.source, sources);
}

#[test]
fn an_override_cannot_smuggle_in_a_second_key() {
    let config = load(None, &["train.sample_prompt=\"a\"\n[run]\nseed = 7"]);
    assert_eq!(config.run.seed, 1);
    assert!(config.train.sample_prompt.contains("seed = 7"));
}

#[test]
fn fewer_steps_shorten_the_warm_up_unless_it_is_given() {
    assert_eq!(load(None, &["train.steps=20"]).train.warmup, 2);
    assert_eq!(load(None, &["train.steps=20", "train.warmup=7"]).train.warmup, 7);
    assert_eq!(load_text("[train]\nsteps = 50\n", &[]).train.warmup, 5);
    assert_eq!(load(Some("60m"), &["train.steps=100"]).train.warmup, 10);
    assert_eq!(load(None, &["train.batch=2"]).train.warmup, Config::default().train.warmup);
}

#[test]
fn more_heads_do_not_silently_share_keys_and_values() {
    assert_eq!(load(None, &["model.heads=8"]).model.kv_heads, 8);
    assert_eq!(load(None, &["model.heads=8", "model.kv_heads=2"]).model.kv_heads, 2);
    assert_eq!(load(None, &["model.kv_heads=2"]).model.heads, 4);
}

#[test]
fn a_resolved_configuration_loads_as_itself() {
    for name in PRESETS {
        let sets =
            ["tokenizer.file=a \"b\".json", "optimizer.eps=1e-12", "optimizer.lr=0.1", "run.seed=9223372036854775807"];
        let config = load(Some(name), &sets);
        assert_eq!(load_text(&config.to_toml(), &[]), config, "{name}");
    }
}

#[test]
fn the_documented_example_holds_every_key_with_its_default_and_a_comment() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/config.toml");
    assert_eq!(load(Some(path), &[]), Config::default());

    let mut config = Config::default();
    config.tokenizer.file = Some("tokenizer.json".into());
    // Written only where they differ from their defaults.
    (config.data.packing, config.data.overlong) = (Packing::Pad, Overlong::Skip);
    config.data.chat_template = Some("chat.jinja".into());
    config.data.source = vec![SourceConfig { files: vec!["books/*.txt".into()], weight: 0.7 }];
    let model = &mut config.model;
    (model.head_dim, model.qkv_bias, model.qk_norm) = (Some(64), true, true);
    (model.rope_scaling, model.rope_factor, model.rope_original_context) = (RopeScaling::Llama3, 8.0, 4096);
    (model.rope_low, model.rope_high) = (2.0, 8.0);
    (config.train.decay_steps, config.train.decay_share) = (100, 0.3);
    (config.train.audit_every, config.train.max_unmoved) = (7, 50);
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for expected in config.to_toml().lines().filter(|line| !line.is_empty()) {
        // TOML has several spellings of a number, so values are compared above and only names here.
        let name = expected.split(" = ").next().unwrap();
        let at = lines.iter().position(|line| line.trim_start_matches("# ").split(" = ").next() == Some(name));
        let at = at.unwrap_or_else(|| panic!("{name} is not in the example"));
        assert!(at > 0 && lines[at - 1].starts_with("# "), "{name} has no comment in the example");
    }
}

#[test]
fn every_preset_takes_every_rule() {
    for preset in PRESETS {
        for rule in Rule::ALL {
            let config = load(Some(preset), &[&format!("optimizer.name={}", rule.name())]);
            let shared = preset.ends_with("compact") && !rule.info().own_v;
            let v = if shared { SecondMoment::Factored } else { SecondMoment::Int4 };
            assert_eq!(config.storage.v, v, "{preset}, {rule:?}");
        }
    }
    // What is given wins, or is refused with what to set.
    assert_eq!(load(Some("compact"), &["optimizer.name=galore", "storage.v=f32"]).storage.v, SecondMoment::F32);
    let sets = ["optimizer.name=galore", "storage.v=row"].map(String::from);
    let said = Config::load(Some("compact"), &sets).unwrap_err().to_string();
    assert!(said.contains("storage.v = \"row\"") && said.contains("set it to \"int4\""), "{said}");
}
