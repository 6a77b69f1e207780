//! What formats have in common, what they have otherwise, and options that are understood or refused by name.

use super::{Folder, module, modules, of, pairs, peft_config, peft_tensors, tensor};
use serde_json::{Value, json};
use tetrad::convert::adapter::{LowRank, ScaleRule};
use tetrad::model::{BlockParam as P, ParamKind};

/// The configuration with other options.
fn with(options: Value) -> Value {
    let mut config = peft_config();
    for (key, value) in options.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn found(folder: &Folder) -> (ScaleRule, Vec<LowRank>) {
    let adapter = folder.open().unwrap_or_else(|error| panic!("{error}"));
    let (rule, pairs) = pairs(&adapter);
    (rule, pairs.to_vec())
}

#[test]
fn names_may_lack_the_wrapper_or_have_the_adapters_name() {
    let plain = found(&Folder::peft(&peft_config(), &peft_tensors()));
    assert_eq!(
        plain.1.iter().map(|pair| pair.site).collect::<Vec<_>>(),
        [of(0, P::Query), of(0, P::Value), of(1, P::Query), of(1, P::Value)]
    );
    for (from, to) in [("base_model.model.model.", "model."), (".weight", ".default.weight")] {
        let mut tensors = peft_tensors();
        tensors.iter_mut().for_each(|(name, ..)| *name = name.replacen(from, to, 1));
        assert_eq!(found(&Folder::peft(&peft_config(), &tensors)), plain, "{to}");
    }
    let mut two = peft_tensors();
    two[0].0 = two[0].0.replace(".weight", ".one.weight");
    insta::assert_snapshot!(Folder::peft(&peft_config(), &two).refusal(), @"adapter_model.safetensors: 2 adapters are in one file; save each on its own: one, (no name)");
}

/// PEFT saves the matrix of an embedding or a head beside its pair.
#[test]
fn the_bases_own_embedding_and_head_may_be_in_the_file_as_large_as_the_base_has_them() {
    let config = with(json!({ "target_modules": ["embed_tokens", "lm_head"] }));
    let pairs = [
        tensor("base_model.model.model.embed_tokens.lora_embedding_A", &[4, 97]),
        tensor("base_model.model.model.embed_tokens.lora_embedding_B", &[64, 4]),
        tensor("base_model.model.lm_head.lora_A.weight", &[4, 64]),
        tensor("base_model.model.lm_head.lora_B.weight", &[97, 4]),
    ];
    let [embedding, head] = ["model.embed_tokens", "lm_head"].map(|module| {
        let name = format!("base_model.model.{module}.base_layer.weight");
        move |rows| tensor(name.clone(), &[rows, 64])
    });
    let folder = |more: Vec<_>| Folder::peft(&config, &pairs.iter().cloned().chain(more).collect());
    let opened = folder(vec![embedding(97), head(97)]).open().unwrap();
    assert_eq!(super::pairs(&opened).1.len(), 2);
    assert!(
        opened.notes.len() == 2 && opened.notes[0].contains("that of the packed base is used"),
        "{:?}",
        opened.notes
    );
    insta::assert_snapshot!(folder(vec![embedding(99)]).refusal(), @"adapter_model.safetensors: tensor base_model.model.model.embed_tokens.base_layer.weight is [99, 64], and [97, 64] is needed beside the base's matrix of 97 x 64");
    let said = folder(vec![tensor("base_model.model.model.norm.base_layer.weight", &[64])]).refusal();
    assert!(said.contains("belong to no matrix"), "{said}");
}

#[test]
fn modules_are_named_by_lists_patterns_blocks_and_exceptions() {
    let tensors = peft_tensors();
    for same in [
        json!({ "target_modules": r".*\.(q|v)_proj" }),
        json!({ "target_modules": ["self_attn.q_proj", "v_proj"] }),
        json!({ "target_modules": null }),
        json!({ "target_modules": ["q_proj", "v_proj", "k_proj"], "exclude_modules": ["k_proj"] }),
        json!({ "target_modules": ["q_proj", "v_proj", "k_proj"], "exclude_modules": r".*k_proj" }),
        json!({ "layers_to_transform": [0, 1], "layers_pattern": "layers" }),
        json!({ "rank_pattern": { r"layers\.\d\.self_attn\.v_proj": 4 }, "alpha_pattern": null, "r": 4 }),
        json!({ "init_lora_weights": "gaussian", "eva_config": { "rho": 2.0 }, "megatron_core": "megatron.core" }),
    ] {
        found(&Folder::peft(&with(same), &tensors));
    }
    let of_second: Vec<_> = tensors.iter().filter(|(name, ..)| name.contains("layers.1")).cloned().collect();
    let pairs = found(&Folder::peft(&with(json!({ "layers_to_transform": 1 })), &of_second)).1;
    assert!(pairs.iter().all(|pair| pair.site.block() == Some(1)) && pairs.len() == 2);
}

/// The first pattern in the order of the file counts, not the longest and not the first of the alphabet.
#[test]
fn the_first_pattern_counts() {
    let alphas = |text: &str| {
        let folder = Folder::peft(&peft_config(), &peft_tensors());
        let config = with(json!({ "alpha_pattern": null })).to_string().replace("\"alpha_pattern\":null", text);
        std::fs::write(folder.0.path().join("adapter_config.json"), config).unwrap();
        found(&folder).1.iter().map(|pair| pair.alpha).collect::<Vec<_>>()
    };
    assert_eq!(alphas(r#""alpha_pattern":{"q_proj":3,"layers.0.self_attn.q_proj":5}"#), [3.0, 8.0, 3.0, 8.0]);
    assert_eq!(alphas(r#""alpha_pattern":{"layers.0.self_attn.q_proj":5,"q_proj":3}"#), [5.0, 8.0, 3.0, 8.0]);
}

#[test]
fn options_that_change_what_is_computed_are_refused_by_name() {
    let tensors = peft_tensors();
    let said = |options: Value| Folder::peft(&with(options), &tensors).refusal();
    for (key, value) in [
        ("alora_invocation_tokens", json!([1, 2])),
        ("arrow_config", json!({ "top_k": 3 })),
        ("bias", json!("lora_only")),
        ("corda_config", json!({ "a": 1 })),
        ("ensure_weight_tying", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("kasa_config", json!({ "a": 1 })),
        ("layer_replication", json!([[0, 1]])),
        ("loftq_config", json!({ "loftq_bits": 4 })),
        ("lora_bias", json!(true)),
        ("megatron_config", json!({ "a": 1 })),
        ("modules_to_save", json!(["lm_head"])),
        ("monteclora_config", json!({ "a": 1 })),
        ("peft_type", json!("LOHA")),
        ("target_parameters", json!(["experts"])),
        ("task_type", json!("SEQ_CLS")),
        ("trainable_token_indices", json!([3])),
        ("use_bdlora", json!(true)),
        ("use_qalora", json!(true)),
        ("velora_config", json!({ "a": 1 })),
        ("an_option_of_2031", json!(0.5)),
    ] {
        let said = said(json!({ key: value }));
        assert!(said.starts_with(&format!("adapter_config.json: {key} is ")), "{said}");
    }
    insta::assert_snapshot!(said(json!({ "use_qalora": true })), @"adapter_config.json: use_qalora is true; its A reads sums over groups of inputs");
    insta::assert_snapshot!(said(json!({ "an_option_of_2031": 0.5 })), @"adapter_config.json: an_option_of_2031 is 0.5; this option is not known here and may change what is computed");
    // What says no says nothing.
    found(&Folder::peft(
        &with(json!({ "an_option_of_2031": null, "another": false, "lists": [], "tables": {} })),
        &tensors,
    ));
}

#[test]
fn numbers_of_the_configuration_must_be_possible() {
    let said = |options: Value| Folder::peft(&with(options), &peft_tensors()).refusal();
    insta::assert_snapshot!(said(json!({ "lora_alpha": 0 })), @"adapter_config.json: lora_alpha is 0; a number other than 0 is needed: the product of a pair is multiplied by it");
    insta::assert_snapshot!(said(json!({ "alpha_pattern": { "q_proj": 0 } })), @r#"adapter_config.json: alpha_pattern is 0 for "q_proj"; a number other than 0 is needed: the product of a pair is multiplied by it"#);
    insta::assert_snapshot!(said(json!({ "lora_alpha": "8" })), @r#"adapter_config.json: lora_alpha is "8"; a number is needed"#);
    insta::assert_snapshot!(said(json!({ "r": 0 })), @"adapter_config.json: r is 0; a whole number above 0 is needed");
    insta::assert_snapshot!(said(json!({ "r": 8 })), @"adapter_model.safetensors: model.layers.0.self_attn.q_proj has rank 4, and the configuration says 8");
    insta::assert_snapshot!(said(json!({ "rank_pattern": { "q_proj": 2.5 } })), @r#"adapter_config.json: rank_pattern is 2.5 for "q_proj"; a whole number above 0 is needed"#);
    insta::assert_snapshot!(said(json!({ "lora_dropout": 1.0 })), @"adapter_config.json: lora_dropout is 1; at least 0 and below 1 is needed");
    insta::assert_snapshot!(said(json!({ "use_dora": 1 })), @"adapter_config.json: use_dora is 1; true or false is needed");
}

#[test]
fn patterns_that_match_nothing_are_refused() {
    let said = |options: Value| Folder::peft(&with(options), &peft_tensors()).refusal();
    insta::assert_snapshot!(said(json!({ "rank_pattern": { "c_attn": 4 } })), @r#"adapter_config.json: rank_pattern: "c_attn" matches no matrix of the base"#);
    insta::assert_snapshot!(said(json!({ "target_modules": ["q_proj", "v_proj", "c_attn"] })), @r#"adapter_config.json: target_modules: "c_attn" names no matrix of the base"#);
    insta::assert_snapshot!(said(json!({ "target_modules": ".*c_attn" })), @r#"adapter_config.json: target_modules: ".*c_attn" matches no matrix of the base"#);
    insta::assert_snapshot!(said(json!({ "layers_to_transform": [0], "layers_pattern": "h" })), @r#"adapter_config.json: layers_pattern: "h" matches no list of blocks; that of the base is called "layers""#);
    let said = said(json!({ "alpha_pattern": { "(": 4 } }));
    assert!(said.starts_with("adapter_config.json: alpha_pattern: \"(\" is no regular expression"), "{said}");
}

/// A of an embedding is `[r, vocab]` in PEFT; here its rows are outputs like those of every matrix.
#[test]
fn an_embedding_of_peft_lies_the_other_way_round() {
    let mut tensors = peft_tensors();
    let (a, b) = (
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.embed_tokens.lora_embedding_B",
    );
    tensors.push(tensor(a, &[4, 97]));
    tensors.push(tensor(b, &[64, 4]));
    let config = with(json!({ "target_modules": ["q_proj", "v_proj", "embed_tokens"] }));
    let pairs = found(&Folder::peft(&config, &tensors)).1;
    assert_eq!((pairs[0].site, pairs[0].rank), (ParamKind::Embedding, 4));
    let (of_a, of_b) = (&tensors[8].2, &tensors[9].2);
    for token in 0..97 {
        for r in 0..4 {
            assert_eq!(pairs[0].b[token * 4 + r], of_a[r * 97 + token]);
        }
    }
    for r in 0..4 {
        for i in 0..64 {
            assert_eq!(pairs[0].a[r * 64 + i], of_b[i * 4 + r]);
        }
    }
    // Under the names of a linear, it is none.
    tensors[8] = tensor("base_model.model.model.embed_tokens.lora_A.weight", &[4, 97]);
    let said = Folder::peft(&config, &tensors).refusal();
    assert!(said.contains("belong to no matrix of the base") && said.ends_with("embed_tokens.lora_A.weight"), "{said}");
}

/// mlx-lm transposes both halves, multiplies by the scale itself, and adapts the last blocks only.
#[test]
fn folders_of_mlx_are_read() {
    let mut tensors = Vec::new();
    for (module, rows, cols) in modules().into_iter().filter(|(module, ..)| module.contains("layers.1")) {
        tensors.push(tensor(format!("{module}.lora_a"), &[cols, 4]));
        tensors.push(tensor(format!("{module}.lora_b"), &[4, rows]));
    }
    let config = json!({
        "fine_tune_type": "lora", "num_layers": 1, "lora_parameters": { "rank": 4, "scale": 20.0, "dropout": 0.1 },
        "model": "mlx-community/tiny", "iters": 1000, "train": true,
    });
    let folder = Folder::new(&config, &tensors, "adapters.safetensors");
    let adapter = folder.open().unwrap();
    let (rule, found) = pairs(&adapter);
    assert_eq!((adapter.format, adapter.dropout, found.len()), ("mlx-lm folder", 0.1, 7));
    for pair in found {
        assert_eq!(rule.factor(pair.alpha, pair.rank), 20.0);
        let at = tensors.iter().position(|(name, ..)| *name == format!("{}.lora_a", module(pair.site))).unwrap();
        let (cols, rows) = (tensors[at].1[0] as usize, tensors[at + 1].1[1] as usize);
        for r in 0..4 {
            assert!((0..cols).all(|i| pair.a[r * cols + i] == tensors[at].2[i * 4 + r]));
            assert!((0..rows).all(|o| pair.b[o * 4 + r] == tensors[at + 1].2[r * rows + o]));
        }
    }
    let said = |edit: &dyn Fn(&mut Value)| {
        let mut config = config.clone();
        edit(&mut config);
        Folder::new(&config, &tensors, "adapters.safetensors").refusal()
    };
    insta::assert_snapshot!(said(&|config| config["fine_tune_type"] = "full".into()), @r#"adapter_config.json: fine_tune_type is "full"; "lora" and "dora" are read"#);
    insta::assert_snapshot!(said(&|config| config["num_layers"] = 3.into()), @"adapter_config.json: num_layers is 3; the base has 2 blocks");
    insta::assert_snapshot!(said(&|config| config["lora_parameters"]["scale"] = Value::Null), @"adapter_config.json: lora_parameters.scale is null; a finite number is needed");
    insta::assert_snapshot!(said(&|config| config["lora_parameters"]["rank"] = 8.into()), @"adapters.safetensors: model.layers.1.self_attn.q_proj has rank 4, and the configuration says 8");
    let mut below = tensors.clone();
    below.push(tensor("model.layers.0.mlp.up_proj.lora_a", &[64, 4]));
    below.push(tensor("model.layers.0.mlp.up_proj.lora_b", &[4, 172]));
    insta::assert_snapshot!(Folder::new(&config, &below, "adapters.safetensors").refusal(), @"adapters.safetensors: 1 modules have tensors in the file, and lie below the blocks of num_layers: model.layers.0.mlp.up_proj");
}
