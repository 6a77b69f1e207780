//! How many instructions the CPU's main operations execute, counted by valgrind on one thread with AVX2: a change that makes one
//! of them do more work shows here, where time would show the machine's other work. What is counted is the tests' own build, at
//! level 1 of optimisation: a guard of what operations do, which says nothing of what the release's optimiser makes of it, nor
//! how long an instruction takes or waits. That is for the benchmarks (`benches/`).
//!
//! Skipped where valgrind is not installed or the processor has no AVX2; with `TETRAD_REQUIRE_VALGRIND=1` that is a failure.

mod harness;

use harness::in_one_thread;
use harness::operands::{Harness, Random, floats, int4};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::backend::ops::reference::Planes;
use tetrad::backend::prelude::*;
use tetrad::backend::{
    Accumulate, AttentionArgs, AttentionGradArgs, AttentionShape, Compute, MaxShapes, Moment, NormGradArgs, Param,
    RowDraws, SecondMoment, State, Weight,
};
use tetrad::memory::{Category, Lifetime, Plan, Span};
use tetrad::model::fill;
use tetrad::optim::{OptimizerConfig, ParamClass, ParamInfo, Rule, StateConfig, StepInfo};
use tetrad::quant::{GroupedShape, RngKey, RngUse, WeightFormat};
use zerocopy::IntoBytes;

/// How far a count may be from the recorded one, as a share of it. Two runs of one build differ by a few hundredths of a percent.
const TOLERANCE: f64 = 0.1;

/// Tokens of a batch, of which the outputs and inputs are those of the quick-start's largest matrix.
const TOKENS: usize = 128;
const OUTPUTS: usize = 344;
const INPUTS: usize = 128;

const MAX: MaxShapes = MaxShapes {
    tokens: TOKENS,
    features: 512,
    inputs: 512,
    keys: TOKENS,
    parameter: 1 << 16,
    head_dim: 32,
    prefix: 0,
    compute: Compute::F32,
};

/// Makes the operands of an operation, and gives what carries it out.
type Prepare = fn() -> Box<dyn FnMut()>;

/// Operations, and the thousands of instructions that one takes: of commits 0387d7b and d034529, those of one token of 04951c0, of
/// gradients in integers those with which they came, with
/// Rust 1.95, built as CI does. Valgrind knows no AVX-512; integers of many tokens are those of the plain loops.
const OPERATIONS: [(&str, Prepare, u64); 16] = [
    ("linear", || linear(TOKENS), 5076),
    ("linear of one token", || linear(1), 1046),
    ("linear_int8", || linear_int8(TOKENS), 32_689),
    ("linear_int8 of one token", || linear_int8(1), 274),
    ("linear_grad_input", linear_grad_input, 3916),
    ("linear_grad_weight", linear_grad_weight, 3523),
    ("linear_grad_input_int8", linear_grad_input_int8, 37_892),
    ("linear_grad_weight_int8", linear_grad_weight_int8, 33_663),
    ("attention", || attention(false), 5142),
    ("attention_grad", || attention(true), 8588),
    ("rms_norm and its gradient", norm, 1277),
    ("swiglu and its gradient", swiglu, 4231),
    ("cross_entropy with its gradient", cross_entropy, 5080),
    ("a step of Stable-SPAM with moments in four bits", update, 13593),
    ("rows rounded to packed codes", rounded, 2648),
    ("normally distributed numbers", normal, 15_135),
];

fn started(harness: &Harness) -> Cpu {
    started_for(harness, &MAX)
}

fn started_for(harness: &Harness, max: &MaxShapes) -> Cpu {
    let mut cpu = Cpu::with_isa(Isa::best());
    harness.start(&mut cpu, max);
    cpu
}

/// A packed weight with room for the other operands of its products.
fn layer(tokens: usize) -> (Cpu, Weight, [Span; 2], Span) {
    let mut harness = Harness::default();
    let planes: Planes = int4(OUTPUTS, INPUTS, 64);
    let weight = harness.weight(&planes);
    let activations = [INPUTS, OUTPUTS].map(|width| harness.add(&floats(3, tokens * width)));
    let grad = harness.out(OUTPUTS * INPUTS);
    (started_for(&harness, &MaxShapes { compute: Compute::Int8, ..MAX }), weight, activations, grad)
}

fn linear(tokens: usize) -> Box<dyn FnMut()> {
    let (mut cpu, weight, [x, y], _) = layer(tokens);
    Box::new(move || cpu.linear(x, &weight, y, Accumulate::No))
}

fn linear_int8(tokens: usize) -> Box<dyn FnMut()> {
    let (mut cpu, weight, [x, y], _) = layer(tokens);
    Box::new(move || cpu.linear_int8(x, &[(&weight, y)], Accumulate::No))
}

