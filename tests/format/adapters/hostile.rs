//! Adapters that are damaged, of another base, or made to hurt: each is refused, and says why.

use super::{Folder, base, peft_config, peft_tensors, recorded, tensor};
use serde_json::json;
use tetrad::convert::adapter::open_adapter;
use tetrad::convert::gguf::{GgufWriter, Item, MetaValue};
use tetrad::convert::quants::Kind;
use tetrad::model::ModelConfig;

fn refusal(edit: impl FnOnce(&mut super::Tensors)) -> String {
    let mut tensors = peft_tensors();
    edit(&mut tensors);
    Folder::peft(&peft_config(), &tensors).refusal()
}

#[test]
fn halves_belong_together() {
    insta::assert_snapshot!(refusal(|t| drop(t.remove(1))), @"adapter_model.safetensors: 1 halves of pairs are missing; the file was cut, or written by a save that failed: model.layers.0.self_attn.q_proj (B)");
    insta::assert_snapshot!(refusal(|t| t.truncate(4)), @"adapter_model.safetensors: 2 modules are among target_modules, and the file has no tensors of them: model.layers.1.self_attn.q_proj, model.layers.1.self_attn.v_proj");
    insta::assert_snapshot!(refusal(|t| t[1] = tensor(t[1].0.clone(), &[64, 3])), @"adapter_model.safetensors: the halves of model.layers.0.self_attn.q_proj differ in rank: A has 4, B has 3");
    insta::assert_snapshot!(refusal(|t| t[0] = tensor(t[0].0.clone(), &[4, 128])), @"adapter_model.safetensors: tensor base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight is [4, 128], and [r, 64] is needed beside the base's matrix of 64 x 64");
    insta::assert_snapshot!(refusal(|t| t[1] = tensor(t[1].0.clone(), &[4, 64])), @"adapter_model.safetensors: tensor base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight is [4, 64], and [64, r] is needed beside the base's matrix of 64 x 64");
    insta::assert_snapshot!(refusal(|t| t.push(tensor("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", &[64]))), @"adapter_model.safetensors: 1 magnitudes are there, and the configuration does not say use_dora: model.layers.0.self_attn.q_proj (magnitude)");
    insta::assert_snapshot!(refusal(|t| t.push(tensor("model.layers.0.self_attn.q_proj.lora_A.weight", &[4, 64]))), @"adapter_model.safetensors: 2 tensors are the same half of one matrix under different names: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight, model.layers.0.self_attn.q_proj.lora_A.weight");
    insta::assert_snapshot!(refusal(Vec::clear), @"adapter_model.safetensors: has no pair of matrices");
}

#[test]
fn tensors_of_no_matrix_are_named() {
    let said = refusal(|t| t.push(tensor("base_model.model.lm_head.weight", &[97, 64])));
    assert!(said.ends_with("more than an adapter: base_model.model.lm_head.weight"), "{said}");
    let said = refusal(|t| t.push(tensor("base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight", &[4, 64])));
    assert!(said.contains("1 tensors belong to no matrix of the base; an adapter of another model"), "{said}");
    for name in [
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
        "base_model.model.model.layers.00.self_attn.q_proj.lora_A.weight",
        "",
        "lora_A.",
        ".lora_A.weight",
        "base_model.model.",
    ] {
        let said = refusal(|t| t.push(tensor(name, &[4, 64])));
        assert!(said.contains("belong to no matrix"), "{name}: {said}");
    }
}

#[test]
fn numbers_must_be_finite() {
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let said = refusal(|t| t[3].2[17] = value);
        let expected = format!("lora_B.weight holds {shown} at element 17; numbers must be finite");
        assert!(said.ends_with(&expected), "{said}");
    }
}

/// Twenty names are enough to know what is wrong.
#[test]
fn a_hundred_thousand_tensors_are_refused_in_a_few_words() {
    let said =
        refusal(|t| t.extend((0..100_000).map(|i| tensor(format!("model.layers.{i}.x.lora_A.weight"), &[1, 1]))));
    assert!(said.contains("100000 tensors belong to no matrix") && said.len() < 1200, "{}", said.len());
}

