//! In, out, and in again.

use super::{bring_in, fixture};
use crate::harness::small;
use crate::harness::state::whole_state;
use std::path::Path;
use tetrad::backend::cpu::Cpu;
use tetrad::checkpoint::Checkpoint;
use tetrad::convert::gguf::Gguf;
use tetrad::convert::quants::Kind;
use tetrad::convert::{FloatType, GgufTypes, Options, TableType, export_gguf, export_hugging_face};
use tetrad::format::{Decoder, PlaneKind, Role};
use tetrad::model::{Scheme, TableStorage, Weights};
use tetrad::quant::WeightCodec;

fn open(path: &Path) -> Checkpoint {
    let checkpoint = Checkpoint::open(path).unwrap();
    checkpoint.verify().unwrap();
    checkpoint
}

fn values(checkpoint: &Checkpoint, name: &str, role: Role) -> Vec<f32> {
    let file = checkpoint.file();
    let (tensor, _) = file.tensor(name).unwrap();
    let decoder = Decoder::new(&file, tensor, role).unwrap();
    let mut all = Vec::new();
    for row in 0..decoder.rows() {
        let mut out = vec![0.0; decoder.cols()];
        decoder.row(row, &mut out);
        all.extend(out);
    }
    all
}

#[test]
fn four_bit_files_come_back_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (name, storage) in
        [("q4_0.gguf", WeightCodec::Int4), ("q4_1.gguf", WeightCodec::Int4Offset), ("mxfp4.gguf", WeightCodec::Fp4)]
    {
        let summary = bring_in(&fixture(name), &Options::default(), &at("in.tetrad")).unwrap();
        assert_eq!((summary.kept, summary.rounded), (15, 0), "{name}");
        let checkpoint = open(&at("in.tetrad"));
        let (_, query) =
            checkpoint.file().tensor("model.layers.1.self_attn.q_proj.weight").map(|(i, t)| (i, t.clone())).unwrap();
        assert_eq!((query.spec.storage, query.spec.group), (storage, 32));
        assert!(query.plane(PlaneKind::Residue).is_none(), "what is kept bit for bit has nothing below its codes");
        export_gguf(&checkpoint, GgufTypes::default(), &at("out.gguf"), &mut |_, _| {}).unwrap();
        bring_in(&at("out.gguf"), &Options::default(), &at("again.tetrad")).unwrap();
        let [first, second] = ["in.tetrad", "again.tetrad"].map(|name| std::fs::read(at(name)).unwrap());
        assert!(first == second, "{name}: another file");
        same_tensors(&fixture(name), &at("out.gguf"), name != "q4_1.gguf");
    }
}

/// The values of a tensor with what is below its codes, if there is anything.
fn finest(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let residue = checkpoint.file().tensor(name).unwrap().1.plane(PlaneKind::Residue).is_some();
    values(checkpoint, name, if residue { Role::Trained } else { Role::Weight })
}

/// A source of another kind is rounded to four-bit floats, and GGUF gets them without a second rounding.
#[test]
fn any_source_becomes_four_bit_floats() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["q4_0.gguf", "q4_1.gguf", "mixed.gguf", "mxfp4.gguf"] {
        for codes_only in [false, true] {
            let options = Options { weights: Some(TableStorage::Fp4), codes_only, ..Options::default() };
            let summary = bring_in(&fixture(name), &options, &at("in.tetrad")).unwrap();
            assert_eq!(summary.config.storage.weights, Weights::Fp4, "{name}");
            let checkpoint = open(&at("in.tetrad"));
            bring_in(
                &fixture(name),
                &Options { weights: Some(TableStorage::Int4), ..Options::default() },
                &at("int.tetrad"),
            )
            .unwrap();
            let integers = open(&at("int.tetrad"));
            let query = "model.layers.0.mlp.gate_proj.weight";
            assert_eq!(checkpoint.file().tensor(query).unwrap().1.spec.storage, WeightCodec::Fp4, "{name}");
            let (found, wanted) = (finest(&checkpoint, query), finest(&integers, query));
            for (found, wanted) in found.chunks(32).zip(wanted.chunks(32)) {
                let most = wanted.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                // A power of two leaves the largest between 3 and 6 scales; the widest gap between floats is 2 of them,
                // and one between trained bytes a sixteenth of it. The integers are off by half a byte's step.
                let gap = 2.0 * most / 3.0 / if codes_only { 1.0 } else { 16.0 };
                let near = |(found, wanted): (&f32, &f32)| (found - wanted).abs() <= 0.51 * gap + 0.01 * most;
                assert!(found.iter().zip(wanted).all(near), "{name}, codes only {codes_only}");
            }
            export_gguf(&checkpoint, GgufTypes::default(), &at("out.gguf"), &mut |_, _| {}).unwrap();
            bring_in(&at("out.gguf"), &Options::default(), &at("again.tetrad")).unwrap();
            assert!(
                values(&open(&at("again.tetrad")), query, Role::Weight) == values(&checkpoint, query, Role::Weight)
            );
        }
    }
}