fn linear_grad_input() -> Box<dyn FnMut()> {
    let (mut cpu, weight, [dx, dy], _) = layer(TOKENS);
    Box::new(move || cpu.linear_grad_input(dy, &weight, dx, Accumulate::No))
}

fn linear_grad_weight() -> Box<dyn FnMut()> {
    let (mut cpu, _, [x, dy], grad) = layer(TOKENS);
    Box::new(move || cpu.linear_grad_weight(dy, x, grad, OUTPUTS, INPUTS, Accumulate::No))
}

const DRAWS: RowDraws =
    RowDraws { key: RngKey { seed: 1, step: 2, tensor: 3, usage: RngUse::GradInput }, first_row: 0 };

fn linear_grad_input_int8() -> Box<dyn FnMut()> {
    let (mut cpu, weight, [dx, dy], _) = layer(TOKENS);
    Box::new(move || cpu.linear_grad_input_int8(dy, &weight, dx, Accumulate::No, &DRAWS))
}

fn linear_grad_weight_int8() -> Box<dyn FnMut()> {
    let (mut cpu, _, [x, dy], grad) = layer(TOKENS);
    Box::new(move || {
        cpu.linear_grad_weight_int8([dy, x, grad], (OUTPUTS, INPUTS), Accumulate::No, TOKENS, &DRAWS);
    })
}

fn attention(backward: bool) -> Box<dyn FnMut()> {
    let (heads, head_dim) = (4, 32);
    let shape =
        AttentionShape { batch: 1, queries: TOKENS, start: 0, capacity: TOKENS, heads, kv_heads: heads, head_dim };
    let count = TOKENS * heads * head_dim;
    let mut harness = Harness::default();
    let [q, k, v, dout] = [1, 2, 3, 4].map(|seed| harness.add(&floats(seed, count)));
    let [out, dq, dk, dv] = [(); 4].map(|()| harness.out(count));
    let lse = harness.out(TOKENS * heads);
    let mut cpu = started(&harness);
    let args = AttentionArgs { q, k, v, out, lse, shape, segment_start: None };
    cpu.attention(&args);
    if !backward {
        return Box::new(move || cpu.attention(&args));
    }
    let args = AttentionGradArgs {
        q,
        k,
        v,
        out: Some(out),
        lse,
        dout,
        dq,
        dk,
        dv,
        shape,
        segment_start: None,
        delta: None,
        rotated_by: None,
    };
    Box::new(move || cpu.attention_grad(&args))
}

fn norm() -> Box<dyn FnMut()> {
    let mut harness = Harness::default();
    let [x, dout] = [1, 2].map(|seed| harness.add(&floats(seed, TOKENS * INPUTS)));
    let gain = harness.add(&floats(3, INPUTS));
    let (out, dx) = (harness.out(TOKENS * INPUTS), harness.out(TOKENS * INPUTS));
    let (inv_rms, dgain) = (harness.out(TOKENS), harness.out(INPUTS));
    let mut cpu = started(&harness);
    let accumulate = Accumulate::No;
    Box::new(move || {
        cpu.rms_norm(x, gain, out, inv_rms, 1e-5);
        cpu.rms_norm_grad(&NormGradArgs { x, gain, inv_rms, dout, dx, dgain, accumulate });
    })
}

fn swiglu() -> Box<dyn FnMut()> {
    let mut harness = Harness::default();
    let [gate, up, dout] = [1, 2, 3].map(|seed| harness.add(&floats(seed, TOKENS * OUTPUTS)));
    let out = harness.out(TOKENS * OUTPUTS);
    let mut cpu = started(&harness);
    Box::new(move || {
        cpu.swiglu(gate, up, out);
        cpu.swiglu_grad(gate, up, dout);
    })
}

fn cross_entropy() -> Box<dyn FnMut()> {
    const VOCAB: usize = 512;
    let mut harness = Harness::default();
    let logits = harness.add(&floats(1, TOKENS * VOCAB));
    let targets = harness.add(&(0..TOKENS as u32).collect::<Vec<_>>());
    let losses = harness.out(TOKENS);
    let mut cpu = started(&harness);
    Box::new(move || cpu.cross_entropy(logits, targets, losses, VOCAB, Some(1.0)))
}

