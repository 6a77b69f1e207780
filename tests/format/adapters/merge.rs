//! Merging: recorded sums in float32, bytes that are sixteen times as fine as codes, and codes that keep their scales.

use super::{golden_adapter, golden_base, named_base};
use crate::harness::Golden;
use crate::harness::llama::Recorded;
use std::path::Path;
use tetrad::backend::Memory;
use tetrad::backend::cpu::Cpu;
use tetrad::checkpoint::{Adapted, Adapter, Capacity, Checkpoint, open_model};
use tetrad::convert::{Calibration, MergeSummary, MergeTarget, merge};
use tetrad::format::{Decoder, PlaneKind, Role};
use tetrad::model::{AdapterConfig, AdapterKind, Batch, ParamKind, Scheme, TableStorage, Weights};

fn merged(base: &Checkpoint, adapter: &Adapter, scale: f32, target: MergeTarget, to: &Path) -> MergeSummary {
    merge(base, &[(adapter.clone(), scale)], target, None, to, &mut |_, _| {}).unwrap()
}

/// The values of a tensor in a role.
fn values(file: &Checkpoint, name: &str, role: Role) -> Vec<f32> {
    let file = file.file();
    let (index, _) = file.tensor(name).unwrap();
    let decoder = Decoder::new(&file, index, role).unwrap();
    let mut all = vec![0.0; decoder.rows() * decoder.cols()];
    all.chunks_mut(decoder.cols()).enumerate().for_each(|(row, out)| decoder.row(row, out));
    all
}

/// One of the planes of a tensor.
fn plane(file: &Checkpoint, name: &str, kind: PlaneKind) -> Vec<u8> {
    let file = file.file();
    let (index, _) = file.tensor(name).unwrap();
    file.plane(index, kind).unwrap_or_else(|| panic!("{name} has no {}", kind.name())).bytes.to_vec()
}

const DOWN: &str = "model.layers.1.mlp.down_proj.weight";
const QUERY: &str = "model.layers.0.self_attn.q_proj.weight";
const NORM: &str = "model.layers.0.input_layernorm.weight";

#[test]
fn golden_sums_and_their_logits() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden_base(dir.path(), |_| {});
    for (folder, name) in [
        ("adapter_lora", "lora"),
        ("adapter_rslora", "rslora"),
        ("adapter_patterns", "lora_patterns"),
        ("adapter_dora", "dora"),
    ] {
        let golden = Golden::load(&format!("adapters/{name}"));
        let to = dir.path().join(name);
        let summary = merged(&base, &golden_adapter(&base, folder), 1.0, MergeTarget::Own, &to);
        assert_eq!(
            (summary.merged, summary.groups),
            (golden.tensors.keys().filter(|key| key.starts_with("A.")).count(), 0)
        );
        let file = Checkpoint::open_sound(&to).unwrap();
        for tensor in [QUERY, DOWN] {
            let expected = golden.floats(&format!("merged.{}", tensor.trim_end_matches(".weight")));
            for (found, expected) in values(&file, tensor, Role::Weight).iter().zip(&expected) {
                assert!((found - expected).abs() <= 1e-6, "{name} {tensor}: {found}, not {expected}");
            }
        }
        let recorded = Recorded::load("llama_gqa_untied");
        let mut cpu = Cpu::new();
        let (batch, sequence) = (recorded.config.train.batch, recorded.config.train.sequence);
        let capacity = Capacity { tokens: batch * sequence, keys: sequence, sampling: false, packing: false };
        let model = open_model(&file, &mut cpu, capacity).unwrap();
        model.upload_tokens(&mut cpu, &recorded.inputs, &recorded.targets);
        let whole = Batch::whole(batch, sequence);
        model.forward(&mut cpu, whole);
        let logits = model.logits(&mut cpu, whole, (0, batch * sequence));
        let mut bytes = vec![0; logits.bytes];
        cpu.download(logits, &mut bytes);
        let expected = golden.floats("merged_logits");
        let found = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        for (i, (found, expected)) in found.zip(&expected).enumerate() {
            assert!(
                (found - expected).abs() <= 2e-5 + 2e-4 * expected.abs(),
                "{name}: logit {i} is {found}, not {expected}"
            );
        }
    }
}

/// Packed bases of both schemes and of four-bit floats.
fn packed(dir: &Path) -> Vec<(&'static str, Checkpoint)> {
    let of = |name: &'static str, edit: fn(&mut tetrad::config::Config)| {
        let folder = dir.join(name);
        std::fs::create_dir(&folder).unwrap();
        (name, golden_base(&folder, edit))
    };
    vec![
        of("symmetric", |config| {
            config.storage.weights = Weights::Int4;
            (config.storage.group, config.storage.embedding) = (32, TableStorage::Bf16);
        }),
        of("asymmetric", |config| {
            (config.storage.weights, config.storage.scheme, config.storage.group) =
                (Weights::Int4, Scheme::Asymmetric, 64);
        }),
        of("fp4", |config| (config.storage.weights, config.storage.group) = (Weights::Fp4, 32)),
    ]
}

