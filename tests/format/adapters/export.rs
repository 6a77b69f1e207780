//! Our adapters to PEFT and llama.cpp, and back.

use super::{golden_adapter, golden_base, pairs, recorded};
use serde_json::{Value, json};
use std::path::Path;
use tetrad::checkpoint::{Adapter, Checkpoint};
use tetrad::convert::adapter::{export_adapter_gguf, export_peft, open_adapter};
use tetrad::model::{AdapterConfig, AdapterKind, AdapterScale, AdapterWeights};

fn written(adapter: &Adapter, path: &Path) -> Vec<u8> {
    adapter.write(path).unwrap();
    std::fs::read(path).unwrap()
}

/// Adapters of every kind of settings, with numbers in them.
fn adapters(base: &Checkpoint) -> Vec<(&'static str, Adapter)> {
    let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let lora = AdapterConfig { kind: AdapterKind::Lora, rank: 3, alpha: 7.0, ..AdapterConfig::default() };
    let configs = [
        ("all", lora.clone()),
        ("words", AdapterConfig { targets: list(&["v", "q", "down"]), dropout: 0.1, rate_b: 16.0, ..lora.clone() }),
        ("last", AdapterConfig { layers: "-1".into(), scale: AdapterScale::RsLora, ..lora.clone() }),
        (
            "patterns",
            AdapterConfig {
                targets: list(&["layers.0.mlp.*", "layers.1.self_attn.q_proj"]),
                rank_pattern: list(&["q_proj=5"]),
                alpha_pattern: list(&["layers.0.mlp.up_proj=0.3"]),
                ..lora.clone()
            },
        ),
        ("halves", AdapterConfig { weights: AdapterWeights::Bf16, ..lora.clone() }),
        ("tables", AdapterConfig { targets: list(&["head", "embedding"]), ..lora.clone() }),
        (
            "tables and some blocks",
            AdapterConfig {
                targets: list(&["all", "embed_tokens", "lm_head"]),
                layers: "1".into(),
                rank_pattern: list(&["embed_tokens=5"]),
                alpha_pattern: list(&["lm_head=0.3"]),
                ..lora
            },
        ),
    ];
    let made = configs.map(|(name, config)| {
        let mut adapter = Adapter::new(base, config).unwrap();
        let mut seed = 1u32;
        for (_, values) in &mut adapter.tensors {
            for value in values {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Sixteen bits hold them.
                *value = (seed >> 25) as f32 / 64.0 - 1.0;
            }
        }
        (adapter.meta.counters.step, adapter.meta.seed) = (17, 99);
        (name, adapter)
    });
    made.into()
}

#[test]
fn peft_folders_come_back_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden_base(dir.path(), |_| {});
    for (name, adapter) in adapters(&base) {
        let folder = dir.path().join(name);
        export_peft(&adapter, &folder).unwrap();
        let back = open_adapter(&folder, &base.meta.model).unwrap().into_own(&base).unwrap();
        let [before, after] = [&adapter, &back].map(|adapter| written(adapter, &dir.path().join("a.tetrad")));
        assert!(before == after, "{name}");
        // A reader that does not know our part of the file finds the same adapter.
        let plain = open_adapter(&folder, &base.meta.model).unwrap();
        let own = plain.own.is_some();
        let stranger = tetrad::convert::adapter::ForeignAdapter { own: None, ..plain }.into_own(&base).unwrap();
        assert!(own && stranger.tensors.iter().zip(&adapter.tensors).all(|(a, b)| a.1 == b.1), "{name}");
        let sites = |adapter: &Adapter| adapter.meta.adapter.as_ref().unwrap().sites(&base.meta.model);
        assert_eq!(sites(&stranger), sites(&adapter), "{name}");
    }
}

