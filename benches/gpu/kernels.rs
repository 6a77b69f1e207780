//! Every kernel at the sizes of a 1b model: its time, and its share of what the device can do.

use crate::operands::{Operands, floats, words};
use crate::report::{Ceilings, Table};
use half::bf16;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::cuda::Cuda;
use tetrad::backend::{AttentionShape, Backend, Largest, Param, Rotation, Store, WeightKind};
use tetrad::config::Optimizer;
use tetrad::memory::Span;
use tetrad::optim::Step;

/// Tokens, hidden, intermediate: the 1b preset.
const T: usize = 16384;
const H: usize = 2048;
const F: usize = 5461;

/// Median of many runs, in seconds.
fn time(cuda: &mut Cuda, mut work: impl FnMut(&mut Cuda)) -> f64 {
    for _ in 0..3 {
        work(cuda);
    }
    let mut times: Vec<f64> = (0..15).map(|_| cuda.time(&mut work).expect("time")).collect();
    times.sort_by(f64::total_cmp);
    assert_eq!(cuda.status(), Ok(()));
    times[times.len() / 2]
}

fn largest(tokens: usize, features: usize) -> Largest {
    Largest { tokens, features, inputs: F.max(H), keys: 2048, parameter: 32_000 * H, head_dim: 128 }
}

/// Copy bandwidth and cuBLASLt's rate.
pub fn ceilings() -> Ceilings {
    let mut operands = Operands::default();
    let (from, to) = (operands.activations(1, 1 << 29), operands.room(1 << 30));
    let n = 8192;
    let (x, w, y) = (operands.activations(2, n * n), operands.weight(n, n, WeightKind::Bf16), operands.room(2 * n * n));
    let mut cuda = operands.start(&largest(n, n));
    let copy = 2.0 * from.bytes as f64 / time(&mut cuda, |cuda| cuda.copy(from, to));
    let product = 2.0 * (n as f64).powi(3) / time(&mut cuda, |cuda| cuda.linear(x, &w, y, Store::Overwrite));
    Ceilings { copy, product }
}

/// The update of packed planes: same bytes as on the CPU first, then GB/s.
pub fn optimizer(table: &mut Table, ceilings: &Ceilings) {
    for (rows, cols) in [(H, H), (F, H), (H, F), (32_000, H)] {
        let mut operands = Operands::default();
        let param = operands.param(rows, cols);
        let grad = operands.add(&floats(3, rows * cols));
        let mut cuda = operands.start(&largest(8, H));
        same_update(&operands, &mut cuda, &param, grad);
        let mut number = 3;
        let seconds = time(&mut cuda, |cuda| {
            number += 1;
            cuda.optimizer_step(&param, grad, &step(number));
        });
        let bytes = grad.bytes + 2 * planes(&param).iter().map(|span| span.bytes).sum::<usize>();
        table.bandwidth("optimizer step, int4 weight and state", &format!("{rows} x {cols}"), seconds, bytes, ceilings);
    }
}

fn step(number: u64) -> Step {
    Step::new(&Optimizer::default(), number, 1e-3, false, 1)
}

fn planes(param: &Param) -> [Span; 7] {
    let (w, s) = (param.weight, param.state);
    [w.data, w.scales, w.residue, s.m, s.m_scales, s.v, s.v_scales]
}

fn same_update(operands: &Operands, cuda: &mut Cuda, param: &Param, grad: Span) {
    let mut cpu = Cpu::new();
    operands.fill(&mut cpu, &largest(8, H));
    for number in 1..=3 {
        cuda.optimizer_step(param, grad, &step(number));
        cpu.optimizer_step(param, grad, &step(number));
    }
    assert_eq!(cpu.outcomes(), cuda.outcomes(), "counts of the updates");
    for span in planes(param) {
        let [mut a, mut b] = [vec![0u8; span.bytes], vec![1u8; span.bytes]];
        cpu.download(span, &mut a);
        cuda.download(span, &mut b);
        assert!(a == b, "the update differs from the CPU's");
    }
}

