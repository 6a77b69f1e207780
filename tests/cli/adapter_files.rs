//! Adapters as files: in from other programs and out to them, and into the weights of their base.

use super::{TEXT, json, workplace};
use crate::harness::process::Workplace;
use serde_json::{Value, json as value};
use tetrad::checkpoint::Checkpoint;
use tetrad::convert::quants::Kind;
use tetrad::convert::safetensors;
use tetrad::format::{Decoder, Role, Tensor};

/// The values of every matrix of a block: module, rows, columns, numbers.
fn matrices(checkpoint: &Checkpoint) -> Vec<(String, usize, usize, Vec<f32>)> {
    let file = checkpoint.file();
    let of_blocks = file.tensors().iter().enumerate().filter(|(_, tensor)| tensor.spec.name.contains("proj"));
    let read = |(index, tensor): (usize, &Tensor)| {
        let decoder = Decoder::new(&file, index, Role::Weight).unwrap();
        let mut all = vec![0.0f32; decoder.rows() * decoder.cols()];
        all.chunks_mut(decoder.cols()).enumerate().for_each(|(row, out)| decoder.row(row, out));
        (tensor.spec.name.trim_end_matches(".weight").to_owned(), decoder.rows(), decoder.cols(), all)
    };
    of_blocks.map(read).collect()
}

/// Writes a PEFT folder whose pairs add these numbers to each matrix: B is the numbers and A the identity.
fn peft(place: &Workplace, name: &str, matrices: &[(String, usize, usize, Vec<f32>)]) {
    let (mut tensors, mut data, mut ranks) = (Vec::new(), Vec::new(), serde_json::Map::new());
    for (module, rows, cols, added) in matrices {
        let identity = (0..cols * cols).map(|i| f32::from(u8::from(i / cols == i % cols)));
        let name = |half| format!("base_model.model.{module}.lora_{half}.weight");
        tensors.push((name("A"), vec![*cols as u64, *cols as u64], Kind::F32));
        tensors.push((name("B"), vec![*rows as u64, *cols as u64], Kind::F32));
        data.extend(identity.chain(added.iter().copied()).flat_map(|x| x.to_le_bytes()));
        if *cols != 40 {
            ranks.insert(module.clone(), (*cols).into());
        }
    }
    let alphas = ranks.clone();
    let config = value!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 40, "lora_alpha": 40, "target_modules": "all-linear",
        "rank_pattern": ranks, "alpha_pattern": alphas,
    });
    std::fs::create_dir(place.path(name)).unwrap();
    std::fs::write(place.path(name).join("adapter_config.json"), config.to_string()).unwrap();
    let bytes = [safetensors::header(&tensors), data].concat();
    std::fs::write(place.path(name).join("adapter_model.safetensors"), bytes).unwrap();
}