/// What PEFT wrote, through our file and out again, has the same numbers under the same names and the same options.
#[test]
fn golden_folders_of_peft_come_out_as_they_came_in() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden_base(dir.path(), |_| {});
    for name in ["adapter_lora", "adapter_rslora", "adapter_patterns", "adapter_dora"] {
        let folder = dir.path().join(name);
        export_peft(&golden_adapter(&base, name), &folder).unwrap();
        let [before, after] = [recorded(name), folder].map(|folder| open_adapter(&folder, &base.meta.model).unwrap());
        assert_eq!(before.parts, after.parts, "{name}");
        let json = |folder: &Path| -> Value {
            serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
        };
        let (before, after) = (json(&before.path), json(&after.path));
        // Which of several ranks is the usual one is for the patterns to say.
        let r = if name == "adapter_patterns" { "lora_alpha" } else { "r" };
        for key in [r, "lora_alpha", "target_modules", "use_rslora", "use_dora", "peft_type", "task_type", "bias"] {
            assert_eq!(before[key], after[key], "{name}: {key}");
        }
        for key in after.as_object().unwrap().keys() {
            assert!(before.get(key).is_some(), "{name}: PEFT does not write {key}");
        }
    }
}

#[test]
fn golden_gguf_adapter_comes_out_as_it_came_in() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden_base(dir.path(), |_| {});
    let path = dir.path().join("adapter.gguf");
    export_adapter_gguf(&golden_adapter(&base, "adapter_lora"), &path).unwrap();
    let [before, after] = [recorded("adapter.gguf"), path].map(|path| open_adapter(&path, &base.meta.model).unwrap());
    assert_eq!(before.parts, after.parts);
}

/// Factors that alpha over the rank cannot say are in B.
#[test]
fn gguf_adapters_have_the_same_products() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden_base(dir.path(), |_| {});
    let path = dir.path().join("adapter.gguf");
    for (name, adapter) in adapters(&base) {
        export_adapter_gguf(&adapter, &path).unwrap();
        let back = open_adapter(&path, &base.meta.model).unwrap();
        let ours = {
            let folder = dir.path().join(name);
            export_peft(&adapter, &folder).unwrap();
            open_adapter(&folder, &base.meta.model).unwrap()
        };
        let ((rule, found), (own_rule, own)) = (pairs(&back), pairs(&ours));
        assert_eq!(found.len(), own.len());
        for (found, own) in found.iter().zip(own) {
            assert_eq!((found.site, found.rank, &found.a), (own.site, own.rank, &own.a));
            let [factor, own_factor] = [rule.factor(found.alpha, found.rank), own_rule.factor(own.alpha, own.rank)];
            for (x, y) in found.b.iter().zip(&own.b) {
                let (x, y) = (f64::from(*x) * factor, f64::from(*y) * own_factor);
                assert!((x - y).abs() <= 1e-6 * y.abs(), "{name}: {x}, not {y}");
            }
        }
    }
}

/// A scale that was learned is multiplied into B: no other program has it.
#[test]
fn a_learned_scale_is_in_the_exported_b() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden_base(dir.path(), |_| {});
    let config =
        AdapterConfig { kind: AdapterKind::Lora, rank: 2, scale: AdapterScale::Learned, ..AdapterConfig::default() };
    let mut adapter = Adapter::new(&base, config).unwrap();
    for (i, (spec, values)) in adapter.tensors.iter_mut().enumerate() {
        let scale = spec.shape.len() == 1;
        values.iter_mut().enumerate().for_each(|(k, x)| *x = if scale { 0.5 } else { (i + k) as f32 });
    }
    export_peft(&adapter, &dir.path().join("peft")).unwrap();
    export_adapter_gguf(&adapter, &dir.path().join("a.gguf")).unwrap();
    let (peft, gguf) = (
        open_adapter(&dir.path().join("peft"), &base.meta.model).unwrap(),
        open_adapter(&dir.path().join("a.gguf"), &base.meta.model).unwrap(),
    );
    assert_eq!(peft.parts, gguf.parts);
    let (rule, found) = pairs(&peft);
    assert_eq!((rule.factor(found[0].alpha, found[0].rank), found[0].b[0]), (1.0, 0.5));
    let own = peft.into_own(&base).unwrap();
    assert_eq!(own.meta.adapter.unwrap().scale, AdapterScale::AlphaOverRank);
}