/// Products with packed weights beside the same products with bf16 weights, which are cuBLASLt alone.
pub fn products(table: &mut Table, ceilings: &Ceilings) {
    for (outputs, inputs) in [(H, H), (F, H), (H, F), (32_000, H)] {
        // The head's logits exist for a chunk of tokens only.
        let tokens = if outputs == 32_000 { 4096 } else { T };
        let mut operands = Operands::default();
        let (x, y) = (operands.activations(1, tokens * inputs), operands.activations(2, tokens * outputs));
        let (out_y, out_x) = (operands.room(2 * tokens * outputs), operands.room(2 * tokens * inputs));
        let grad = operands.room(4 * outputs * inputs);
        let packed = operands.weight(outputs, inputs, WeightKind::Int4);
        let plain = operands.weight(outputs, inputs, WeightKind::Bf16);
        let mut cuda = operands.start(&largest(tokens, outputs.max(inputs)));
        let shape = format!("{tokens} tokens, {outputs} x {inputs}");
        let work = 2.0 * tokens as f64 * outputs as f64 * inputs as f64;
        let forward = [&packed, &plain].map(|w| time(&mut cuda, |cuda| cuda.linear(x, w, out_y, Store::Overwrite)));
        table.product("linear", &shape, forward[0], work, forward[1], ceilings);
        let backward =
            [&packed, &plain].map(|w| time(&mut cuda, |cuda| cuda.linear_grad_input(y, w, out_x, Store::Overwrite)));
        table.product("linear, gradient of the input", &shape, backward[0], work, backward[1], ceilings);
        let weight = time(&mut cuda, |cuda| cuda.linear_grad_weight(y, x, grad, outputs, inputs, Store::Overwrite));
        table.product("linear, gradient of the weight", &shape, weight, work, weight, ceilings);
        check_product(&cuda, x, &packed, out_y, (tokens, outputs, inputs));
    }
}

/// Some elements of a product against float64.
fn check_product(cuda: &Cuda, x: Span, w: &tetrad::backend::Weight, y: Span, shape: (usize, usize, usize)) {
    let (tokens, outputs, inputs) = shape;
    let read = |span: Span| {
        let mut bytes = vec![0u8; span.bytes];
        cuda.download(span, &mut bytes);
        bytes
    };
    let narrow = |bytes: Vec<u8>| -> Vec<f64> {
        bytes.chunks_exact(2).map(|b| bf16::from_bits(u16::from_le_bytes([b[0], b[1]])).to_f64()).collect()
    };
    let (x, y, codes) = (narrow(read(x)), narrow(read(y)), read(w.data));
    let g = w.geometry;
    let value = |row: usize, col: usize| {
        let run = (row * g.padded_cols() + col) / 32 * 16;
        let byte = codes[run + col % 16];
        let code = if col % 32 < 16 { byte & 15 } else { byte >> 4 };
        f64::from(half::f16::from_f32(0.02)) * (f64::from(code) - 8.0)
    };
    let mut next = words(9);
    for _ in 0..200 {
        let (t, o) = (next() as usize % tokens, next() as usize % outputs);
        let terms = (0..inputs).map(|i| x[t * inputs + i] * value(o, i));
        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
        let found = y[t * outputs + o];
        assert!((found - sum).abs() <= size / 256.0, "y[{t}][{o}] is {found}, not {sum}");
    }
}

/// Causal attention, counted as half of the full square; backward as 2.5 times forward.
pub fn attention(table: &mut Table, ceilings: &Ceilings) {
    for (head_dim, heads) in [(64, 32), (128, 16)] {
        let (batch, queries) = (8, 2048);
        let shape = AttentionShape { batch, queries, start: 0, capacity: queries, heads, kv_heads: heads, head_dim };
        let count = batch * queries * heads * head_dim;
        let mut operands = Operands::default();
        let [q, k, v, dout] = [1, 2, 3, 4].map(|seed| operands.activations(seed, count));
        let [out, dq, dk, dv] = [(); 4].map(|()| operands.room(2 * count));
        let lse = operands.room(4 * batch * heads * queries);
        let mut cuda = operands.start(&largest(batch * queries, heads * head_dim));
        let work = 2.0 * (count * queries) as f64;
        let name = format!("{batch} x {queries}, {heads} heads of {head_dim}");
        let forward = time(&mut cuda, |cuda| cuda.attention(q, k, v, out, lse, shape));
        table.rate("attention", &name, forward, work, ceilings);
        let backward = time(&mut cuda, |cuda| cuda.attention_grad(q, k, v, Some(out), lse, dout, dq, dk, dv, shape));
        table.rate("attention, gradients", &name, backward, 2.5 * work, ceilings);
    }
}