/// Matrices may be stored as tables can be: as floats they have the source's values, as bytes they are within half a step of
/// them, and bytes that a source has already keep their bits.
#[test]
fn any_source_becomes_bytes_or_floats() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["q4_0.gguf", "q4_1.gguf", "mixed.gguf", "mxfp4.gguf"] {
        let bring = |from: &Path, weights, to: &str| {
            let summary = bring_in(from, &Options { weights: Some(weights), ..Options::default() }, &at(to)).unwrap();
            assert_eq!(summary.config.storage.weights, Weights::from(weights), "{name}");
            (open(&at(to)), summary)
        };
        let (exact, summary) = bring(&fixture(name), TableStorage::F32, "f32.tetrad");
        let matrices = 7 * summary.config.model.layers;
        assert!(summary.floats > matrices && summary.rounded == 0, "{name}: {} floats", summary.floats);
        let (halves, _) = bring(&fixture(name), TableStorage::Bf16, "bf16.tetrad");
        let (bytes, _) = bring(&fixture(name), TableStorage::Int8, "int8.tetrad");
        export_gguf(&bytes, GgufTypes::default(), &at("out.gguf"), &mut |_, _| {}).unwrap();
        let (again, summary) = bring(&at("out.gguf"), TableStorage::Int8, "again.tetrad");
        assert!(summary.kept >= matrices, "{name}: {} kept", summary.kept);
        for query in ["model.layers.0.mlp.gate_proj.weight", "model.layers.0.self_attn.q_proj.weight"] {
            assert_eq!(bytes.file().tensor(query).unwrap().1.spec.storage, WeightCodec::Int8, "{name}");
            let all = [&exact, &halves, &bytes, &again].map(|file| values(file, query, Role::Weight));
            let groups = all[0].chunks(32).zip(all[1].chunks(32)).zip(all[2].chunks(32));
            for ((exact, halves), bytes) in groups {
                let most = exact.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                for ((exact, half), byte) in exact.iter().zip(halves).zip(bytes) {
                    assert!((half - exact).abs() <= exact.abs() / 256.0, "{name}: {half}, not {exact}");
                    // The largest of a group is at 103 steps, so that training has room above it; a scale is a normal f16.
                    let step = (most / 103.0).max(2f32.powi(-14));
                    assert!((byte - exact).abs() <= 0.5 * step + most / 1024.0, "{name}: {byte}, not {exact}");
                }
            }
            assert!(all[2] == all[3], "{name}: other bits after GGUF");
        }
    }
}

