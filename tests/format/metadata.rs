//! Files whose structure is sound but whose metadata lie: each a refusal with the numbers, never a panic, never memory
//! or time in proportion to what is claimed.

use crate::harness::process::Workplace;
use insta::assert_snapshot;
use serde_json::{Map, Value, json};
use std::io;
use std::path::{Path, PathBuf};
use tetrad::backend::cpu::Cpu;
use tetrad::checkpoint::{Capacity, Checkpoint, Extent, Meta, open_model, save};
use tetrad::config::Config;
use tetrad::format::{Attachment, File, Layout, PlaneKind, TensorPlan};
use tetrad::model::{Generator, TableStorage};
use tetrad::train::Trainer;

/// A sound file, to be rewritten.
struct Victim {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
}

fn victim_config() -> Config {
    let mut config = Config::default();
    let model = &mut config.model;
    (model.hidden, model.intermediate, model.layers, model.heads, model.kv_heads) = (16, 24, 2, 4, 2);
    (model.context, config.train.sequence) = (32, 16);
    (config.storage.group, config.storage.head) = (32, TableStorage::Int8);
    config
}

fn victim() -> Victim {
    let config = victim_config();
    let mut trainer = Trainer::new(&config, Box::new(Cpu::new())).unwrap();
    trainer.initialize();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sound.tetrad");
    let meta = Meta::new(&config, trainer.counters(), false, "none");
    save(trainer.model(), trainer.backend(), &meta, None, Extent::Weights, &path).unwrap();
    Victim { bytes: std::fs::read(path).unwrap(), dir }
}

impl Victim {
    fn metadata(&self) -> Map<String, Value> {
        File::parse(&self.bytes).unwrap().metadata().clone()
    }