/// Everything that moves bytes and computes little.
pub fn rows(table: &mut Table, ceilings: &Ceilings) {
    let mut operands = Operands::default();
    let [x, y, z] = [1, 2, 3].map(|seed| operands.activations(seed, T * H));
    let [gate, up, act] = [4, 5, 6].map(|seed| operands.activations(seed, T * F));
    let (gain, inv, dgain) = (operands.add(&vec![1.0f32; H]), operands.add(&vec![1.0f32; T]), operands.room(4 * H));
    let angles = operands.add(&floats(7, 2048 * 64));
    let vocab = 32_000;
    let chunk = 4096;
    let logits = operands.activations(8, chunk * vocab);
    let mut next = words(9);
    let tokens = operands.add(&(0..T).map(|_| next() % vocab as u32).collect::<Vec<_>>());
    let losses = operands.room(4 * chunk);
    let embedding = operands.weight(vocab, H, WeightKind::Bf16);
    let grad = operands.add(&vec![0.0f32; vocab * H]);
    let mut cuda = operands.start(&largest(T, vocab));
    let (th, tf) = (T * H, T * F);
    let wide = format!("{T} x {H}");
    let mut measure = |name: &str, shape: &str, bytes: usize, work: &mut dyn FnMut(&mut Cuda)| {
        let seconds = time(&mut cuda, work);
        table.bandwidth(name, shape, seconds, bytes, ceilings);
    };
    measure("rms_norm", &wide, 4 * th, &mut |cuda| cuda.rms_norm(x, gain, y, inv, 1e-6));
    measure("rms_norm, gradients", &wide, 8 * th, &mut |cuda| cuda.rms_norm_grad(x, gain, inv, y, z, dgain));
    let rotation = Rotation { heads: H / 64, head_dim: 64, queries: 2048, start: 0, inverse: false };
    measure("rope", &wide, 4 * th, &mut |cuda| cuda.rope(x, angles, rotation));
    measure("quantize_activations", &wide, 4 * th, &mut |cuda| cuda.quantize_activations(y, H));
    let wide = format!("{T} x {F}");
    measure("swiglu", &wide, 6 * tf, &mut |cuda| cuda.swiglu(gate, up, act));
    measure("swiglu, gradients", &wide, 10 * tf, &mut |cuda| cuda.swiglu_grad(gate, up, act));
    let wide = format!("{chunk} x {vocab}");
    let targets = tokens.head(4 * chunk);
    measure("cross_entropy", &wide, 2 * chunk * vocab, &mut |cuda| {
        cuda.cross_entropy(logits, targets, losses, vocab, None)
    });
    measure("cross_entropy, gradient", &wide, 4 * chunk * vocab, &mut |cuda| {
        cuda.cross_entropy(logits, targets, losses, vocab, Some(1e-4))
    });
    measure("embedding, bf16", &format!("{T} of {vocab} x {H}"), 4 * th, &mut |cuda| {
        cuda.embedding(tokens, &embedding, x)
    });
    measure("embedding, gradient", &format!("{T} into {vocab} x {H}"), 10 * th, &mut |cuda| {
        cuda.embedding_grad(tokens, x, grad, H)
    });
}

/// What sampling reads: the packed weight, once per token.
pub fn few_tokens(table: &mut Table, ceilings: &Ceilings) {
    for tokens in [1, 8] {
        let mut operands = Operands::default();
        let (x, y) = (operands.activations(1, tokens * H), operands.room(2 * tokens * F));
        // More weights than the L2 cache holds, one after the other.
        let weights: Vec<_> = (0..24).map(|_| operands.weight(F, H, WeightKind::Int4)).collect();
        let mut cuda = operands.start(&largest(tokens, F));
        let seconds = time(&mut cuda, |cuda| weights.iter().for_each(|w| cuda.linear(x, w, y, Store::Overwrite)));
        let bytes = weights.len() * (weights[0].data.bytes + weights[0].scales.bytes);
        let shape = format!("{tokens} token(s), 24 x {F} x {H}");
        table.bandwidth("linear, few tokens", &shape, seconds, bytes, ceilings);
    }
}