/// Every tensor of the first file is in the second, with the same bits; Q4_0 tensors of a mixed file have offsets now.
fn same_tensors(first: &Path, second: &Path, all: bool) {
    let (a, b) = (std::fs::read(first).unwrap(), std::fs::read(second).unwrap());
    let (x, y) = (Gguf::parse(&a).unwrap(), Gguf::parse(&b).unwrap());
    assert_eq!(x.tensors.len(), y.tensors.len());
    for tensor in x.tensors.iter().filter(|tensor| all || tensor.kind != Kind::Q4_0) {
        let other = y.tensors.iter().find(|other| other.name == tensor.name).unwrap();
        assert_eq!((&other.dims, other.kind), (&tensor.dims, tensor.kind), "{}", tensor.name);
        assert!(a[tensor.range.clone()] == b[other.range.clone()], "{} has other bits", tensor.name);
    }
}

#[test]
fn rows_of_queries_and_keys_are_put_in_our_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.tetrad");
    bring_in(&fixture("q4_0.gguf"), &Options::default(), &path).unwrap();
    let bytes = std::fs::read(fixture("q4_0.gguf")).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    let checkpoint = open(&path);
    for (theirs, ours) in [("attn_q", "q_proj"), ("attn_k", "k_proj"), ("attn_v", "v_proj")] {
        let info = gguf.tensors.iter().find(|t| t.name == format!("blk.0.{theirs}.weight")).unwrap();
        let mut raw = vec![0.0; (info.dims[0] * info.dims[1]) as usize];
        info.kind.decode(&bytes[info.range.clone()], &mut raw);
        let found = values(&checkpoint, &format!("model.layers.0.self_attn.{ours}.weight"), Role::Weight);
        // Heads of 16 rows: reshape(heads, 8, 2).swap(1, 2), as transformers undoes llama.cpp's permutation.
        for (row, found) in found.chunks(64).enumerate() {
            let (head, half, i) = (row / 16, row % 16 / 8, row % 8);
            let from = if ours == "v_proj" { row } else { head * 16 + 2 * i + half };
            assert_eq!(found, &raw[from * 64..][..64], "{ours} row {row}");
        }
    }
}

#[test]
fn other_types_keep_eight_bits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.tetrad");
    let summary = bring_in(&fixture("mixed.gguf"), &Options::default(), &path).unwrap();
    // Q4_K and Q4_0 keep their codes, the Q8_0 embedding its bytes; Q6_K, Q5_K, Q5_0, Q5_1 and BF16 are rounded.
    assert_eq!((summary.kept, summary.rounded), (3, 5));
    assert_eq!(summary.config.storage.scheme, Scheme::Asymmetric);
    let bytes = std::fs::read(fixture("mixed.gguf")).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    let checkpoint = open(&path);
    for (theirs, ours) in
        [("attn_v", "self_attn.v_proj"), ("attn_output", "self_attn.o_proj"), ("ffn_gate", "mlp.gate_proj")]
    {
        let info = gguf.tensors.iter().find(|t| t.name == format!("blk.0.{theirs}.weight")).unwrap();
        let mut wanted = vec![0.0; (info.dims[0] * info.dims[1]) as usize];
        info.kind.decode(&bytes[info.range.clone()], &mut wanted);
        let found = values(&checkpoint, &format!("model.layers.0.{ours}.weight"), Role::Trained);
        for (found, wanted) in found.chunks(32).zip(wanted.chunks(32)) {
            let (low, high) = wanted.iter().fold((f32::MAX, f32::MIN), |(l, h), &x| (l.min(x), h.max(x)));
            // 14.4 steps of 16 over the range; half of one, and the rounding of scale and offset to f16.
            let step = (high - low) / 230.4;
            for (found, wanted) in found.iter().zip(wanted) {
                let bound = 0.51 * step + 1e-3 * low.abs().max(high.abs());
                assert!((found - wanted).abs() <= bound, "{ours}: {found}, not {wanted}");
            }
        }
    }
}

