//! The file of an adapter: what it holds, what it comes back as, and which base it belongs to.

use crate::harness::small;
use std::path::Path;
use tetrad::backend::cpu::Cpu;
use tetrad::checkpoint::{Adapter, Checkpoint, Extent, Meta, save};
use tetrad::config::Config;
use tetrad::error::CheckpointError;
use tetrad::model::{AdapterConfig, AdapterKind, AdapterScale, AdapterWeights};
use tetrad::train::Trainer;

fn cpu_trainer(config: &Config) -> Trainer {
    small::trainer(config, Box::new(Cpu::new()))
}

/// A base in a file with all of its state, and one with its weights alone.
fn bases(folder: &Path) -> [Checkpoint; 2] {
    let trainer = cpu_trainer(&small::config());
    let meta = Meta::new(trainer.config(), trainer.counters(), false, "text");
    [Extent::Full, Extent::Weights].map(|extent| {
        let path = folder.join(format!("{extent:?}.tetrad"));
        save(trainer.model(), trainer.backend(), &meta, None, extent, &path).unwrap();
        Checkpoint::open(&path).unwrap()
    })
}

fn config() -> AdapterConfig {
    AdapterConfig {
        kind: AdapterKind::Lora,
        targets: vec!["q".into(), "down".into()],
        rank: 3,
        rank_pattern: vec!["layers.1.mlp.down_proj=5".into()],
        scale: AdapterScale::Learned,
        ..AdapterConfig::default()
    }
}

#[test]
fn an_adapter_comes_back_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let [base, _] = bases(folder.path());
    for weights in [AdapterWeights::F32, AdapterWeights::Bf16] {
        let mut adapter = Adapter::new(&base, AdapterConfig { weights, ..config() }).unwrap();
        let names: Vec<_> = adapter.tensors.iter().map(|(spec, _)| spec.kind.name()).collect();
        let parts = ["lora_A", "lora_B_t", "lora_scale"];
        let sites = ["0.self_attn.q_proj", "0.mlp.down_proj", "1.self_attn.q_proj", "1.mlp.down_proj"];
        let expected = sites.iter().flat_map(|site| parts.map(|part| format!("model.layers.{site}.{part}")));
        assert_eq!(names, expected.collect::<Vec<_>>());
        let shapes: Vec<_> = adapter.tensors.iter().map(|(spec, _)| [spec.shape.rows, spec.shape.cols]).collect();
        assert_eq!(shapes[..6], [[3, 64], [3, 64], [1, 1], [3, 120], [3, 64], [1, 1]]);
        assert_eq!(shapes[9], [5, 120], "the pattern");
        for (number, (_, values)) in adapter.tensors.iter_mut().enumerate() {
            values.iter_mut().enumerate().for_each(|(i, x)| *x = (number as f32 - 3.0) / 4.0 + (i % 32) as f32);
        }
        let path = folder.path().join("adapter.tetrad");
        adapter.write(&path).unwrap();
        let back = Adapter::read(&path).unwrap();
        assert_eq!(back.meta, adapter.meta);
        assert!(back.tensors == adapter.tensors, "numbers of few bits come back");
        let bytes = std::fs::read(&path).unwrap();
        back.write(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn an_adapter_knows_its_base_with_and_without_state_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let [state, weights] = bases(folder.path());
    let path = folder.path().join("adapter.tetrad");
    Adapter::new(&state, config()).unwrap().write(&path).unwrap();
    let adapter = Checkpoint::open(&path).unwrap();
    assert!(state.check_adapter(&adapter).is_ok() && weights.check_adapter(&adapter).is_ok());

    let mut other = small::config();
    other.run.seed += 1;
    let trainer = cpu_trainer(&other);
    small::write(&trainer, &folder.path().join("other.tetrad"));
    let other = Checkpoint::open(&folder.path().join("other.tetrad")).unwrap();
    let error = other.check_adapter(&adapter).unwrap_err();
    let fingerprints = [state.fingerprint(), other.fingerprint()].map(|found| found.to_string());
    assert!(matches!(error, CheckpointError::OtherBase { .. }));
    assert!(fingerprints.iter().all(|found| error.to_string().contains(found)), "{error}");
    assert!(matches!(state.check_adapter(&weights), Err(CheckpointError::NoAdapter { .. })));
    assert!(matches!(adapter.check_adapter(&adapter), Err(CheckpointError::AdapterAlone { .. })));
}

#[test]
fn metadata_that_do_not_describe_the_tensors_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [base, _] = bases(folder.path());
    let path = folder.path().join("adapter.tetrad");
    let adapter = Adapter::new(&base, config()).unwrap();
    let refused = |change: &dyn Fn(&mut Adapter)| {
        let mut adapter = adapter.clone();
        change(&mut adapter);
        adapter.write(&path).unwrap();
        Checkpoint::open(&path).err().expect("it is refused").to_string()
    };
    let config = |adapter: &mut Adapter| adapter.meta.adapter.take().unwrap();
    let with = |adapter: &mut Adapter, change: AdapterConfig| adapter.meta.adapter = Some(change);
    for (change, words) in [
        (&|a: &mut Adapter| drop(a.tensors.pop()), "lora_scale of the described model is missing"),
        (
            &|a: &mut Adapter| {
                let c = config(a);
                with(a, AdapterConfig { rank: 4, ..c })
            },
            "[3, 64]",
        ),
        (
            &|a: &mut Adapter| {
                let c = config(a);
                with(a, AdapterConfig { layers: "1".into(), ..c })
            },
            "not part of",
        ),
        (
            &|a: &mut Adapter| {
                let c = config(a);
                with(a, AdapterConfig { layers: "7".into(), ..c })
            },
            "adapter.layers",
        ),
        (
            &|a: &mut Adapter| {
                let c = config(a);
                with(a, AdapterConfig { scale: AdapterScale::RsLora, ..c })
            },
            "not part of",
        ),
        (&|a: &mut Adapter| with(a, AdapterConfig::default()), "adapter.kind"),
        (&|a: &mut Adapter| a.meta.base = None, "no base"),
        (&|a: &mut Adapter| a.meta.base.as_mut().unwrap().fingerprint = "x".into(), "hexadecimal"),
        (&|a: &mut Adapter| a.meta.tokenizer = "bytes".into(), "has its base's"),
    ] as [(&dyn Fn(&mut Adapter), &str); 9]
    {
        let found = refused(change);
        assert!(found.contains(words), "{words:?} is not in {found:?}");
    }
    let mut nan = adapter.clone();
    nan.tensors[0].1[5] = f32::NAN;
    nan.write(&path).unwrap();
    assert!(matches!(Adapter::read(&path), Err(CheckpointError::Contents { .. })));
}
