//! Every kernel at the sizes of a 1b model: its time, and its share of what the device can do.

use crate::harness::{Harness, floats, pitch, words};
use crate::report::{Ceilings, Table};
use half::bf16;
use tetrad::backend::adam::{AdamArgs, state};
use tetrad::backend::cpu::Cpu;
use tetrad::backend::cuda::Cuda;
use tetrad::backend::prelude::*;
use tetrad::backend::{
    Accumulate, ActivationCode, AttentionArgs, AttentionGradArgs, AttentionShape, Compute, MaxShapes, NormGradArgs,
    Param, Rotation,
};
use tetrad::memory::Span;
use tetrad::optim::{AdamStepInfo, OptimizerConfig};
use tetrad::quant::WeightFormat;

/// What is measured: the shapes of a model and of its batch.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Tokens of a batch, and those whose logits exist at once.
    pub tokens: usize,
    pub chunk: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub vocab: usize,
    /// Tokens of a sequence.
    pub sequence: usize,
    /// Elements of the copy and edge of the product that are the ceilings.
    pub copied: usize,
    pub edge: usize,
}

impl Sizes {
    /// The 1b preset.
    pub const FULL: Self = Self {
        tokens: 16384,
        chunk: 4096,
        hidden: 2048,
        intermediate: 5461,
        vocab: 32_000,
        sequence: 2048,
        copied: 1 << 29,
        edge: 8192,
    };
    /// Whether the program works, on a device of any speed, the emulated one included.
    pub const SMALL: Self = Self {
        tokens: 64,
        chunk: 32,
        hidden: 128,
        intermediate: 85,
        vocab: 96,
        sequence: 32,
        copied: 1 << 12,
        edge: 64,
    };

    fn largest(&self, tokens: usize, features: usize) -> MaxShapes {
        let Self { hidden, intermediate, vocab, sequence, .. } = *self;
        let inputs = intermediate.max(hidden);
        MaxShapes {
            tokens,
            features,
            inputs,
            keys: sequence,
            parameter: vocab * inputs,
            head_dim: 128,
            prefix: 0,
            compute: Compute::F32,
        }
    }
}

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

/// Copy bandwidth and cuBLASLt's rate.
pub fn ceilings(sizes: &Sizes) -> Ceilings {
    let mut harness = Harness::default();
    let (from, to) = (harness.random_activations(1, sizes.copied), harness.unfilled(2 * sizes.copied));
    let n = sizes.edge;
    let (x, w, y) = (
        harness.random_activations(2, n * n),
        harness.random_weight(n, n, WeightFormat::BF16),
        harness.unfilled(2 * n * n),
    );
    let mut cuda = harness.open(&sizes.largest(n, n));
    let copy = 2.0 * from.bytes as f64 / time(&mut cuda, |cuda| cuda.copy(from, to));
    let product = 2.0 * (n as f64).powi(3) / time(&mut cuda, |cuda| cuda.linear(x, &w, y, Accumulate::No));
    Ceilings { copy, product }
}

/// The update of packed planes: same bytes as on the CPU first, then GB/s.
pub fn optimizer(table: &mut Table, ceilings: &Ceilings, sizes: &Sizes) {
    let (h, f) = (sizes.hidden, sizes.intermediate);
    for (rows, cols) in [(h, h), (f, h), (h, f), (sizes.vocab, h)] {
        let mut harness = Harness::default();
        let param = harness.param(rows, cols);
        let grad = harness.add(&floats(3, rows * cols));
        let mut cuda = harness.open(&sizes.largest(8, h));
        same_update(&harness, &mut cuda, &param, grad, &sizes.largest(8, h));
        let mut number = 3;
        let seconds = time(&mut cuda, |cuda| {
            number += 1;
            cuda.adam(&param, grad, &step(number));
        });
        let bytes = grad.bytes + 2 * planes(&param).iter().map(|span| span.bytes).sum::<usize>();
        table.bandwidth("optimizer step, int4 weight and state", &format!("{rows} x {cols}"), seconds, bytes, ceilings);
    }
}

fn step(number: u64) -> AdamArgs {
    AdamStepInfo::new(&OptimizerConfig::default(), number, 1e-3, false, 1).args(true)
}

/// Weight, moments and their scales.
fn planes(param: &Param) -> Vec<Span> {
    let moments = param.state.tensors().filter(|tensor| tensor.spec.name != state::SCALARS);
    let planes = param.weight.planes().into_iter().chain(moments.flat_map(|tensor| [tensor.data, tensor.scales]));
    planes.filter(|span| !span.is_none()).collect()
}