    /// The same tensors and other metadata, by the library's own writer, checksums and all.
    fn rewritten(&self, metadata: &Map<String, Value>, attachments: &[Attachment<'_>]) -> PathBuf {
        let file = File::parse(&self.bytes).unwrap();
        let planes = |t: &tetrad::format::Tensor| t.planes.iter().map(|p| (p.kind, p.element().unwrap())).collect();
        let tensors: Vec<_> = file
            .tensors()
            .iter()
            .map(|t| TensorPlan { planes: planes(t), ..TensorPlan::weight(t.spec.clone()) })
            .collect();
        let layout = Layout::new(&tensors, metadata, attachments).unwrap();
        let path = self.dir.path().join("liar.tetrad");
        let mut source = |tensor: usize, kind: PlaneKind, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>| {
            sink(file.plane(tensor, kind).unwrap().bytes)
        };
        layout.write(&mut std::fs::File::create(&path).unwrap(), &mut source).unwrap();
        path
    }

    /// The file with one value changed; its place is written `model.layers`.
    fn with(&self, place: &str, value: Value) -> PathBuf {
        let mut metadata = Value::Object(self.metadata());
        *metadata.pointer_mut(&format!("/{}", place.replace('.', "/"))).unwrap() = value;
        self.rewritten(metadata.as_object().unwrap(), &[])
    }

    fn refusal(&self, path: &Path) -> String {
        let error = Checkpoint::open(path).err().unwrap_or_else(|| panic!("it was opened"));
        error.to_string().replace(&format!("{}/", self.dir.path().display()), "")
    }

    fn lie(&self, place: &str, value: Value) -> String {
        self.refusal(&self.with(place, value))
    }
}

#[test]
fn a_file_rewritten_as_it_was_opens() {
    let victim = victim();
    let path = victim.rewritten(&victim.metadata(), &[]);
    Checkpoint::open(&path).unwrap().verify().unwrap();
    assert!(std::fs::read(path).unwrap() == victim.bytes);
}

#[test]
fn a_model_of_another_shape_is_refused_with_both_shapes() {
    let v = victim();
    assert_snapshot!(v.lie("model.layers", json!(1_000_000_000)), @"liar.tetrad: the metadata describes an impossible model: model.layers = 1000000000: must be 1 to 1024");
    assert_snapshot!(v.lie("model.layers", json!(1000)), @"liar.tetrad: tensor model.layers.2.input_layernorm.weight of the described model is missing (8982 missing in total)");
    assert_snapshot!(v.lie("model.layers", json!(3)), @"liar.tetrad: tensor model.layers.2.input_layernorm.weight of the described model is missing (9 missing in total)");
    assert_snapshot!(v.lie("model.layers", json!(1)), @"liar.tetrad: tensor model.layers.1.input_layernorm.weight is not part of the described model (9 such tensors in total)");
    assert_snapshot!(v.lie("model.vocab", json!(257)), @"liar.tetrad: tensor model.embed_tokens.weight is bf16 [256, 16] in groups of 32, but the metadata describes bf16 [257, 16] in groups of 32");
    assert_snapshot!(v.lie("model.vocab", json!(255)), @"liar.tetrad: the metadata describes an impossible model: model.vocab = 255: must be at least 256, since every byte is a token");
    assert_snapshot!(v.lie("model.hidden", json!(1u64 << 60)), @"
    liar.tetrad: the metadata describes an impossible model: 2 mistakes in the configuration:
      model.hidden = 1152921504606846976: must be 1 to 16777216
      train.batch = 16: makes 18446744073709551615 activations of a kind with train.sequence = 16 and this model, at most 70368744177664 are possible
    ");
    assert_snapshot!(v.lie("model.hidden", json!(20)), @"liar.tetrad: the metadata describes an impossible model: model.heads = 4: makes the head size 5 (model.hidden = 20), and rotary embeddings need an even one; use 1 or 2 or 5 or 10");
    assert_snapshot!(v.lie("model.heads", json!(3)), @"
    liar.tetrad: the metadata describes an impossible model: 2 mistakes in the configuration:
      model.kv_heads = 2: must divide model.heads = 3, which share keys and values; use 1 or 3
      model.heads = 3: must divide model.hidden = 16; use 1 or 2 or 4 or 8
    ");
    assert_snapshot!(v.lie("model.heads", json!(0)), @"liar.tetrad: the metadata describes an impossible model: model.heads = 0: must be 1 to 16777216");
    assert_snapshot!(v.lie("model.kv_heads", json!(4)), @"liar.tetrad: tensor model.layers.0.self_attn.k_proj.weight is int4 [8, 16] in groups of 32, but the metadata describes int4 [16, 16] in groups of 32");
    assert_snapshot!(v.lie("model.kv_heads", json!(u64::MAX)), @"
    liar.tetrad: the metadata describes an impossible model: 2 mistakes in the configuration:
      model.kv_heads = 18446744073709551615: must be 1 to 16777216
      model.kv_heads = 18446744073709551615: must divide model.heads = 4, which share keys and values; use 1 or 2 or 4
    ");
    assert_snapshot!(v.lie("model.tied", json!(true)), @"liar.tetrad: tensor lm_head.weight is not part of the described model (1 such tensors in total)");
    assert_snapshot!(v.lie("storage.weights", json!("f32")), @"liar.tetrad: tensor model.layers.0.self_attn.q_proj.weight is int4 [16, 16] in groups of 32, but the metadata describes f32 [16, 16] in groups of 32");
    assert_snapshot!(v.lie("storage.embedding", json!("int4")), @"liar.tetrad: tensor model.embed_tokens.weight is bf16 [256, 16] in groups of 32, but the metadata describes int4 [256, 16] in groups of 32");
    assert_snapshot!(v.lie("storage.scheme", json!("asymmetric")), @"liar.tetrad: tensor model.layers.0.self_attn.q_proj.weight is int4 [16, 16] in groups of 32, but the metadata describes int4-asymmetric [16, 16] in groups of 32");
    assert_snapshot!(v.lie("storage.group", json!(64)), @"liar.tetrad: tensor model.embed_tokens.weight is bf16 [256, 16] in groups of 32, but the metadata describes bf16 [256, 16] in groups of 64");
}

#[test]
fn values_of_the_wrong_kind_are_refused() {
    let v = victim();
    assert_snapshot!(v.lie("model.layers", json!(-2)), @"liar.tetrad: the metadata does not describe a tetrad model: model.layers: invalid value: integer `-2`, expected usize");
    assert_snapshot!(v.lie("model.layers", json!(2.5)), @"liar.tetrad: the metadata does not describe a tetrad model: model.layers: invalid type: floating point `2.5`, expected usize");
    assert_snapshot!(v.lie("model.norm_eps", json!("small")), @r#"liar.tetrad: the metadata does not describe a tetrad model: model.norm_eps: invalid type: string "small", expected f64"#);
    assert_snapshot!(v.lie("storage.m", json!("int3")), @"liar.tetrad: the metadata does not describe a tetrad model: storage.m: unknown variant `int3`, expected one of `f32`, `int8`, `int4`");
    assert_snapshot!(v.lie("counters", json!([])), @"liar.tetrad: the metadata does not describe a tetrad model: counters: invalid length 0, expected struct Counters with 6 elements");
    assert_snapshot!(v.lie("tool", json!(null)), @"liar.tetrad: the metadata does not describe a tetrad model: tool: invalid type: null, expected a string");
}

#[test]
fn a_tokenizer_that_is_not_what_is_said_is_refused() {
    let v = victim();
    assert_snapshot!(v.lie("tokenizer", json!("tokenizer.json")), @"liar.tetrad: the metadata does not describe a tetrad model: the tokenizer is said to be attached as tokenizer.json, but is not");
    assert_snapshot!(v.lie("tokenizer", json!("gpt2")), @r#"liar.tetrad: the metadata does not describe a tetrad model: tokenizer is "gpt2", "bytes" and "tokenizer.json" exist"#);
    let attached = [Attachment { name: "tokenizer.json", bytes: b"{}" }];
    assert_snapshot!(v.refusal(&v.rewritten(&v.metadata(), &attached)), @"liar.tetrad: the metadata does not describe a tetrad model: tokenizer.json is attached, but the text is said to be bytes");
}

#[test]
fn counters_that_no_run_can_have_are_refused() {
    let v = victim();
    assert_snapshot!(v.lie("counters.step", json!(u64::MAX)), @"liar.tetrad: the metadata does not describe a tetrad model: counters.step is 18446744073709551615, at most 9007199254740992 is possible");
    assert_snapshot!(v.lie("counters.position", json!(1)), @"liar.tetrad: the metadata does not describe a tetrad model: counters.position is 1, at most 0 is possible");
    assert_snapshot!(v.lie("counters", json!({
        "step": 10, "position": u64::MAX, "skipped_losses": 0, "skipped_gradients": 0, "nonfinite_in_a_row": 0
    })), @"liar.tetrad: the metadata does not describe a tetrad model: counters.position is 18446744073709551615, at most 10485760 is possible");
    assert_snapshot!(v.lie("counters.nonfinite_in_a_row", json!(3)), @"liar.tetrad: the metadata does not describe a tetrad model: counters.nonfinite_in_a_row is 3, at most 0 is possible");
    assert_snapshot!(v.lie("seed", json!(u64::MAX)), @"liar.tetrad: the metadata describes an impossible model: seed = 18446744073709551615: must be at most 9223372036854775807, the largest whole number of TOML");
}

/// In a configuration an absent key means the quick-start's value; in a file that would be a guess about its weights.
#[test]
fn a_missing_key_is_named() {
    let v = victim();
    let metadata = v.metadata();
    for key in metadata.keys() {
        let mut less = metadata.clone();
        less.remove(key);
        let said = v.refusal(&v.rewritten(&less, &[]));
        assert!(said.contains(&format!("missing field `{key}`")), "{said}");
    }
    for table in ["model", "storage", "activations"] {
        for key in metadata[table].as_object().unwrap().keys() {
            let mut less = metadata.clone();
            less[table].as_object_mut().unwrap().remove(key);
            let said = v.refusal(&v.rewritten(&less, &[]));
            assert!(said.contains(&format!("{table}.{key} is missing")), "{said}");
        }
    }
}

/// A later version's files: what says nothing about the weights is passed over, what may change them is not.
#[test]
fn an_unknown_key_is_ignored_only_where_it_cannot_matter() {
    let v = victim();
    let with = |table: Option<&str>| {
        let mut more = v.metadata();
        match table {
            Some(table) => more[table].as_object_mut().unwrap().insert("novelty".into(), json!(1)),
            None => more.insert("novelty".into(), json!(1)),
        };
        v.rewritten(&more, &[])
    };
    for table in [None, Some("optimizer"), Some("train")] {
        Checkpoint::open(&with(table)).unwrap_or_else(|e| panic!("{table:?}: {e}"));
    }
    for table in ["model", "storage", "activations"] {
        let said = v.refusal(&with(Some(table)));
        assert!(said.contains(&format!("{table}.novelty: unknown field `novelty`")), "{said}");
    }
}

/// Only resuming needs to know the rule of the state.
#[test]
fn an_unknown_optimizer_is_refused_only_where_training_is_resumed() {
    let v = victim();
    let mut later = v.metadata();
    later["optimizer"] = json!({ "name": "of-2030", "lr": 1e-3, "depth": [1, 2] });
    let file = Checkpoint::open(&v.rewritten(&later, &[])).unwrap_or_else(|error| panic!("{error}"));
    let capacity = Capacity { tokens: 4, keys: 8, sampling: false, packing: false };
    open_model(&file, &mut Cpu::new(), capacity).unwrap_or_else(|error| panic!("{error}"));
    let said = file.check_run(&victim_config(), "none").unwrap_err().to_string();
    assert!(said.contains("cannot be resumed: optimizer: unknown variant `of-2030`"), "{said}");
}

/// Every value of the metadata in turn becomes every hostile one: a refusal, or a model that can be computed with.
#[test]
fn no_single_lie_makes_a_panic() {
    let v = victim();
    let hostile = [
        json!(null),
        json!(true),
        json!(""),
        json!([]),
        json!({}),
        json!(-1),
        json!(0),
        json!(1),
        json!(7),
        json!(1u64 << 24),
        json!(1u64 << 32),
        json!(1u64 << 53),
        json!(u64::MAX),
        json!(1e18),
        json!(-1e-300),
    ];
    let mut places = Vec::new();
    for (name, value) in v.metadata() {
        match value {
            Value::Object(inner) => places.extend(inner.keys().map(|key| format!("{name}.{key}"))),
            _ => places.push(name),
        }
    }
    let (mut refused, mut opened) = (0, 0);
    for place in &places {
        for value in &hostile {
            let path = v.with(place, value.clone());
            let Ok(checkpoint) = Checkpoint::open(&path) else {
                refused += 1;
                continue;
            };
            opened += 1;
            let mut backend = Cpu::new();
            let capacity = Capacity { tokens: 4, keys: 8, sampling: true, packing: false };
            let model = open_model(&checkpoint, &mut backend, capacity).unwrap();
            Generator::new(&model).feed(&mut backend, &[84, 104, 101]);
        }
    }
    assert!(refused > 500 && opened > 50, "{refused} refused, {opened} opened");
}

/// The context is nowhere in the tensors; memory must follow the text, not the claim.
#[test]
fn a_claimed_context_of_millions_takes_no_memory() {
    let (v, place) = (victim(), Workplace::new());
    let mut metadata = v.metadata();
    metadata["model"]["context"] = json!(1 << 24);
    let path = v.rewritten(&metadata, &[]);
    let limited = |args: &str| {
        let program = env!("CARGO_BIN_EXE_tetrad");
        // Two million KiB of address space; caches for that context would be four times that.
        let script = format!("ulimit -v 2000000; exec {program} {args}");
        std::process::Command::new("sh").args(["-c", &script]).current_dir(place.path("")).output().unwrap()
    };
    std::fs::write(place.path("a.txt"), "some text\n").unwrap();
    for args in ["sample {} --prompt a --max-tokens 3 --threads 1", "eval {} --text a.txt --threads 1"] {
        let output = limited(&args.replace("{}", path.to_str().unwrap()));
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
