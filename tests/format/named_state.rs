//! State with names that no version of the format knows, through plan, initialization, saving and resuming.

use crate::harness::process::Workplace;
use crate::harness::small::{batch, config, write};
use crate::harness::state::whole_state;
use std::path::Path;
use std::process::Command;
use tetrad::backend::{Backend, MomentumArgs, Param, UpdateArgs, cpu::Cpu};
use tetrad::checkpoint::{Checkpoint, Extent, Meta, save};
use tetrad::format::{Decoder, File, PlaneKind, Role};
use tetrad::memory::{Category, Span};
use tetrad::optim::{Groups, Optimizer, ParamInfo, StepInfo};
use tetrad::quant::{StateCodec, StateFormat, StateShape, StateSpec};
use tetrad::train::Trainer;

/// Momentum, whose rate depends on a matrix, on four-bit codes of another and on a scalar, all of which change in each
/// step.
struct Sketch {
    /// Rows of the matrix.
    rank: usize,
    reversed: bool,
}

impl Optimizer for Sketch {
    fn state(&self, param: &ParamInfo) -> Vec<StateSpec> {
        let limiter = StateSpec::floats("limiter", StateShape::Scalars(2));
        if param.class.is_vector() {
            // A vector of a file has no groups, so that this moment has no kind of its own there.
            return vec![StateSpec::per_weight("m", StateCodec::Int8 { signed: true }), limiter];
        }
        let shape = StateShape::Matrix { rows: self.rank, cols: param.shape.cols };
        let codes = StateFormat::new(StateCodec::Int4 { signed: true }, StateShape::Matrix { rows: 3, cols: 40 });
        let mut specs = vec![
            StateSpec::per_weight("m", StateCodec::Int4 { signed: true }),
            StateSpec::floats("projection", shape),
            StateSpec { name: "projected", format: codes },
            StateSpec::floats("of-row", StateShape::PerRow),
            limiter,
        ];
        if self.reversed {
            specs.reverse();
        }
        specs
    }

    fn step(&self, backend: &mut dyn Backend, param: &Param, grad: Span, _: Span, at: &StepInfo) {
        let mut share = 1.0;
        for tensor in param.state.tensors().filter(|tensor| tensor.spec.name != "m") {
            let mut bytes = vec![0; tensor.data.bytes];
            backend.download(tensor.data, &mut bytes);
            if tensor.spec.format.codec == StateCodec::F32 {
                for number in bytes.chunks_exact_mut(4) {
                    let was = f32::from_le_bytes(number.try_into().unwrap());
                    share *= 1.0 + 0.01 * was;
                    number.copy_from_slice(&(0.5 * was + 1.0 / (at.number as f32 * 64.0)).to_le_bytes());
                }
            } else {
                share *= 1.0 + f32::from(bytes[0]) / 4096.0;
                // The last 24 elements of the 64 of each row are padding.
                bytes.iter_mut().enumerate().filter(|(i, _)| i % 32 < 16).for_each(|(_, byte)| *byte ^= 0x11);
                backend.upload(&[0x80, 0x3f].repeat(tensor.scales.bytes / 2), tensor.scales);
            }
            backend.upload(&bytes, tensor.data);
        }
        backend.begin_update(grad, true);
        let m = param.state.get("m").unwrap();
        backend.momentum(param, m, grad, &MomentumArgs { keep: 0.9, add: 1.0, of_new: 1.0, ..at.momentum() });
        backend.apply_update(param, grad, &UpdateArgs { lr: 0.01 * share, ..at.update() });
    }
}

fn sketch(rank: usize, reversed: bool) -> Trainer {
    let rules = Groups::one(Box::new(Sketch { rank, reversed }));
    Trainer::with_rules(&config(), rules, Box::new(Cpu::new())).unwrap()
}

fn steps(trainer: &mut Trainer, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let (inputs, targets) = batch(number);
        assert!(trainer.step(&inputs, &targets).loss.is_finite());
    }
}

/// A run of two steps, saved.
fn saved(path: &Path) -> Trainer {
    let mut trainer = sketch(4, false);
    trainer.initialize();
    steps(&mut trainer, 0..2);
    write(&trainer, path);
    trainer
}

