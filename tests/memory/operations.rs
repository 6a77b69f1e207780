//! Once a backend has its memory, no operation allocates: counted by the allocator itself, on all threads.

use crate::alone;
use crate::counting::allocations;
use crate::harness::operands::{Harness, floats, int4};
use tetrad::backend::cpu::Cpu;
use tetrad::backend::prelude::*;
use tetrad::backend::{
    Accumulate, ActivationCode, AttentionArgs, AttentionGradArgs, AttentionShape, Compute, Layout, MatMulArgs,
    MaxShapes, NormGradArgs, Precision, Rotation, RowDraws, Weight,
};
use tetrad::memory::Span;
use tetrad::quant::{RngKey, RngUse};

/// Tokens, width, wider, heads.
const T: usize = 300;
const H: usize = 96;
const F: usize = 264;
const HEADS: usize = 3;

struct Spans {
    narrow: [Span; 7],
    wide: [Span; 3],
    few: [Span; 2],
    table: Weight,
    w: Weight,
    angles: Span,
    gain: Span,
    inv_rms: Span,
    dgain: Span,
    lse: Span,
    tokens: Span,
    losses: Span,
    grad: Span,
}

fn spans(harness: &mut Harness) -> Spans {
    Spans {
        narrow: std::array::from_fn(|i| harness.add(&floats(i as u64, T * H))),
        wide: std::array::from_fn(|i| harness.add(&floats(i as u64, T * F))),
        few: [harness.add(&floats(1, 2 * H)), harness.out(2 * F)],
        table: harness.weight(&int4(F, H, 64)),
        w: harness.weight(&int4(F, H, 32)),
        angles: harness.add(&floats(1, T * H / HEADS)),
        gain: harness.add(&floats(2, H)),
        inv_rms: harness.out(T),
        dgain: harness.out(H),
        lse: harness.out(T * HEADS),
        tokens: harness.add(&(0..T as u32).map(|i| i * 7 % F as u32).collect::<Vec<_>>()),
        losses: harness.out(T),
        grad: harness.out(F * H),
    }
}

/// Every operation but the update, which needs a parameter's state.
fn everything(cpu: &mut Cpu, s: &Spans) {
    let [x, y, z, a, b, c, d] = s.narrow;
    let [gate, up, out] = s.wide;
    let head_dim = H / HEADS;
    let shape =
        AttentionShape { batch: 2, queries: T / 2, start: 0, capacity: T / 2, heads: HEADS, kv_heads: HEADS, head_dim };
    let rotation = Rotation { heads: HEADS, head_dim, queries: T / 2, start: 0, inverse: false };
    cpu.embedding(s.tokens, &s.table, x);
    cpu.rms_norm(x, s.gain, y, s.inv_rms, 1e-6);
    cpu.rope(y, s.angles, rotation, None);
    let (lse, segment_start) = (s.lse, None);
    cpu.attention(&AttentionArgs { q: y, k: z, v: a, out: b, lse, segment_start, shape });
    let (q, k, v, out_of_it, dout) = (y, z, a, None, b);
    cpu.attention_grad(&AttentionGradArgs {
        q,
        k,
        v,
        out: out_of_it,
        lse,
        dout,
        dq: x,
        dk: c,
        dv: d,
        delta: None,
        rotated_by: None,
        segment_start,
        shape,
    });
    ActivationCode::ALL.into_iter().for_each(|code| cpu.quantize_activations(y, H, T / 2, code));
    cpu.linear(y, &s.w, gate, Accumulate::No);
    cpu.linear_int8(y, &[(&s.w, gate)], Accumulate::No);
    cpu.linear(s.few[0], &s.w, s.few[1], Accumulate::No);
    cpu.linear_int8(s.few[0], &[(&s.w, s.few[1])], Accumulate::No);
    cpu.linear(y, &s.w, up, Accumulate::No);
    cpu.swiglu(gate, up, out);
    cpu.linear_grad_input(out, &s.w, z, Accumulate::Yes);
    cpu.linear_grad_weight(out, y, s.grad, F, H, Accumulate::No);
    let key = RngKey { seed: 1, step: 2, tensor: 3, usage: RngUse::GradInput };
    let draws = RowDraws { key, first_row: 4 };
    cpu.linear_grad_input_int8(out, &s.w, z, Accumulate::Yes, &draws);
    cpu.linear_grad_weight_int8([out, y, s.grad], (F, H), Accumulate::No, T / 2, &draws);
    cpu.swiglu_grad(gate, up, out);
    cpu.rms_norm_grad(&NormGradArgs {
        x,
        gain: s.gain,
        inv_rms: s.inv_rms,
        dout: z,
        dx: a,
        dgain: s.dgain,
        accumulate: Accumulate::No,
    });
    cpu.cross_entropy(out, s.tokens, s.losses, F, Some(1.0));
    cpu.embedding_grad(s.tokens, x, s.grad, H);
    let (a, b) = ((gate, Layout::Transposed), (y, Layout::Plain));
    let (rows, inner, cols, alpha, beta, precision) = (F, T, H, 0.5, 0.5, Precision::F32);
    cpu.matmul(&MatMulArgs { a, b, out: s.grad, rows, inner, cols, alpha, beta, precision });
    cpu.scale(s.grad, 0.5, precision);
    cpu.unit_norm(s.grad, 1e-7, precision);
    cpu.copy(x, y);
    cpu.zero(s.grad);
}

#[test]
fn no_operation_allocates_once_the_backend_has_its_memory() {
    alone("operations::no_operation_allocates_once_the_backend_has_its_memory", count);
}

fn count() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    pool.install(|| {
        let mut harness = Harness::default();
        let spans = spans(&mut harness);
        let largest = MaxShapes {
            tokens: T,
            features: F,
            inputs: F,
            keys: T / 2,
            parameter: F * H,
            head_dim: H / HEADS,
            prefix: 0,
            compute: Compute::Int8,
        };
        let mut cpu = Cpu::new();
        harness.start(&mut cpu, &largest);
        // The pool's own queues reach their size.
        (0..20).for_each(|_| everything(&mut cpu, &spans));
        assert!(allocations(|| drop(std::hint::black_box(vec![1u8; 100]))) > 0, "the counter counts");
        assert_eq!(allocations(|| (0..20).for_each(|_| everything(&mut cpu, &spans))), 0);
    });
}
