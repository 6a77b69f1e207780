//! The recorded four-bit numbers of the published code (arXiv 2502.17055), on any backend.

use super::Golden;
use super::operands::{Harness, read};
use half::bf16;
use tetrad::backend::ops::reference::Planes;
use tetrad::backend::{Accumulate, ActivationCode, Backend, Compute, MaxShapes};
use tetrad::memory::Span;
use tetrad::quant::{GroupedShape, Simulation, WeightFormat};
use zerocopy::IntoBytes;

const MAX: MaxShapes = MaxShapes {
    tokens: 256,
    features: 256,
    inputs: 256,
    keys: 1,
    parameter: 1 << 10,
    head_dim: 32,
    prefix: 0,
    compute: Compute::F32,
};

/// What was recorded: kinds of numbers with their rows and columns.
fn kinds(golden: &Golden, input: &str) -> Vec<(String, usize, usize)> {
    let of_key = |key: &String| key.strip_suffix(input).map(str::to_owned);
    let mut kinds: Vec<_> = golden.tensors.keys().filter_map(of_key).collect();
    kinds.sort();
    kinds
        .into_iter()
        .map(|kind| (golden.tensors[&format!("{kind}{input}")].0.clone(), kind))
        .map(|(shape, kind)| (kind, shape[0], shape[1]))
        .collect()
}

/// Rows of activations as the backend has them.
fn activations(harness: &mut Harness, narrow: bool, x: &[f32], width: usize) -> Span {
    if narrow { harness.activations(x, width) } else { harness.add(x) }
}

/// Rows of activations as float32, whose bits count.
fn rows(backend: &dyn Backend, span: Span, width: usize) -> Vec<f32> {
    match backend.activation_bytes() {
        2 => {
            let rows = super::operands::read_rows(backend, span, width);
            rows.into_iter().map(|bits| bf16::from_bits(bits).to_f32()).collect()
        }
        _ => read(backend, span),
    }
}

/// Weights as products see them: those of a matrix of ones on the diagonal are the weights, rounded to the type of
/// activations.
pub fn check_weights(open: &dyn Fn() -> Box<dyn Backend>) {
    let mut compared = 0;
    for (file, simulation) in
        [("int4_weight_reference", Simulation::Int4 { offsets: true }), ("fp4_e1m2_reference", Simulation::Fp4)]
    {
        let golden = Golden::load(file);
        for (kind, outputs, inputs) in kinds(&golden, ".in") {
            let mut backend = open();
            let narrow = backend.activation_bytes() == 2;
            let planes = Planes {
                shape: GroupedShape::new(outputs, inputs, 256),
                format: WeightFormat::simulated(simulation),
                data: golden.floats(&format!("{kind}.in")).as_bytes().to_vec(),
                scales: Vec::new(),
                offsets: Vec::new(),
            };
            let diagonal: Vec<f32> = (0..inputs * inputs).map(|i| f32::from(u8::from(i % (inputs + 1) == 0))).collect();
            let mut harness = Harness::default();
            let x = activations(&mut harness, narrow, &diagonal, inputs);
            let y = activations(&mut harness, narrow, &vec![f32::NAN; inputs * outputs], outputs);
            let w = harness.weight(&planes);
            harness.start(backend.as_mut(), &MAX);
            backend.linear(x, &w, y, Accumulate::No);
            let found = rows(backend.as_ref(), y, outputs);
            let wanted = golden.floats(&format!("{kind}.out"));
            for (i, &out) in wanted.iter().enumerate() {
                let out = if narrow { bf16::from_f32(out).to_f32() } else { out };
                let x = found[i % inputs * outputs + i / inputs];
                assert!(x == out, "{file}, {kind}[{i}]: {x}, recorded {out}");
                if !narrow && simulation != Simulation::Fp4 {
                    let recorded = |name: &str, i: usize| golden.floats(&format!("{kind}.{name}"))[i];
                    let code = (x / recorded("scale", i / 256)).round() + recorded("zero", i / 256);
                    assert_eq!(code, recorded("code", i), "{kind}[{i}]: code");
                }
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 24);
}

/// Activations to the last bit: recorded in float32 and in bfloat16.
pub fn check_activations(open: &dyn Fn() -> Box<dyn Backend>) {
    for (file, code) in
        [("int4_activation_reference", ActivationCode::Int4), ("fp4_e1m2_reference", ActivationCode::Fp4)]
    {
        let golden = Golden::load(file);
        let mut backend = open();
        let narrow = backend.activation_bytes() == 2;
        let (input, output) = if narrow { (".bf16_in", ".bf16_out") } else { (".in", ".out") };
        let kinds = kinds(&golden, input);
        assert_eq!(kinds.len(), if narrow { 4 } else { 12 });
        for (kind, sequence, features) in kinds {
            let mut harness = Harness::default();
            let x = golden.floats(&format!("{kind}{input}"));
            let at = activations(&mut harness, narrow, &x, features);
            harness.start(backend.as_mut(), &MAX);
            backend.quantize_activations(at, features, sequence, code);
            let found = rows(backend.as_ref(), at, features);
            let wanted = golden.floats(&format!("{kind}{output}"));
            for (i, (x, y)) in found.iter().zip(&wanted).enumerate() {
                assert!(x.to_bits() == y.to_bits(), "{file}, {kind}{output}[{i}]: {x:e}, recorded {y:e}");
                let recorded = |name: &str, i: usize| golden.floats(&format!("{kind}.{name}"))[i];
                let kept = |i: usize| (0..2).any(|k| recorded("top", i / 256 * 2 + k) as usize == i % 256);
                if !narrow && code == ActivationCode::Int4 && !kept(i) {
                    let number = (x * 7.0 / recorded("scale", i / 256)).round();
                    assert_eq!(number, recorded("code", i), "{kind}[{i}]: code");
                }
            }
        }
    }
}