#[test]
fn at_scale_zero_every_code_and_every_scale_is_the_bases() {
    let dir = tempfile::tempdir().unwrap();
    for (name, base) in packed(dir.path()) {
        let to = dir.path().join("zero");
        let summary = merged(&base, &golden_adapter(&base, "adapter_lora"), 0.0, MergeTarget::Own, &to);
        assert_eq!((summary.merged, summary.refitted), (14, 0));
        let file = Checkpoint::open_sound(&to).unwrap();
        assert_eq!(file.fingerprint(), base.fingerprint(), "{name}");
        // What was not read by the adapter is not read by the sum: the base's own residue is gone where it was added to.
        assert!(plane(&file, DOWN, PlaneKind::Residue).iter().all(|&byte| byte == 0x88), "{name}");
    }
}

#[test]
fn codes_keep_their_scales_follow_the_sum_in_the_mean_and_leave_the_rest_to_the_residue() {
    let dir = tempfile::tempdir().unwrap();
    for (name, base) in packed(dir.path()) {
        let (whole, to) = (dir.path().join("whole"), dir.path().join("codes"));
        // A fifth of a step or so.
        let adapter = golden_adapter(&base, "adapter_lora");
        merged(&base, &adapter, 0.05, MergeTarget::F32, &whole);
        let summary = merged(&base, &adapter, 0.05, MergeTarget::Own, &to);
        assert!(summary.refitted < summary.groups / 4, "{name}: {summary:?}");
        let (whole, file) = (Checkpoint::open_sound(&whole).unwrap(), Checkpoint::open_sound(&to).unwrap());
        let (mut moved, mut all, mut wrong, mut rest) = (0, 0, 0.0f64, [0.0f64; 3]);
        for tensor in [QUERY, DOWN] {
            let before = values(&base, tensor, Role::Weight);
            let sum = values(&whole, tensor, Role::Weight);
            let codes = values(&file, tensor, Role::Weight);
            let trained = values(&file, tensor, Role::Trained);
            for i in 0..sum.len() {
                all += 1;
                moved += usize::from(codes[i] != before[i]);
                wrong += f64::from(codes[i] - sum[i]);
                rest[0] += f64::from((before[i] - sum[i]).abs());
                rest[1] += f64::from((codes[i] - sum[i]).abs());
                rest[2] += f64::from((trained[i] - sum[i]).abs());
            }
        }
        assert!(moved > all / 50 && moved < all / 2, "{name}: {moved} of {all} codes moved");
        // The mean of so many errors is far below their size; rounding to the nearest would leave most of the change out.
        assert!(wrong.abs() / (all as f64) < 0.1 * rest[0] / all as f64, "{name}: {wrong} of {rest:?}");
        assert!(rest[2] < 0.6 * rest[1], "{name}: the residue brings the values nearer: {rest:?}");
        assert_eq!(plane(&file, NORM, PlaneKind::Data), plane(&base, NORM, PlaneKind::Data));
    }
}

/// What is more than half a step beyond the range would be cut off.
#[test]
fn a_group_whose_values_leave_the_range_gets_a_new_scale_and_no_other_does() {
    let dir = tempfile::tempdir().unwrap();
    for (name, base) in packed(dir.path()) {
        let (whole, to) = (dir.path().join("whole"), dir.path().join("codes"));
        let adapter = golden_adapter(&base, "adapter_lora");
        merged(&base, &adapter, 3.0, MergeTarget::F32, &whole);
        let summary = merged(&base, &adapter, 3.0, MergeTarget::Own, &to);
        assert!(summary.refitted > summary.groups / 4, "{name}: {summary:?}");
        let (whole, file) = (Checkpoint::open_sound(&whole).unwrap(), Checkpoint::open_sound(&to).unwrap());
        let (sum, codes) = (values(&whole, DOWN, Role::Weight), values(&file, DOWN, Role::Weight));
        for (sum, codes) in sum.chunks(32).zip(codes.chunks(32)) {
            let most = sum.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let worst = sum.iter().zip(codes).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
            assert!(worst <= most, "{name}: {worst} beside values up to {most}");
        }
    }
}