/// A packed weight of the rule's state, and room for its gradient.
fn update() -> Box<dyn FnMut()> {
    let groups = OptimizerConfig::of(Rule::StableSpam).groups(StateConfig {
        m: Moment::Int4,
        v: SecondMoment::Int4,
        feedback: false,
    });
    let shape = GroupedShape::new(OUTPUTS, INPUTS, 64);
    let (group, specs) = groups.declare(&ParamInfo { class: ParamClass::Matrix, shape, head_dim: 32 });
    let mut plan = Plan::default();
    let mut add = |bytes| plan.add("", Category::Scratch, bytes, Lifetime::ALWAYS);
    let weight = Weight::place(shape, WeightFormat::INT4, |_, bytes| add(bytes));
    let state = State::place(&specs, shape, &mut |_, bytes| add(bytes));
    let mut cpu = Cpu::with_isa(Isa::best());
    let (grad, scratch) = (add(4 * shape.len()), add(cpu.workspace_bytes(&MAX)));
    let workspace = add(4 * groups.workspace(&ParamInfo { class: ParamClass::Matrix, shape, head_dim: 32 }));
    cpu.allocate(plan.total(), None, scratch).unwrap();
    let start = floats(1, shape.len());
    fill(&mut cpu, &weight, &mut |row, out| out.copy_from_slice(&start[row * INPUTS..][..INPUTS]));
    let param = Param { id: 0, group, decay: true, sparse: false, weight, state };
    let (gradient, mut number) = (floats(2, shape.len()), 0);
    Box::new(move || {
        number += 1;
        cpu.upload(gradient.as_bytes(), grad);
        groups.step(&mut cpu, &param, grad, workspace, &StepInfo { number, lr: 1e-3, seed: 1 });
    })
}

fn rounded() -> Box<dyn FnMut()> {
    let shape = GroupedShape::new(OUTPUTS, INPUTS, 64);
    let mut harness = Harness::default();
    let planes = Random(1).planes(shape, WeightFormat::INT4.with_residue(false));
    let weight = harness.weight(&planes);
    let (mut cpu, values) = (started(&harness), floats(1, shape.len()));
    Box::new(move || fill(&mut cpu, &weight, &mut |row, out| out.copy_from_slice(&values[row * INPUTS..][..INPUTS])))
}

fn normal() -> Box<dyn FnMut()> {
    let mut numbers = vec![0.0; OUTPUTS * INPUTS];
    let key = RngKey { seed: 1, step: 0, tensor: 0, usage: RngUse::Init };
    Box::new(move || key.normal(0, std::hint::black_box(&mut numbers)))
}

/// The number of an operation and how often it is carried out, for the process that valgrind watches.
const ASKED: &str = "TETRAD_COUNTED";

/// Not a test by itself: what valgrind watches.
#[test]
#[ignore = "run by the test below"]
fn watched() {
    let Ok(asked) = std::env::var(ASKED) else { return };
    let (number, times) = asked.split_once(' ').unwrap();
    let (number, times): (usize, usize) = (number.parse().unwrap(), times.parse().unwrap());
    println!("with {}", Isa::best().name());
    in_one_thread(|| {
        let mut work = OPERATIONS[number].1();
        (0..times).for_each(|_| work());
    });
}

/// The instructions of a process that carries out an operation so often; none if it cannot be watched as is needed.
fn count(number: usize, times: usize) -> Result<u64, String> {
    let output = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "watched", "--ignored", "--nocapture", "--test-threads=1"])
        .env(ASKED, format!("{number} {times}"))
        .output()
        .map_err(|error| format!("valgrind cannot be run: {error}"))?;
    let [said, found] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{said}\n{found}");
    if !said.contains("with AVX2") {
        return Err("the processor has no AVX2".into());
    }
    let line = found.lines().find_map(|line| line.split_once("refs:"));
    let digits: String = line.expect("cachegrind counts instructions").1.chars().filter(char::is_ascii_digit).collect();
    Ok(digits.parse().unwrap())
}

#[test]
fn operations_execute_as_many_instructions_as_are_recorded() {
    // What a process does besides is in both counts.
    const MORE: usize = 8;
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let measure = || {
        while let Some((name, _, recorded)) = OPERATIONS.get(next.fetch_add(1, Ordering::Relaxed)) {
            let number = OPERATIONS.iter().position(|other| other.0 == *name).unwrap();
            let both = count(number, 1).and_then(|once| Ok((once, count(number, 1 + MORE)?)));
            let each = both.map(|(once, more)| (more - once) as f64 / MORE as f64 / 1000.0);
            found.lock().unwrap().push((*name, *recorded as f64, each));
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(4));
        (0..threads).for_each(|_| drop(scope.spawn(measure)));
    });
    let mut wrong = Vec::new();
    for (name, recorded, each) in found.into_inner().unwrap() {
        match each {
            Ok(each) if (each / recorded - 1.0).abs() <= TOLERANCE => {}
            Ok(each) => wrong.push(format!("{name}: {each:.0} thousand instructions, recorded are {recorded:.0}")),
            Err(reason) if std::env::var_os("TETRAD_REQUIRE_VALGRIND").is_none() => {
                eprintln!("SKIPPED counts of instructions: {reason}");
                return;
            }
            Err(reason) => panic!("{reason}"),
        }
    }
    assert!(
        wrong.is_empty(),
        "counts of instructions are more than {:.0} % from those on record; if they ought to be, record them:\n{}",
        100.0 * TOLERANCE,
        wrong.join("\n")
    );
}