#[test]
fn a_directory_holds_the_values_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    bring_in(&fixture("q4_1.gguf"), &Options::default(), &at("in.tetrad")).unwrap();
    let checkpoint = open(&at("in.tetrad"));
    let files = export_hugging_face(&checkpoint, FloatType::F32, 60_000, &at("model"), &mut |_, _| {}).unwrap();
    assert!(files.len() > 2, "{files:?}");
    let options = Options { embedding: Some(TableStorage::F32), ..Options::default() };
    let summary = bring_in(&at("model"), &options, &at("again.tetrad")).unwrap();
    let mut model = checkpoint.meta.model.clone();
    model.init_std = summary.config.model.init_std;
    assert_eq!(summary.config.model, model);
    let again = open(&at("again.tetrad"));
    let embedding = "model.embed_tokens.weight";
    assert_eq!(values(&again, embedding, Role::Weight), values(&checkpoint, embedding, Role::Weight));
    let gain = "model.layers.1.post_attention_layernorm.weight";
    assert_eq!(values(&again, gain, Role::Weight), values(&checkpoint, gain, Role::Weight));
    assert_eq!(again.tokenizer(), checkpoint.tokenizer());
    assert_eq!(again.attachment("tokenizer_config.json"), checkpoint.attachment("tokenizer_config.json"));
}

#[test]
fn tables_become_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    bring_in(&fixture("q4_0.gguf"), &Options::default(), &at("in.tetrad")).unwrap();
    let checkpoint = open(&at("in.tetrad"));
    let wanted = values(&checkpoint, "model.embed_tokens.weight", Role::Weight);
    let largest = wanted.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    for (table, kind, tolerance) in [
        (TableType::F32, Kind::F32, 0.0),
        (TableType::F16, Kind::F16, 1.0 / 2048.0),
        (TableType::Bf16, Kind::Bf16, 1.0 / 256.0),
        (TableType::Q8_0, Kind::Q8_0, 0.0),
        // Half a step of sixteen, and a whole one at the end that code 15 does not reach.
        (TableType::Q4_0, Kind::Q4_0, 1.01 / 8.0),
    ] {
        let types = GgufTypes { embedding: Some(table), head: None };
        export_gguf(&checkpoint, types, &at("out.gguf"), &mut |_, _| {}).unwrap();
        let bytes = std::fs::read(at("out.gguf")).unwrap();
        let gguf = Gguf::parse(&bytes).unwrap();
        let info = gguf.tensors.iter().find(|t| t.name == "token_embd.weight").unwrap();
        assert_eq!(info.kind, kind);
        let mut found = vec![0.0; wanted.len()];
        kind.decode(&bytes[info.range.clone()], &mut found);
        let worst = found.iter().zip(&wanted).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(worst <= tolerance * largest, "{}: {worst} of {largest}", kind.name());
    }
}

/// The codes that were trained are the codes of the GGUF file: no second quantization.
#[test]
fn trained_four_bit_floats_are_exported_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut config = small::config();
    config.model.intermediate = 128;
    config.storage.weights = Weights::Fp4;
    config.storage.embedding = TableStorage::Fp4;
    let mut trainer = small::trainer(&config, Box::new(Cpu::new()));
    let before = whole_state(&trainer);
    let losses: Vec<f64> = (0..6)
        .map(|_| {
            let (inputs, targets) = small::batch(1);
            trainer.step(&inputs, &targets).loss
        })
        .collect();
    assert!(losses[5] < losses[0] - 0.05, "{losses:?}");
    assert!(before != whole_state(&trainer));
    small::write(&trainer, &at("state.tetrad"));
    let checkpoint = open(&at("state.tetrad"));
    let mut resumed = small::trainer(&config, Box::new(Cpu::new()));
    checkpoint.restore(&mut resumed, "text").unwrap();
    assert!(whole_state(&trainer) == whole_state(&resumed));
    export_gguf(&checkpoint, GgufTypes::default(), &at("out.gguf"), &mut |_, _| {}).unwrap();
    let summary = bring_in(&at("out.gguf"), &Options::default(), &at("again.tetrad")).unwrap();
    assert_eq!((summary.config.storage.weights, summary.rounded), (Weights::Fp4, 0));
    let again = open(&at("again.tetrad"));
    for name in ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"] {
        assert_eq!(values(&checkpoint, name, Role::Weight), values(&again, name, Role::Weight), "{name}");
    }
}