#[test]
fn bytes_are_sixteen_times_as_fine_as_codes() {
    let dir = tempfile::tempdir().unwrap();
    for (name, base) in packed(dir.path()) {
        let (whole, to) = (dir.path().join("whole"), dir.path().join("bytes"));
        let adapter = golden_adapter(&base, "adapter_lora");
        merged(&base, &adapter, 0.2, MergeTarget::F32, &whole);
        merged(&base, &adapter, 0.2, MergeTarget::Int8, &to);
        let (whole, file) = (Checkpoint::open_sound(&whole).unwrap(), Checkpoint::open_sound(&to).unwrap());
        assert_eq!(file.meta.storage.weights, Weights::Int8);
        for tensor in [QUERY, DOWN] {
            let (sum, bytes) = (values(&whole, tensor, Role::Weight), values(&file, tensor, Role::Weight));
            let rms = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x * x)).sum::<f64>().sqrt();
            let error = rms(&mut sum.iter().zip(&bytes).map(|(a, b)| a - b)) / rms(&mut sum.iter().copied());
            // To the nearest it is below 0.011, and rounding at random errs by the root of two of that.
            assert!(error < 0.0156, "{name} {tensor}: {error}");
        }
        // And it computes.
        let mut cpu = Cpu::new();
        let capacity = Capacity { tokens: 8, keys: 8, sampling: false, packing: false };
        let model = open_model(&file, &mut cpu, capacity).unwrap();
        let mut losses = vec![0.0; 8];
        let loss = model.evaluate(&mut cpu, Batch::whole(1, 8), &[1, 2, 3, 4, 5, 6, 7, 8], &[2; 8], &[], &mut losses);
        assert!(loss.is_finite());
    }
}

/// Any number of threads gives the same bytes, and so does every run.
#[test]
fn the_same_input_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (_, base) = packed(dir.path()).swap_remove(0);
    let adapter = golden_adapter(&base, "adapter_patterns");
    let bytes = |threads| {
        let to = dir.path().join("out");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| merged(&base, &adapter, 1.0, MergeTarget::Own, &to));
        std::fs::read(to).unwrap()
    };
    let one = bytes(1);
    assert!(one == bytes(2) && one == bytes(7));
}

/// Fed errors are smaller where it counts, in what the matrices give for the text, if a change moves most codes; of a
/// smaller one no row is fed that would be better off without.
#[test]
fn errors_that_are_fed_on_leave_less_of_an_error_in_the_products() {
    let dir = tempfile::tempdir().unwrap();
    let (_, base) = packed(dir.path()).swap_remove(0);
    let adapter = golden_adapter(&base, "adapter_lora");
    let at = |name: &str| dir.path().join(name);
    let tokens: Vec<u32> = (0..512).map(|i| i * i % 89).collect();
    for (scale, bound) in [(0.02, 1.1), (0.3, 0.7)] {
        merged(&base, &adapter, scale, MergeTarget::F32, &at("whole"));
        merged(&base, &adapter, scale, MergeTarget::Own, &at("plain"));
        adapter.write(&at("adapter")).unwrap();
        let files = [(Checkpoint::open_sound(&at("adapter")).unwrap(), scale)];
        let whole = Adapted::new(&base, &files).unwrap();
        let (mut cpu, mut products) = (Cpu::new(), Cpu::new());
        let calibration =
            Calibration { model: &whole, backend: &mut cpu, products: &mut products, tokens: &tokens, sequence: 16 };
        let adapters = [(adapter.clone(), scale)];
        merge(&base, &adapters, MergeTarget::Own, Some(calibration), &at("fed"), &mut |_, _| {}).unwrap();
        let output = |name: &str| {
            let file = Checkpoint::open_sound(&at(name)).unwrap();
            let mut cpu = Cpu::new();
            let capacity = Capacity { tokens: 512, keys: 16, sampling: false, packing: false };
            let model = open_model(&file, &mut cpu, capacity).unwrap();
            model.upload_tokens(&mut cpu, &tokens, &tokens);
            model.forward(&mut cpu, Batch::whole(32, 16));
            let mut bytes = vec![0; 4 * 512 * 64];
            cpu.download(model.acts.x, &mut bytes);
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>()
        };
        let [whole, plain, fed] = ["whole", "plain", "fed"].map(output);
        let apart = |found: &[f32]| found.iter().zip(&whole).map(|(a, b)| f64::from((a - b) * (a - b))).sum::<f64>();
        let (plain, fed) = (apart(&plain), apart(&fed));
        assert!(fed < bound * plain, "scale {scale}: {fed} with errors fed on, {plain} without");
    }
}

