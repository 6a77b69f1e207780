//! The update and products with weights at the sizes of a 1b model: their time, and their share of what the device can do.

use super::report::Table;
use super::{PADDED, Sizes};
use crate::harness::operands::{Harness, pitch, words};
use half::bf16;
use tetrad::backend::adam::{AdamArgs, state};
use tetrad::backend::cpu::Cpu;
use tetrad::backend::cuda::Cuda;
use tetrad::backend::prelude::*;
use tetrad::backend::{Accumulate, Compute, MaxShapes, Param, RowDraws, Weight};
use tetrad::memory::Span;
use tetrad::optim::{AdamStepInfo, OptimizerConfig};
use tetrad::quant::{RngKey, RngUse, WeightFormat};

/// The update of packed planes: same bytes as on the CPU first, then GB/s. Of small ones as many in turn as no cache holds.
pub fn optimizer(table: &mut Table, sizes: &Sizes) {
    let (h, f) = (sizes.hidden, sizes.intermediate);
    for (rows, cols) in [(h, h), (f, h), (h, f), (sizes.vocab, h)] {
        let mut harness = Harness::default();
        let grad = harness.random_floats(3, rows * cols);
        let count = sizes.uncached.div_ceil(grad.bytes);
        let tensors: Vec<_> = (0..count)
            .map(|i| (harness.param(rows, cols), if i == 0 { grad } else { harness.random_floats(3, rows * cols) }))
            .collect();
        let (param, grad) = &tensors[0];
        let mut cuda = harness.open(&sizes.largest(8, h));
        same_update(&harness, &mut cuda, param, *grad, &sizes.largest(8, h));
        let mut number = 3;
        let seconds = sizes.time(&mut cuda, |cuda| {
            number += 1;
            tensors.iter().for_each(|(param, grad)| cuda.adam(param, *grad, &step(number)));
        });
        let bytes = count * (grad.bytes + 2 * planes(param).iter().map(|span| span.bytes).sum::<usize>());
        let shape = format!("{count} x {rows} x {cols}");
        table.bandwidth("optimizer step, int4 weight and state", &shape, seconds, bytes);
    }
}

pub fn step(number: u64) -> AdamArgs {
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

/// Products with packed weights beside the same products with bf16 weights, which are cuBLASLt alone; those of the 1b preset's
/// odd width also at the width that would suit cuBLASLt.
pub fn products(table: &mut Table, sizes: &Sizes) {
    let (h, f) = (sizes.hidden, sizes.intermediate);
    let even = f.next_multiple_of(PADDED);
    for (outputs, inputs) in [(h, h), (f, h), (even, h), (h, f), (h, even), (sizes.vocab, h)] {
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
        let forward = [&packed, &plain].map(|w| sizes.time(&mut cuda, |cuda| cuda.linear(x, w, out_y, Accumulate::No)));
        table.product("linear", &shape, forward[0], work, forward[1]);
        let backward = [&packed, &plain]
            .map(|w| sizes.time(&mut cuda, |cuda| cuda.linear_grad_input(y, w, out_x, Accumulate::No)));
        table.product("linear, gradient of the input", &shape, backward[0], work, backward[1]);
        let weight = sizes.time(&mut cuda, |cuda| cuda.linear_grad_weight(y, x, grad, outputs, inputs, Accumulate::No));
        table.rate("linear, gradient of the weight", &shape, weight, work);
    }
}

/// Products in eight bits beside the same products with bf16 weights.
pub fn products_of_bytes(table: &mut Table, sizes: &Sizes) {
    let (h, f, tokens) = (sizes.hidden, sizes.intermediate.next_multiple_of(PADDED), sizes.tokens);
    for (outputs, inputs) in [(h, h), (f, h), (h, f)] {
        let mut harness = Harness::default();
        let (x, y) = (harness.random_rows(1, tokens, inputs), harness.unfilled_rows(tokens, outputs));
        let (dy, dx) = (harness.random_rows(2, tokens, outputs), harness.unfilled_rows(tokens, inputs));
        let grad = harness.unfilled(4 * outputs * inputs);
        let packed = harness.random_weight(outputs, inputs, WeightFormat::INT4);
        let plain = harness.random_weight(outputs, pitch(inputs), WeightFormat::BF16);
        let largest = sizes.largest(tokens, outputs.max(inputs));
        let mut cuda = harness.open(&MaxShapes { compute: Compute::Int8, ..largest });
        let shape = format!("{tokens} tokens, {outputs} x {inputs}");
        let work = 2.0 * tokens as f64 * outputs as f64 * inputs as f64;
        let floats = sizes.time(&mut cuda, |cuda| cuda.linear(x, &plain, y, Accumulate::No));
        let integers = sizes.time(&mut cuda, |cuda| cuda.linear_int8(x, &[(&packed, y)], Accumulate::No));
        table.product("linear in integers", &shape, integers, work, floats);
        let draws = |usage| RowDraws { key: RngKey { seed: 1, step: 1, tensor: 1, usage }, first_row: 0 };
        let floats = sizes.time(&mut cuda, |cuda| cuda.linear_grad_input(dy, &plain, dx, Accumulate::No));
        let of_input = draws(RngUse::GradInput);
        let integers =
            sizes.time(&mut cuda, |cuda| cuda.linear_grad_input_int8(dy, &packed, dx, Accumulate::No, &of_input));
        table.product("linear in integers, gradient of the input", &shape, integers, work, floats);
        let floats =
            sizes.time(&mut cuda, |cuda| cuda.linear_grad_weight(dy, x, grad, outputs, inputs, Accumulate::No));
        let of_weight = draws(RngUse::GradWeight);
        let integers = sizes.time(&mut cuda, |cuda| {
            let (operands, size) = ([dy, x, grad], (outputs, inputs));
            cuda.linear_grad_weight_int8(operands, size, Accumulate::No, sizes.sequences[0], &of_weight);
        });
        table.product("linear in integers, gradient of the weight", &shape, integers, work, floats);
        if cuda.check_compute(Compute::Fp8).is_ok() {
            let small = sizes.time(&mut cuda, |cuda| cuda.linear_fp8(x, &[(&packed, y)], Accumulate::No));
            table.product("linear in floats of eight bits", &shape, small, work, floats);
        }
    }
}

/// Some elements of a product against float64.
fn check_product(cuda: &Cuda, x: Span, w: &Weight, y: Span, shape: (usize, usize, usize)) {
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

/// What sampling reads: the packed weight, once per token.
pub fn small_batch(table: &mut Table, sizes: &Sizes) {
    let (h, f) = (sizes.hidden, sizes.intermediate);
    for tokens in [1, 8] {
        let mut harness = Harness::default();
        let (x, y) = (harness.random_rows(1, tokens, h), harness.unfilled_rows(tokens, f));
        // More weights than the L2 cache holds, one after the other.
        let weights: Vec<_> = (0..24).map(|_| harness.random_weight(f, h, WeightFormat::INT4)).collect();
        let mut cuda = harness.open(&sizes.largest(tokens, f));
        let seconds = sizes.time(&mut cuda, |cuda| weights.iter().for_each(|w| cuda.linear(x, w, y, Accumulate::No)));
        let bytes = weights.len() * (weights[0].data.bytes + weights[0].scales.bytes);
        let shape = format!("{tokens} token(s), 24 x {f} x {h}");
        table.bandwidth("linear, few tokens", &shape, seconds, bytes);
    }
}