#[test]
fn configurations_that_are_none_are_refused() {
    let folder = Folder::peft(&peft_config(), &peft_tensors());
    let said = |text: &str| {
        std::fs::write(folder.0.path().join("adapter_config.json"), text).unwrap();
        folder.refusal()
    };
    for text in [" ", "[]", "{", "{\"peft_type\": 3}", "\u{0}", "{}"] {
        assert!(said(text).starts_with("adapter_config.json: is no configuration of an adapter"), "{text}");
    }
    let deep = format!("{{\"peft_type\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(said(&deep).contains("recursion limit"));
    let twice = r#"{"peft_type":"LORA","r":4,"lora_alpha":8,"rank_pattern":{"q_proj":2,"q_proj":4}}"#;
    assert!(said(twice).contains("\"q_proj\" stands there twice"));
    let many: Vec<String> = (0..5000).map(|i| format!("\"q_proj|x{i}\":4")).collect();
    assert!(
        said(&format!(r#"{{"peft_type":"LORA","rank_pattern":{{{}}}}}"#, many.join(","))).contains("more than 4096")
    );
    assert!(said(&format!("{{\"peft_type\":\"{}\"}}", "x".repeat(2 << 20))).contains("at most 1048576 are read"));
}

#[test]
fn folders_that_hold_something_else_say_what() {
    let folder = Folder::peft(&peft_config(), &peft_tensors());
    let at = |name: &str| folder.0.path().join(name);
    std::fs::rename(at("adapter_model.safetensors"), at("adapter_model.bin")).unwrap();
    insta::assert_snapshot!(folder.refusal(), @".: its tensors are in adapter_model.bin, which is not read; save it again as safetensors");
    std::fs::remove_file(at("adapter_model.bin")).unwrap();
    insta::assert_snapshot!(folder.refusal(), @".: holds neither adapter_model.safetensors (PEFT) nor adapters.safetensors (mlx-lm)");
    super::safetensors_file(&at("adapter_model.safetensors"), &peft_tensors());
    super::safetensors_file(&at("adapters.safetensors"), &peft_tensors());
    insta::assert_snapshot!(folder.refusal(), @".: holds both adapter_model.safetensors and adapters.safetensors; remove the one that is not meant");
}

#[test]
fn a_prefix_of_another_base_or_length_is_refused() {
    let config = json!({ "peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 5, "token_dim": 32, "num_layers": 2, "num_attention_heads": 2 });
    let said = |dims: &[u64]| Folder::peft(&config, &vec![tensor("prompt_embeddings", dims)]).refusal();
    insta::assert_snapshot!(said(&[5, 64]), @"adapter_config.json: prompt_embeddings is [5, 64]; the base needs [5, 128]: num_virtual_tokens by keys and values of 2 blocks of 32");
    insta::assert_snapshot!(said(&[4, 128]), @"adapter_config.json: prompt_embeddings is [4, 128]; the base needs [5, 128]: num_virtual_tokens by keys and values of 2 blocks of 32");
    let more = vec![tensor("prompt_embeddings", &[5, 128]), tensor("prompt_encoder", &[3])];
    insta::assert_snapshot!(Folder::peft(&config, &more).refusal(), @"adapter_model.safetensors: 1 tensors are none of a prefix: prompt_encoder");
}

/// A GGUF adapter of queries, with changes.
fn gguf(edit: impl FnOnce(&mut Vec<(&'static str, MetaValue)>, &mut Vec<(String, Vec<u64>)>)) -> String {
    let mut keys = vec![
        ("general.architecture", MetaValue::Text("llama".into())),
        ("general.type", MetaValue::Text("adapter".into())),
        ("adapter.type", MetaValue::Text("lora".into())),
        ("adapter.lora.alpha", MetaValue::F32(8.0)),
    ];
    let mut tensors: Vec<(String, Vec<u64>)> = [("a", vec![4, 64]), ("b", vec![64, 4])]
        .map(|(half, dims)| (format!("blk.0.attn_q.weight.lora_{half}"), dims))
        .into();
    edit(&mut keys, &mut tensors);
    let mut writer = GgufWriter::default();
    keys.into_iter().for_each(|(key, value)| writer.key(key, value));
    let dims = tensors.clone();
    tensors.into_iter().for_each(|(name, dims)| writer.tensor(Item { name, dims, kind: Kind::F32 }));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let mut bytes = Vec::new();
    let mut send = |i: usize, sink: &mut tetrad::convert::Sink<'_>| {
        let (name, dims) = &dims[i];
        let values = tensor(name, dims).2;
        sink(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
    };
    writer.write(&mut bytes, &mut send).unwrap();
    std::fs::write(&path, bytes).unwrap();
    match open_adapter(&path, &base()) {
        Ok(adapter) => {
            let (rule, found) = super::pairs(&adapter);
            let factors: Vec<f64> = found.iter().map(|pair| rule.factor(pair.alpha, pair.rank)).collect();
            format!("{factors:?} {:?}", adapter.notes)
        }
        Err(error) => error.to_string().replace(&format!("{}/", dir.path().display()), ""),
    }
}

#[test]
fn gguf_adapters_are_checked_key_by_key_and_tensor_by_tensor() {
    insta::assert_snapshot!(gguf(|_, _| {}), @"[2.0] []");
    // An alpha of 0 stands for a factor of 1.
    insta::assert_snapshot!(gguf(|keys, _| keys[3].1 = MetaValue::F32(0.0)), @"[1.0] []");
    insta::assert_snapshot!(gguf(|keys, _| keys[3].1 = MetaValue::F32(f32::NAN)), @"a.gguf: key adapter.lora.alpha is NaN; a finite number is needed");
    insta::assert_snapshot!(gguf(|keys, _| keys[3].1 = MetaValue::F32(f32::INFINITY)), @"a.gguf: key adapter.lora.alpha is inf; a finite number is needed");
    insta::assert_snapshot!(gguf(|keys, _| drop(keys.pop())), @"a.gguf: key adapter.lora.alpha is missing");
    insta::assert_snapshot!(gguf(|keys, _| keys[0].1 = MetaValue::Text("qwen2".into())), @r#"a.gguf: key general.architecture is "qwen2"; "llama" is needed"#);
    insta::assert_snapshot!(gguf(|keys, _| keys[1].1 = MetaValue::Text("model".into())), @r#"a.gguf: key general.type is "model"; "adapter" is needed"#);
    insta::assert_snapshot!(gguf(|keys, _| keys[2].1 = MetaValue::Text("control_vector".into())), @r#"a.gguf: key adapter.type is "control_vector"; "lora" is needed"#);
    insta::assert_snapshot!(gguf(|keys, _| keys.push(("adapter.alora.invocation_tokens", MetaValue::I32s(vec![1])))), @"a.gguf: adapter.alora.invocation_tokens is an array of 1; the adapter would begin to act at a certain token, which is not read");
    insta::assert_snapshot!(gguf(|_, tensors| drop(tensors.pop())), @"a.gguf: 1 halves of pairs are missing; the file was cut, or written by a save that failed: model.layers.0.self_attn.q_proj (B)");
    insta::assert_snapshot!(gguf(|_, tensors| tensors[0].1 = vec![64, 4]), @"a.gguf: tensor blk.0.attn_q.weight.lora_a is [64, 4], and [r, 64] is needed beside the base's matrix of 64 x 64");
    insta::assert_snapshot!(gguf(|_, tensors| tensors[1].1 = vec![64, 2]), @"a.gguf: the halves of model.layers.0.self_attn.q_proj differ in rank: A has 4, B has 2");
    insta::assert_snapshot!(gguf(|_, tensors| tensors.push(("blk.0.attn_norm.weight".into(), vec![64]))), @r#"[2.0] ["1 gains of norms are left out, as llama.cpp leaves them out"]"#);
    let said = gguf(|_, tensors| tensors.push(("blk.7.attn_q.weight.lora_a".into(), vec![4, 64])));
    assert!(said.contains("belong to no matrix of the base"), "{said}");
    let said = gguf(|_, tensors| tensors.push(("token_embd.weight".into(), vec![97, 64])));
    assert!(said.contains("belong to no matrix of the base"), "{said}");
}

/// Its rows are tokens in both halves' names; `[vocab, r]` and `[hidden, r]`.
#[test]
fn the_embedding_of_a_gguf_adapter_is_transposed() {
    let embedding = |a: Vec<u64>, b: Vec<u64>| {
        gguf(|_, tensors| {
            *tensors = vec![("token_embd.weight.lora_a".into(), a), ("token_embd.weight.lora_b".into(), b)];
        })
    };
    assert_eq!(embedding(vec![97, 4], vec![64, 4]), "[2.0] []");
    assert!(embedding(vec![4, 97], vec![64, 4]).contains("[97, r] is needed"));
}

#[test]
fn cuts_and_flipped_bytes_of_the_recorded_file_are_errors_or_adapters() {
    let bytes = std::fs::read(recorded("adapter.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.gguf");
    let mut refused = 0;
    let mut open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        refused += usize::from(open_adapter(&path, &base()).is_err());
    };
    // The head, every third byte.
    for at in (0..2300).step_by(3) {
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x55;
        open(&wrong);
    }
    (1..40).for_each(|part| open(&bytes[..bytes.len() * part / 40]));
    assert!(refused > 500, "{refused}");
}

#[test]
fn an_adapter_of_another_shape_of_base_is_refused() {
    let other = ModelConfig { hidden: 128, ..base() };
    for name in ["adapter_lora", "adapter_prefix", "adapter.gguf"] {
        let found = open_adapter(&recorded(name), &other);
        let narrower = ModelConfig { kv_heads: 1, ..base() };
        assert!(name == "adapter_prefix" || found.is_err(), "{name}");
        assert!(open_adapter(&recorded(name), &narrower).is_err(), "{name}");
        assert!(open_adapter(&recorded(name), &ModelConfig { layers: 1, ..base() }).is_err(), "{name}");
    }
}