/// The logits of the recorded batch by a base and adapters of it.
fn logits(base: &Checkpoint, adapters: &[(Checkpoint, f32)]) -> Vec<f32> {
    let recorded = Recorded::load("llama_gqa_untied");
    let (batch, sequence) = (recorded.config.train.batch, recorded.config.train.sequence);
    let capacity = Capacity { tokens: batch * sequence, keys: sequence, sampling: false, packing: false };
    let mut cpu = Cpu::new();
    let model = Adapted::new(base, adapters).unwrap().open(&mut cpu, capacity).unwrap();
    let whole = Batch::whole(batch, sequence);
    let inputs: Vec<u32> = recorded.inputs.iter().map(|&id| id % base.meta.model.vocab as u32).collect();
    model.upload_tokens(&mut cpu, &inputs, &inputs);
    model.forward(&mut cpu, whole);
    let logits = model.logits(&mut cpu, whole, (0, batch * sequence));
    let mut bytes = vec![0; logits.bytes];
    cpu.download(logits, &mut bytes);
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn embedding_and_head_are_merged_each_by_itself_even_if_they_were_tied() {
    for (name, tied) in [("llama_gqa_untied", false), ("llama_mha_tied", true)] {
        for (targets, parts) in [(&["embedding"][..], 1), (&["head"], 1), (&["all", "embedding", "head"], 2)] {
            let dir = tempfile::tempdir().unwrap();
            let base = named_base(name, dir.path(), |_| {});
            let config = AdapterConfig {
                kind: AdapterKind::Lora,
                targets: targets.iter().map(|&target| target.into()).collect(),
                rank: 3,
                alpha: 2.0,
                ..AdapterConfig::default()
            };
            let mut adapter = Adapter::new(&base, config).unwrap();
            for (number, (_, values)) in adapter.tensors.iter_mut().enumerate() {
                let value = |i: usize| ((i * 7919 + number * 31) % 17) as f32 / 40.0 - 0.2;
                values.iter_mut().enumerate().for_each(|(i, x)| *x = value(i));
            }
            let path = dir.path().join("adapter.tetrad");
            adapter.write(&path).unwrap();
            let file = || Checkpoint::open_sound(&path).unwrap();
            let to = dir.path().join("merged.tetrad");
            merged(&base, &adapter, 1.0, MergeTarget::F32, &to);
            let sum = Checkpoint::open_sound(&to).unwrap();
            assert!(base.meta.model.tied == tied && !sum.meta.model.tied);
            let name_of = |kind: ParamKind| kind.name();
            let table = values(&base, &name_of(ParamKind::Embedding), Role::Weight);
            let head = if tied { table.clone() } else { values(&base, &name_of(ParamKind::Head), Role::Weight) };
            let changed = [(ParamKind::Embedding, table), (ParamKind::Head, head)].into_iter();
            let changed = changed.filter(|(kind, before)| values(&sum, &name_of(*kind), Role::Weight) != *before);
            assert_eq!(changed.count(), parts, "{name}, {targets:?}");
            let (alone, found, expected) = (logits(&base, &[]), logits(&sum, &[]), logits(&base, &[(file(), 1.0)]));
            let apart = alone.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart > 0.05, "{name}, {targets:?}: the adapter changes logits by {apart}");
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let near = (found - expected).abs() <= 2e-5 + 2e-4 * expected.abs();
                assert!(near, "{name}, {targets:?}: logit {i} is {found}, not {expected}");
            }
        }
    }
}

#[test]
fn what_cannot_be_merged_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden_base(dir.path(), |_| {});
    let other = packed(dir.path()).swap_remove(0).1;
    let adapter = golden_adapter(&base, "adapter_lora");
    let to = dir.path().join("refused");
    let said = |base: &Checkpoint, adapters: &[(Adapter, f32)]| {
        let error = merge(base, adapters, MergeTarget::Own, None, &to, &mut |_, _| {}).unwrap_err();
        error.to_string().replace(&format!("{}/", dir.path().display()), "")
    };
    let (expected, found) = (base.fingerprint(), other.fingerprint());
    let text = format!("its weights have the fingerprint {found}, and the adapter is of a base with {expected}");
    assert!(said(&other, &[(adapter.clone(), 1.0)]).ends_with(&text));
    assert!(said(&base, &[(adapter, f32::NAN)]).ends_with("an adapter cannot be scaled by NaN"));
    assert!(said(&base, &[]).ends_with("there is no adapter to merge"));
    let simulated = dir.path().join("simulated");
    std::fs::create_dir(&simulated).unwrap();
    let simulated = golden_base(&simulated, |config| config.storage.weights = Weights::Int4SimulatedRows);
    let adapter = golden_adapter(&simulated, "adapter_lora");
    assert!(said(&simulated, &[(adapter, 1.0)]).contains("rounded to four bits on the fly"));
    assert!(!to.exists(), "something was written");
}