/// What our part of a folder says counts only as long as the rest agrees with it.
#[test]
fn a_folder_that_was_changed_says_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden_base(dir.path(), |_| {});
    let (_, adapter) = adapters(&base).swap_remove(0);
    let folder = dir.path().join("peft");
    export_peft(&adapter, &folder).unwrap();
    let path = folder.join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["lora_alpha"] = json!(14);
    std::fs::write(&path, config.to_string()).unwrap();
    let back = open_adapter(&folder, &base.meta.model).unwrap().into_own(&base).unwrap();
    let found = back.meta.adapter.unwrap();
    assert_eq!((found.alpha, back.meta.counters.step), (14.0, 0));
    // Of another base it is no adapter, unless another program has saved it again, which leaves our part out.
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let other = golden_base(&other, |config| config.storage.weights = tetrad::model::Weights::Int4);
    config["lora_alpha"] = json!(7);
    std::fs::write(&path, config.to_string()).unwrap();
    let found = open_adapter(&folder, &other.meta.model).unwrap();
    let said = found.clone().into_own(&other).unwrap_err().to_string();
    let [of, instead] = [base.fingerprint(), other.fingerprint()].map(|fingerprint| fingerprint.to_string());
    assert!(said.contains(&of) && said.contains(&instead), "{said}");
    let resaved = tetrad::convert::adapter::ForeignAdapter { own: None, fingerprint: None, ..found };
    let back = resaved.into_own(&other).unwrap();
    assert_eq!(back.meta.base.unwrap().fingerprint, other.fingerprint().to_string());
    assert_eq!(back.meta.counters.step, 0);
}

/// PEFT's prefix, through our file and out again, and ours with learned scales, which are multiplied in.
#[test]
fn golden_prefix_of_peft_comes_out_as_it_came_in() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden_base(dir.path(), |_| {});
    let folder = dir.path().join("prefix");
    let adapter = golden_adapter(&base, "adapter_prefix");
    export_peft(&adapter, &folder).unwrap();
    let [before, after] =
        [recorded("adapter_prefix"), folder.clone()].map(|folder| open_adapter(&folder, &base.meta.model).unwrap());
    assert_eq!(before.parts, after.parts);
    let json = |folder: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
    };
    let (before, after) = (json(&before.path), json(&after.path));
    for key in after.as_object().unwrap().keys().filter(|key| *key != "base_model_name_or_path") {
        assert_eq!(before[key], after[key], "{key}");
    }
    let back = open_adapter(&folder, &base.meta.model).unwrap().into_own(&base).unwrap();
    let [own, read] = [&adapter, &back].map(|adapter| written(adapter, &dir.path().join("a.tetrad")));
    assert!(own == read);

    let config = |compensate, layers: &str| AdapterConfig {
        kind: AdapterKind::Prefix,
        length: 3,
        scale: AdapterScale::Learned,
        compensate,
        layers: layers.into(),
        ..AdapterConfig::default()
    };
    let mut scaled = Adapter::new(&base, config(false, "all")).unwrap();
    for (spec, values) in &mut scaled.tensors {
        values.fill(if spec.shape.len() == 1 { 0.5 } else { 3.0 });
    }
    export_peft(&scaled, &folder).unwrap();
    let back = open_adapter(&folder, &base.meta.model).unwrap().into_own(&base).unwrap();
    assert_eq!(back.meta.adapter.as_ref().unwrap().scale, AdapterScale::AlphaOverRank);
    assert!(back.tensors.iter().all(|(_, values)| values.iter().all(|&x| x == 1.5)));
    for (name, config) in [("compensated", config(true, "all")), ("some of the blocks", config(false, "1"))] {
        let refused = export_peft(&Adapter::new(&base, config).unwrap(), &dir.path().join("none")).unwrap_err();
        assert!(refused.to_string().contains(name) && !dir.path().join("none").exists(), "{refused}");
    }
    let refused = export_adapter_gguf(&scaled, &dir.path().join("none.gguf")).unwrap_err().to_string();
    assert!(refused.contains("prefix") && !dir.path().join("none.gguf").exists(), "{refused}");
    let bottleneck = AdapterConfig { kind: AdapterKind::Bottleneck, ..AdapterConfig::default() };
    let bottleneck = Adapter::new(&base, bottleneck).unwrap();
    let refused = export_peft(&bottleneck, &dir.path().join("none")).unwrap_err().to_string();
    assert!(refused.contains("bottleneck"), "{refused}");
}
