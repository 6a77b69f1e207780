//! Whole training steps: tokens per second, and memory as the driver sees it beside the plan.

use super::operands::{bytes, halves};
use super::report::Ceilings;
use crate::harness::operands::words;
use half::{bf16, f16};
use std::process::Command;
use std::time::Instant;
use tetrad::backend::cuda::Cuda;
use tetrad::backend::{Backend, Weight};
use tetrad::checkpoint::{Extent, Meta, save};
use tetrad::config::Config;
use tetrad::memory::Span;
use tetrad::model::ActivationCheckpointing;
use tetrad::quant::{Element, WeightPlane};
use tetrad::train::{Limits, Trainer, autotune};

/// A preset and what is changed of it: tokens of a batch and of a sequence, and the width of the SwiGLU block, 0 for the
/// preset's own.
type Case = (&'static str, usize, usize, usize);

/// 5504 is the width that the 1b preset would have were it a multiple of 64.
const STEPS: [Case; 11] = [
    ("60m", 8192, 0, 0),
    ("60m", 32768, 0, 0),
    ("130m", 8192, 0, 0),
    ("350m", 8192, 0, 0),
    ("350m", 32768, 0, 0),
    ("1b", 8192, 0, 0),
    ("1b", 16384, 0, 0),
    ("1b", 16384, 0, 5504),
    ("1b", 16384, 2048, 0),
    ("3b", 16384, 0, 0),
    ("7b", 16384, 0, 0),
];
const MEMORY: [Case; 4] = [("60m", 8192, 0, 0), ("350m", 8192, 0, 0), ("1b", 8192, 0, 0), ("7b-compact", 4096, 0, 0)];
const SMALL: [Case; 1] = [("quickstart", 128, 64, 344)];

/// Tokens per second for presets and batches.
pub fn steps(ceilings: &Ceilings, small: bool) {
    println!(
        "| preset | tokens per step | of a sequence | activations | ms without graphs | ms | tokens/s | share of {}^3 | of the clocks' peak |",
        ceilings.edge
    );
    println!("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |");
    for case in if small { &SMALL[..] } else { &STEPS } {
        step(case, ceilings, if small { [(1, 1), (1, 1)] } else { [(3, 3), (2, 5)] });
    }
    println!();
}

/// A trainer on random tokens, and one batch of them.
fn trainer(&(preset, tokens, sequence, intermediate): &Case) -> (Trainer, Vec<u32>) {
    let mut config = Config::preset(preset).expect("a preset");
    if sequence > 0 {
        (config.train.sequence, config.model.context) = (sequence, sequence);
    }
    if intermediate > 0 {
        config.model.intermediate = intermediate;
    }
    config.train.batch = tokens / config.train.sequence;
    let device = Cuda::open(0).expect("a device");
    let (free, _) = device.memory().expect("the driver's figures");
    let limits = Limits { device: free, host: u64::MAX };
    // As the program does: activations are kept if there is room.
    let config = autotune(&config, &device, &limits).expect("a configuration that fits");
    let vocab = config.model.vocab as u32;
    let mut trainer = Trainer::new(&config, Box::new(device)).expect("memory");
    fill(&mut trainer);
    (trainer, words(1, tokens + 1).map(|word| word % vocab).collect())
}

/// Gives weights any values of about the size of first values, and moments zero: a plane at a time and from few random
/// numbers, where `Trainer::initialize` takes minutes for billions of weights.
fn fill(trainer: &mut Trainer) {
    let (model, backend) = trainer.model_and_backend();
    for param in &model.stored {
        let weight = &param.weight;
        for plane in [WeightPlane::Data, WeightPlane::Scales, WeightPlane::Offsets, WeightPlane::Residue] {
            let span = weight.span(plane);
            if !span.is_none() {
                upload(backend, &contents(weight, plane, span.bytes.min(PIECE)), span);
            }
        }
        for tensor in param.state.tensors() {
            upload(backend, &vec![tensor.spec.format.codec.zero_byte(); tensor.data.bytes.min(PIECE)], tensor.data);
        }
    }
}

/// Bytes that planes repeat: whole elements of any kind.
const PIECE: usize = 1 << 26;

/// Uploads `piece` again and again until the span is full.
fn upload(backend: &mut dyn Backend, piece: &[u8], span: Span) {
    for from in (0..span.bytes).step_by(PIECE) {
        let count = piece.len().min(span.bytes - from);
        backend.upload(&piece[..count], span.part(from, count));
    }
}

/// Values whose standard deviation is about 0.02: codes are uniform between -8 and 7 or -128 and 127 steps.
fn contents(weight: &Weight, plane: WeightPlane, count: usize) -> Vec<u8> {
    let step: f32 = if weight.format.codec().element() == Element::I8 { 0.02 / 74.0 } else { 0.02 / 4.6 };
    let gain = weight.shape.rows == 1;
    match (plane, weight.format.codec().element()) {
        (WeightPlane::Scales, _) => f16::from_f32(step).to_le_bytes().repeat(count / 2),
        (WeightPlane::Offsets, _) => f16::from_f32(-8.0 * step).to_le_bytes().repeat(count / 2),
        (WeightPlane::Data, Element::Bf16) => {
            let small = |bits| bf16::from_f32(bf16::from_bits(bits).to_f32() * 0.035);
            halves(7, count / 2).into_iter().flat_map(|bits| small(bits).to_le_bytes()).collect()
        }
        (WeightPlane::Data, Element::F32) if gain => 1.0f32.to_le_bytes().repeat(count / 4),
        (WeightPlane::Data, Element::F32) => 0.02f32.to_le_bytes().repeat(count / 4),
        _ => bytes(7 + plane as u64, count),
    }
}

/// Seconds of a step, the median of some after others that are not counted.
fn median(trainer: &mut Trainer, text: &[u32], (before, counted): (usize, usize)) -> f64 {
    let (inputs, targets) = (&text[..text.len() - 1], &text[1..]);
    for _ in 0..before {
        trainer.step(inputs, targets);
    }
    let mut times = Vec::new();
    for _ in 0..counted {
        let begun = Instant::now();
        let report = trainer.step(inputs, targets);
        times.push(begun.elapsed().as_secs_f64());
        assert!(report.loss.is_finite() && trainer.backend().status() == Ok(()), "loss {}", report.loss);
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn step(case: &Case, ceilings: &Ceilings, [apart, graphs]: [(usize, usize); 2]) {
    let (preset, tokens, ..) = *case;
    let (mut trainer, text) = trainer(case);
    let apart = median(&mut trainer, &text, apart);
    trainer.rehearse().expect("a rehearsal");
    let seconds = median(&mut trainer, &text, graphs);
    let config = trainer.config();
    let work = trainer.model().step_flops(config.train.batch, config.train.sequence);
    let clocks = trainer.backend().peak_flops();
    let width = if case.3 > 0 { format!(", intermediate {}", case.3) } else { String::new() };
    println!(
        "| {preset}{width} | {tokens} | {} | {} | {:.1} | {:.1} | {:.0} | {:.0} % | {} |",
        config.train.sequence,
        if config.run.activation_checkpointing == ActivationCheckpointing::None { "kept" } else { "recomputed" },
        apart * 1e3,
        seconds * 1e3,
        tokens as f64 / seconds,
        100.0 * work / seconds / ceilings.product,
        clocks.map_or("unknown".into(), |peak| format!("{:.0} %", 100.0 * work / seconds / peak)),
    );
}

/// Bytes in use on the device at seven points: before anything was opened, with a context and all kernels, with the arena,
/// after a rehearsal, which makes graphs, after a step, an evaluation and a save.
pub fn memory(small: bool) {
    let first = before();
    println!(
        "| preset | plan | before | context, kernels | with the arena | after a rehearsal | a step | an evaluation | a save |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let watch = Cuda::open(0).expect("a device");
    let used = || {
        let (free, total) = watch.memory().expect("the driver's figures");
        format!("{:.1} MiB", (total - free) as f64 / f64::from(1 << 20))
    };
    let folder = tempfile::tempdir().expect("a folder");
    for case in if small { &SMALL[..] } else { &MEMORY } {
        let (preset, tokens, ..) = *case;
        let mut row = vec![first.clone(), used()];
        let (mut trainer, text) = trainer(case);
        row.push(used());
        trainer.rehearse().expect("a rehearsal");
        row.push(used());
        let (inputs, targets) = (&text[..tokens], &text[1..]);
        trainer.step(inputs, targets);
        row.push(used());
        trainer.evaluate(trainer.config().train.batch, inputs, targets);
        row.push(used());
        let meta = Meta::new(trainer.config(), trainer.counters(), false, "random");
        let path = folder.path().join(preset);
        save(trainer.model(), trainer.backend(), &meta, None, Extent::Full, &path).expect("a saved state");
        row.push(used());
        let plan = trainer.plan().total() as f64 / f64::from(1 << 20);
        println!("| {preset}, {tokens} tokens | {plan:.1} MiB | {} |", row.join(" | "));
        std::fs::remove_file(path).expect("the saved state");
    }
    println!();
}

/// What nvidia-smi says before this process has a context.
fn before() -> String {
    let asked = ["--query-gpu=memory.used", "--format=csv,noheader", "--id=0"];
    match Command::new("nvidia-smi").args(asked).output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().into(),
        _ => "unknown".into(),
    }
}