/// A trained model; `base.tetrad`, which is that with noise merged into it; and `peft`, an adapter of the base that takes the
/// noise away.
fn place() -> Workplace {
    let place = workplace();
    place.ok(&[&["train", "tiny.toml"], &TEXT[..], &["--set", "train.steps=80"]].concat());
    let open = |name: &str| Checkpoint::open_sound(&place.path(name)).unwrap();
    let learned = matrices(&open("run/model.tetrad"));
    let mut seed = 1u32;
    let mut noise = learned.clone();
    for value in noise.iter_mut().flat_map(|(.., values)| values) {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *value = ((seed >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.06;
    }
    peft(&place, "noise", &noise);
    place.ok(&["import", "noise", "--base", "run/model.tetrad", "-o", "noise.tetrad"]);
    place.ok(&["merge", "run/model.tetrad", "--adapter", "noise.tetrad", "-o", "base.tetrad"]);
    let mut taken = matrices(&open("base.tetrad"));
    for (taken, learned) in taken.iter_mut().zip(&learned) {
        taken.3.iter_mut().zip(&learned.3).for_each(|(base, learned)| *base = learned - *base);
    }
    peft(&place, "peft", &taken);
    place
}

fn merge(place: &Workplace, more: &[&str]) -> (Option<i32>, Value) {
    let output = place.run(&[&["merge", "base.tetrad", "--adapter", "a.tetrad", "--json"], more].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(!said.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), json(&said))
}

#[test]
fn adapters_come_in_go_out_and_are_merged() {
    let place = place();
    let said = place.ok(&["import", "peft", "--base", "base.tetrad", "-o", "a.tetrad"]);
    assert!(said.starts_with("a.tetrad: ") && said.contains("beside 14 matrices") && said.contains("PEFT"), "{said}");
    place.assert_sound(&place.path("a.tetrad"));
    // Out and in again.
    for to in ["again", "again.gguf"] {
        place.ok(&["export", "a.tetrad", "-o", to]);
        place.ok(&["import", to, "--base", "base.tetrad", "-o", "b.tetrad", "--overwrite"]);
        assert!(to != "again" || place.read("a.tetrad") == place.read("b.tetrad"), "{to}");
    }
    // What is merged keeps what the adapter knows, and says how much of it.
    for (into, least) in [("f32", 0.9999), ("int8", 0.98), ("int4", 0.8)] {
        let to = format!("{into}.tetrad");
        let (status, said) =
            merge(&place, &["--into", into, "-o", &to, "--text", "val.txt", "--sequence", "32", "--least", "0.8"]);
        let number = |key: &str| said[key].as_f64().unwrap_or_else(|| panic!("{key} in {said}"));
        let kept = (number("base") - number("merged_loss")) / (number("base") - number("adapter"));
        assert!((number("kept") - kept).abs() < 1e-9 && kept >= least, "{into}: {said}");
        assert!(number("base") - number("adapter") > 0.05, "{said}");
        assert_eq!((status, said["merged"].as_u64()), (Some(0), Some(14)));
        place.assert_sound(&place.path(&to));
        place.ok(&["eval", &to, "--text", "val.txt"]);
    }
    // Training goes on from what was merged.
    place.ok(&[
        &[
            "train",
            "--from",
            "int4.tetrad",
            "--set",
            "run.dir='more'",
            "--set",
            "train.steps=2",
            "--set",
            "train.warmup=1",
            "--set",
            "train.batch=2",
            "--set",
            "train.sequence=32",
        ],
        &TEXT[..],
    ]
    .concat());
    let (status, said) = merge(&place, &["-o", "c.tetrad", "--text", "val.txt", "--least", "1.5"]);
    assert_eq!(status, Some(3), "{said}");
    // Of what makes the base worse nothing is kept.
    let worse = ["--adapter", "a.tetrad=-2", "-o", "worse.tetrad", "--text", "val.txt"];
    let (status, said) = merge(&place, &worse);
    assert_eq!((status, &said["kept"]), (Some(3), &Value::Null), "{said}");
    let said = place.ok(&["merge", "base.tetrad", "--adapter", "a.tetrad=0.5", "-o", "d.tetrad"]);
    assert!(said.contains("14 matrices merged") && said.contains("--text measures it"), "{said}");
    assert!(
        place.fails(&["merge", "base.tetrad", "--adapter", "a.tetrad", "-o", "d.tetrad"]).contains("exists already")
    );
}

#[test]
fn what_does_not_belong_together_is_refused_and_nothing_is_written() {
    let place = place();
    let said = place.fails(&["import", "peft", "-o", "x.tetrad"]);
    assert!(said.contains("peft: is an adapter; name the model that it was trained on with --base"), "{said}");
    place.ok(&["import", "peft", "--base", "base.tetrad", "-o", "a.tetrad"]);
    let said = place.fails(&["merge", "run/model.tetrad", "--adapter", "a.tetrad", "-o", "x.tetrad"]);
    assert!(said.contains("was trained on a base with the fingerprint"), "{said}");
    let said = place.fails(&["merge", "base.tetrad", "--adapter", "base.tetrad", "-o", "x.tetrad"]);
    assert!(said.contains("is a model of its own, not an adapter"), "{said}");
    let said = place.fails(&["merge", "base.tetrad", "--adapter", "a.tetrad=much", "-o", "x.tetrad"]);
    assert!(said.contains("after = must be a number"), "{said}");
    let said = place.fails(&[
        "merge",
        "base.tetrad",
        "--adapter",
        "a.tetrad",
        "-o",
        "x.tetrad",
        "--text",
        "val.txt",
        "--least",
        "90",
    ]);
    assert!(said.contains("--least 90: is a share of the gain, not percent"), "{said}");
    // Nor by a detour through another program's format.
    for folder in ["folder", "file.gguf"] {
        place.ok(&["export", "a.tetrad", "-o", folder]);
        let said = place.fails(&["import", folder, "--base", "run/model.tetrad", "-o", "x.tetrad"]);
        assert!(said.contains("was trained on a base with the fingerprint"), "{said}");
        assert!(said.contains("run/model.tetrad has the fingerprint"), "{said}");
        place.ok(&["import", folder, "--base", "base.tetrad", "-o", "again.tetrad", "--overwrite"]);
    }
    let said = place.fails(&["import", "run/model.tetrad", "--base", "base.tetrad", "-o", "x.tetrad"]);
    assert!(said.contains("is neither a folder with an adapter_config.json nor a GGUF file"), "{said}");
    let said = place.fails(&["export", "a.tetrad", "-o", "x.gguf", "--embedding", "f16"]);
    assert!(said.contains("an adapter keeps its numbers"), "{said}");
    std::fs::write(place.path("peft/adapter_config.json"), r#"{"peft_type":"LORA","use_qalora":true}"#).unwrap();
    let said = place.fails(&["import", "peft", "--base", "base.tetrad", "-o", "x.tetrad"]);
    assert!(
        said.contains("peft/adapter_config.json: use_qalora is true; its A reads sums over groups of inputs"),
        "{said}"
    );
    assert!(!place.path("x.tetrad").exists() && !place.path("x.gguf").exists());
}
