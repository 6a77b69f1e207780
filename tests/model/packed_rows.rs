//! Samples packed into rows are what they are apart: the same loss of every token, and the same gradients in sum.

use crate::harness::gpu;
use crate::harness::operands::{BF16, assert_near, read_floats};
use crate::harness::small::config;
use std::collections::HashMap;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::{Backend, IGNORE, Param};
use tetrad::config::Config;
use tetrad::memory::Span;
use tetrad::model::{ActivationCheckpointing, ActivationQuant, Batch};
use tetrad::train::Trainer;

/// Lengths of the samples of each row: more than one block of queries, samples of one token, a row of one sample.
const ROWS: [&[usize]; 3] = [&[20, 1, 50, 2, 27], &[100], &[1, 60, 1, 38]];
const SEQUENCE: usize = 100;
const SCALE: f32 = 1.0 / 64.0;

/// Losses of all tokens, and the gradient of each parameter by its number.
struct Found {
    losses: Vec<f64>,
    grads: HashMap<u32, Vec<f64>>,
}

/// One pass forward and backward; no parameter changes.
fn pass(trainer: &mut Trainer, rows: usize, inputs: &[u32], targets: &[u32], first: &[u32]) -> Found {
    let model = trainer.model().clone();
    let backend = trainer.backend_mut();
    let pass = Batch::whole(rows, inputs.len() / rows);
    model.upload_tokens(backend, inputs, targets);
    model.upload_segments(backend, first);
    model.forward(backend, pass);
    model.loss_and_head_grad(backend, pass, SCALE);
    let losses = read_floats(backend, model.acts.losses.head(4 * inputs.len()));
    let mut grads = HashMap::new();
    model.backward(backend, pass, SCALE, &mut |backend: &mut dyn Backend, param: &Param, grad: Span| {
        assert!(grads.insert(param.id, read_floats(backend, grad)).is_none(), "one gradient per parameter");
    });
    Found { losses, grads }
}

fn trainer(config: &Config, backend: Box<dyn Backend>, packed: bool) -> Trainer {
    let mut config = config.clone();
    (config.data.shares_rows, config.train.batch, config.train.sequence) = (packed, ROWS.len(), SEQUENCE);
    crate::harness::small::trainer(&config, backend)
}

/// Packed rows, some targets of which do not count, beside their samples apart in a model that knows of no samples.
fn both(config: &Config, backend: impl Fn() -> Box<dyn Backend>) -> [Found; 2] {
    let inputs: Vec<u32> = (0..(ROWS.len() * SEQUENCE) as u32).map(|i| (i * i + 7 * i) % 251).collect();
    let targets: Vec<u32> = inputs.iter().map(|x| if x % 5 == 0 { IGNORE } else { (x * 3 + 1) % 256 }).collect();
    let mut first = Vec::new();
    for lengths in ROWS {
        let mut at = 0;
        for length in lengths {
            first.extend(vec![at as u32; *length]);
            at += length;
        }
    }
    let packed = pass(&mut trainer(config, backend(), true), ROWS.len(), &inputs, &targets, &first);
    let mut alone = trainer(config, backend(), false);
    let mut sum = Found { losses: Vec::new(), grads: HashMap::new() };
    for length in ROWS.concat() {
        let from = sum.losses.len();
        let found = pass(&mut alone, 1, &inputs[from..][..length], &targets[from..][..length], &[]);
        sum.losses.extend(found.losses);
        for (id, grad) in found.grads {
            let total = sum.grads.entry(id).or_insert_with(|| vec![0.0; grad.len()]);
            total.iter_mut().zip(grad).for_each(|(total, x)| *total += x);
        }
    }
    [packed, sum]
}

fn norm(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum::<f64>().sqrt()
}

/// Losses within `loss`, relative; gradients within `gradient` of their norm.
fn compare([packed, apart]: &[Found; 2], loss: f64, gradient: f64, what: &str) {
    assert_near(&packed.losses, &apart.losses, 1e-6, loss, &format!("losses, {what}"));
    assert!(packed.losses.iter().filter(|&&x| x == 0.0).count() > 10, "some targets do not count");
    assert_eq!(packed.grads.len(), apart.grads.len());
    for (id, grad) in &packed.grads {
        let error = norm(grad.iter().zip(&apart.grads[id]).map(|(x, y)| x - y));
        let size = norm(apart.grads[id].iter().copied());
        assert!(size > 0.0 && error <= gradient * size, "parameter {id}, {what}: {error} of {size}");
    }
}

#[test]
fn on_the_cpu_packed_samples_are_what_they_are_apart() {
    for kept in [ActivationCheckpointing::None, ActivationCheckpointing::Block] {
        let mut config = config();
        config.run.activation_checkpointing = kept;
        compare(&both(&config, || Box::new(Cpu::new())), 1e-5, 1e-5, &format!("{kept:?}"));
    }
}

#[test]
fn four_bit_activations_and_normed_heads_do_not_mix_samples() {
    let mut config = config();
    config.activations.quant = ActivationQuant::Int4Rows;
    config.model.qk_norm = true;
    // A rounding of four bits may fall the other way where sums differ in their last bit.
    compare(&both(&config, || Box::new(Cpu::new())), 0.02, 0.02, "four-bit activations");
}

/// Activations are bfloat16 there; sums over rows are rounded at other places.
#[test]
fn on_the_gpu_packed_samples_are_what_they_are_apart() {
    let mut config = config();
    config.model.layers = 1;
    compare(&both(&config, || Box::new(gpu::open())), 4.0 * BF16, 4.0 * BF16, "emulated");
}

/// The comparison above would show it: without the beginnings, all tokens but a row's first sample are others.
#[test]
fn samples_that_see_each_other_have_other_losses() {
    let config = config();
    let [packed, _] = both(&config, || Box::new(Cpu::new()));
    let inputs: Vec<u32> = (0..(ROWS.len() * SEQUENCE) as u32).map(|i| (i * i + 7 * i) % 251).collect();
    let targets: Vec<u32> = inputs.iter().map(|x| if x % 5 == 0 { IGNORE } else { (x * 3 + 1) % 256 }).collect();
    let joined = pass(&mut trainer(&config, Box::new(Cpu::new()), true), ROWS.len(), &inputs, &targets, &[]);
    assert_eq!(packed.losses[..20], joined.losses[..20]);
    assert_eq!(packed.losses[100..200], joined.losses[100..200]);
    let differ = |range: std::ops::Range<usize>| {
        range.filter(|&i| packed.losses[i] != 0.0).all(|i| packed.losses[i] != joined.losses[i])
    };
    assert!(differ(22..100) && differ(202..300));
}