#[test]
fn a_run_resumes_to_the_bytes_of_one_that_was_not_interrupted() {
    let place = Workplace::new();
    let path = place.path("state.tetrad");
    let mut whole = saved(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    checkpoint.verify().unwrap();
    assert_eq!(checkpoint.file().head().minor, 1);
    let mut resumed = sketch(4, false);
    checkpoint.restore(&mut resumed, "text").unwrap();
    write(&resumed, &place.path("again.tetrad"));
    assert!(std::fs::read(&path).unwrap() == std::fs::read(place.path("again.tetrad")).unwrap());
    steps(&mut whole, 2..4);
    steps(&mut resumed, 2..4);
    assert!(whole_state(&whole) == whole_state(&resumed));
    // State is found by its name, wherever the rule declares it.
    let mut reversed = sketch(4, true);
    checkpoint.restore(&mut reversed, "text").unwrap();
    steps(&mut reversed, 2..4);
    for (a, b) in whole.model().stored.iter().zip(&reversed.model().stored) {
        for name in ["m", "projection", "projected", "of-row", "limiter"] {
            let read = |trainer: &Trainer, param: &Param| {
                param.state.get(name).map(|tensor| crate::harness::state::read(trainer, tensor.data))
            };
            assert!(read(&whole, a) == read(&reversed, b), "{name} of parameter {}", a.id);
        }
    }
}

#[test]
fn other_state_is_refused_in_words() {
    let place = Workplace::new();
    let path = place.path("state.tetrad");
    saved(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let refusal = |mut trainer: Trainer| {
        let said = checkpoint.restore(&mut trainer, "text").unwrap_err().to_string();
        said.replace(&format!("{}/", place.path("").display()).replace("//", "/"), "")
    };
    insta::assert_snapshot!(refusal(sketch(5, false)), @"state.tetrad: tensor model.embed_tokens.weight was saved with the optimizer state m int4 per weight in groups of 32, projection f32 [4, 64], projected int4 [3, 40] in groups of 32, of-row f32 per row, limiter f32 [2]; this run keeps m int4 per weight in groups of 32, projection f32 [5, 64], projected int4 [3, 40] in groups of 32, of-row f32 per row, limiter f32 [2]");
    insta::assert_snapshot!(refusal(Trainer::new(&config(), Box::new(Cpu::new())).unwrap()), @"state.tetrad: tensor model.embed_tokens.weight was saved with the optimizer state m int4 per weight in groups of 32, projection f32 [4, 64], projected int4 [3, 40] in groups of 32, of-row f32 per row, limiter f32 [2]; this run keeps m int4 per weight in groups of 32, v int4-root per weight in groups of 32, scalars f32 [8]");
    // Nor is state of a known rule read by another.
    let mut known = Trainer::new(&config(), Box::new(Cpu::new())).unwrap();
    known.initialize();
    write(&known, &path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.file().head().minor, 0);
    let said = checkpoint.restore(&mut sketch(4, false), "text").unwrap_err().to_string();
    assert!(said.contains("v int4-root per weight in groups of 32, scalars f32 [8]; this run keeps m int4"), "{said}");
}

#[test]
fn the_plan_and_the_file_show_names_and_a_reader_needs_to_know_no_rule() {
    let place = Workplace::new();
    let path = place.path("state.tetrad");
    let trainer = saved(&path);
    let planned: Vec<_> = trainer.plan().items().iter().filter(|item| item.category == Category::State).collect();
    for name in ["projection", "projected", "projected scales", "limiter", "of-row"] {
        assert!(planned.iter().any(|item| item.name.ends_with(&format!(".weight {name}"))), "{name}");
    }
    let dump = place.ok(&["dump", "state.tetrad", "--stats", "--tensor", "model.layers.0.mlp.down_proj.weight"]);
    for shown in [
        "format            1.1",
        "m:nibble m-scales:bf16 projection:f32(4x120) projected:nibble(3x40) of-row:f32(row) limiter:f32(2) projected-scales:bf16",
        "model.layers.0.mlp.down_proj.weight projected\n  min",
    ] {
        assert!(dump.contains(shown), "{shown}\n{dump}");
    }
    assert!(place.ok(&["verify", "state.tetrad"]).contains("sound"));
    std::fs::write(place.path("text.txt"), "a text of some bytes, of which a model may know the next ones\n").unwrap();
    let loss = |file: &str| place.ok(&["eval", file, "--text", "text.txt", "--threads", "1"]);
    let with_state = loss("state.tetrad");
    let meta = Meta::new(trainer.config(), trainer.counters(), false, "text");
    save(trainer.model(), trainer.backend(), &meta, None, Extent::Weights, &place.path("model.tetrad")).unwrap();
    assert_eq!(loss("model.tetrad").replace("model.tetrad", "state.tetrad"), with_state);
    let bytes = std::fs::read(&path).unwrap();
    let file = File::parse(&bytes).unwrap();
    let (tensor, found) = file.tensor("model.layers.1.mlp.gate_proj.weight").unwrap();
    let role = Role::of(found).find(|role| role.name(found) == "projection").unwrap();
    let decoder = Decoder::new(&file, tensor, role).unwrap();
    let mut row = vec![0.0; decoder.cols()];
    decoder.row(3, &mut row);
    // 1/64, then half of it and 1/128.
    assert_eq!((decoder.rows(), row), (4, vec![1.0 / 64.0; 64]));
    let (norm, _) = file.tensor("model.norm.weight").unwrap();
    assert!(file.plane(norm, PlaneKind::M).is_none() && file.tensors()[norm].plane_named("m").is_some());
}

/// The reader that is made from SPEC.md alone finds the state as well.
#[test]
fn an_independent_reader_finds_the_state() {
    let place = Workplace::new();
    saved(&place.path("state.tetrad"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reader.py");
    let Ok(output) = Command::new("python3").arg(script).arg(place.path("state.tetrad")).output() else {
        eprintln!("SKIPPED: no python3 here, the independent reader was not run");
        return;
    };
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let tensors = read["tensors"].as_array().unwrap_or_else(|| panic!("{}", read["error"]));
    let matrix = tensors.iter().find(|t| t["name"] == "model.layers.1.mlp.gate_proj.weight").unwrap();
    assert_eq!(matrix["values"]["projection"].as_array().unwrap().len(), 4 * 64);
    assert_eq!(matrix["values"]["projection"][0], 1.0 / 64.0);
    assert_eq!(matrix["values"]["limiter"].as_array().unwrap().len(), 2);
    let projected = matrix["values"]["projected"].as_array().unwrap();
    assert_eq!(projected.len(), 120);
    // Two steps flip the lowest bit of each code twice, which leaves zeros.
    assert!(projected.iter().all(|value| value == 0.0));
}