fn same_update(harness: &Harness, cuda: &mut Cuda, param: &Param, grad: Span, largest: &MaxShapes) {
    let mut cpu = Cpu::new();
    harness.start(&mut cpu, largest);
    for number in 1..=3 {
        cuda.adam(param, grad, &step(number));
        cpu.adam(param, grad, &step(number));
    }
    assert_eq!(cpu.update_stats(), cuda.update_stats(), "counts of the updates");
    for span in planes(param) {
        let [mut a, mut b] = [vec![0u8; span.bytes], vec![1u8; span.bytes]];
        cpu.download(span, &mut a);
        cuda.download(span, &mut b);
        assert!(a == b, "the update differs from the CPU's");
    }
}

/// Products with packed weights beside the same products with bf16 weights, which are cuBLASLt alone.
pub fn products(table: &mut Table, ceilings: &Ceilings, sizes: &Sizes) {
    let (h, f) = (sizes.hidden, sizes.intermediate);
    for (outputs, inputs) in [(h, h), (f, h), (h, f), (sizes.vocab, h)] {
        // The head's logits exist for a chunk of tokens only.
        let tokens = if outputs == sizes.vocab { sizes.chunk } else { sizes.tokens };
        let mut harness = Harness::default();
        let (x, y) = (harness.random_rows(1, tokens, inputs), harness.random_rows(2, tokens, outputs));
        let (out_y, out_x) = (harness.unfilled_rows(tokens, outputs), harness.unfilled_rows(tokens, inputs));
        let grad = harness.unfilled(4 * outputs * inputs);
        let packed = harness.random_weight(outputs, inputs, WeightFormat::INT4);
        // Rows that cuBLASLt reads where they lie: as long as the activations' are.
        let plain = harness.random_weight(outputs, pitch(inputs), WeightFormat::BF16);
        let mut cuda = harness.open(&sizes.largest(tokens, outputs.max(inputs)));
        let shape = format!("{tokens} tokens, {outputs} x {inputs}");
        let work = 2.0 * tokens as f64 * outputs as f64 * inputs as f64;
        cuda.linear(x, &packed, out_y, Accumulate::No);
        check_product(&cuda, x, &packed, out_y, (tokens, outputs, inputs));
        let forward = [&packed, &plain].map(|w| time(&mut cuda, |cuda| cuda.linear(x, w, out_y, Accumulate::No)));
        table.product("linear", &shape, forward[0], work, forward[1], ceilings);
        let backward =
            [&packed, &plain].map(|w| time(&mut cuda, |cuda| cuda.linear_grad_input(y, w, out_x, Accumulate::No)));
        table.product("linear, gradient of the input", &shape, backward[0], work, backward[1], ceilings);
        let weight = time(&mut cuda, |cuda| cuda.linear_grad_weight(y, x, grad, outputs, inputs, Accumulate::No));
        table.product("linear, gradient of the weight", &shape, weight, work, weight, ceilings);
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
    let g = w.shape;
    let value = |row: usize, col: usize| {
        let run = (row * g.padded_cols() + col) / 32 * 16;
        let byte = codes[run + col % 16];
        let code = if col % 32 < 16 { byte & 15 } else { byte >> 4 };
        f64::from(half::f16::from_f32(0.02)) * (f64::from(code) - 8.0)
    };
    let places: Vec<usize> = words(9, 400).map(|word| word as usize).collect();
    for place in places.chunks_exact(2) {
        let (t, o) = (place[0] % tokens, place[1] % outputs);
        let terms = (0..inputs).map(|i| x[t * pitch(inputs) + i] * value(o, i));
        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
        let found = y[t * pitch(outputs) + o];
        assert!((found - sum).abs() <= size / 256.0, "y[{t}][{o}] is {found}, not {sum}");
    }
}

/// Causal attention, counted as half of the full square; backward as 2.5 times forward.
pub fn attention(table: &mut Table, ceilings: &Ceilings, sizes: &Sizes) {
    let (queries, batch) = (sizes.sequence, sizes.tokens / sizes.sequence);
    for head_dim in [64, 128] {
        let heads = sizes.hidden / head_dim;
        let shape = AttentionShape { batch, queries, start: 0, capacity: queries, heads, kv_heads: heads, head_dim };
        let count = batch * queries * heads * head_dim;
        let mut harness = Harness::default();
        let [q, k, v, dout] = [1, 2, 3, 4].map(|seed| harness.random_activations(seed, count));
        let [out, dq, dk, dv] = [(); 4].map(|()| harness.unfilled(2 * count));
        let lse = harness.unfilled(4 * batch * heads * queries);
        let mut cuda = harness.open(&sizes.largest(batch * queries, heads * head_dim));
        let work = 2.0 * (count * queries) as f64;
        let name = format!("{batch} x {queries}, {heads} heads of {head_dim}");
        let segment_start = None;
        let args = AttentionArgs { q, k, v, out, lse, segment_start, shape };
        let forward = time(&mut cuda, |cuda| cuda.attention(&args));
        table.rate("attention", &name, forward, work, ceilings);
        let args =
            AttentionGradArgs { q, k, v, out: Some(out), lse, dout, dq, dk, dv, delta: None, segment_start, shape };
        let backward = time(&mut cuda, |cuda| cuda.attention_grad(&args));
        table.rate("attention, gradients", &name, backward, 2.5 * work, ceilings);
    }
}

/// Everything that moves bytes and computes little.
pub fn rows(table: &mut Table, ceilings: &Ceilings, sizes: &Sizes) {
    let mut harness = Harness::default();
    let Sizes { tokens: t, chunk, hidden: h, intermediate: f, vocab, sequence, .. } = *sizes;
    let [x, y, z] = [1, 2, 3].map(|seed| harness.random_rows(seed, t, h));
    let [gate, up, act] = [4, 5, 6].map(|seed| harness.random_rows(seed, t, f));
    let (gain, inv, dgain) = (harness.add(&vec![1.0f32; h]), harness.add(&vec![1.0f32; t]), harness.unfilled(4 * h));
    let angles = harness.add(&floats(7, sequence * 64));
    let logits = harness.random_rows(8, chunk, vocab);
    let tokens = harness.add(&words(9, t).map(|word| word % vocab as u32).collect::<Vec<_>>());
    let losses = harness.unfilled(4 * chunk);
    let embedding = harness.random_weight(vocab, h, WeightFormat::BF16);
    let grad = harness.add(&vec![0.0f32; vocab * h]);
    let mut cuda = harness.open(&sizes.largest(t, vocab));
    let (th, tf) = (t * h, t * f);
    let wide = format!("{t} x {h}");
    let mut measure = |name: &str, shape: &str, bytes: usize, work: &mut dyn FnMut(&mut Cuda)| {
        let seconds = time(&mut cuda, work);
        table.bandwidth(name, shape, seconds, bytes, ceilings);
    };
    measure("rms_norm", &wide, 4 * th, &mut |cuda| cuda.rms_norm(x, gain, y, inv, 1e-6));
    measure("rms_norm, gradients", &wide, 8 * th, &mut |cuda| {
        let accumulate = Accumulate::No;
        cuda.rms_norm_grad(&NormGradArgs { x, gain, inv_rms: inv, dout: y, dx: z, dgain, accumulate })
    });
    let rotation = Rotation { heads: h / 64, head_dim: 64, queries: sequence, start: 0, inverse: false };
    measure("rope", &wide, 4 * th, &mut |cuda| cuda.rope(x, angles, rotation, None));
    measure("quantize_activations", &wide, 4 * th, &mut |cuda| {
        cuda.quantize_activations(y, h, 1, ActivationCode::Int4)
    });
    let wide = format!("{t} x {f}");
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
    measure("embedding, bf16", &format!("{t} of {vocab} x {h}"), 4 * th, &mut |cuda| {
        cuda.embedding(tokens, &embedding, x)
    });
    measure("embedding, gradient", &format!("{t} into {vocab} x {h}"), 10 * th, &mut |cuda| {
        cuda.embedding_grad(tokens, x, grad, h)
    });
}

/// What sampling reads: the packed weight, once per token.
pub fn small_batch(table: &mut Table, ceilings: &Ceilings, sizes: &Sizes) {
    let (h, f) = (sizes.hidden, sizes.intermediate);
    for tokens in [1, 8] {
        let mut harness = Harness::default();
        let (x, y) = (harness.random_rows(1, tokens, h), harness.unfilled_rows(tokens, f));
        // More weights than the L2 cache holds, one after the other.
        let weights: Vec<_> = (0..24).map(|_| harness.random_weight(f, h, WeightFormat::INT4)).collect();
        let mut cuda = harness.open(&sizes.largest(tokens, f));
        let seconds = time(&mut cuda, |cuda| weights.iter().for_each(|w| cuda.linear(x, w, y, Accumulate::No)));
        let bytes = weights.len() * (weights[0].data.bytes + weights[0].scales.bytes);
        let shape = format!("{tokens} token(s), 24 x {f} x {h}");
        table.bandwidth("linear, few tokens", &shape, seconds, bytes, ceilings);
    }
}
