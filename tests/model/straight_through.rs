//! Four-bit activations: products see the quantized input, gradients pass through the rounding as if it were not there.

use crate::harness::state::floats;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::{Backend, Param};
use tetrad::config::Config;
use tetrad::memory::Span;
use tetrad::model::{ActivationQuant, Batch, TableStorage, Weights};
use tetrad::train::Trainer;
use zerocopy::IntoBytes;

const TOKENS: usize = 24;
const HIDDEN: usize = 32;
/// More than one group of 256, the last one short.
const INTERMEDIATE: usize = 300;

fn config() -> Config {
    let mut config = Config::default();
    let model = &mut config.model;
    (model.hidden, model.intermediate, model.layers, model.heads, model.kv_heads) = (HIDDEN, INTERMEDIATE, 1, 2, 1);
    model.init_std = 0.2;
    (config.train.batch, config.train.sequence) = (1, TOKENS);
    // Float weights, so that the products below have nothing but the activations' rounding in them.
    config.storage.weights = Weights::F32;
    (config.storage.embedding, config.storage.head) = (TableStorage::F32, TableStorage::F32);
    config.activations.quant = ActivationQuant::Int4Rows;
    config
}

/// As the published code quantizes activations: groups of 256, the two largest kept exactly, the rest on a grid of
/// absmax / 7.
fn quantized(row: &[f32]) -> Vec<f32> {
    row.chunks(256)
        .flat_map(|group| {
            let mut order: Vec<usize> = (0..group.len()).collect();
            order.sort_by(|&a, &b| group[b].abs().total_cmp(&group[a].abs()));
            let scale = group[order[2]].abs() / 7.0;
            let round = |i: usize| if order[..2].contains(&i) { group[i] } else { (group[i] / scale).round() * scale };
            (0..group.len()).map(round).collect::<Vec<_>>()
        })
        .collect()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Element by element; float32 sums of at most 300 products of about 1.
fn assert_near(found: &[f32], wanted: &[f64], what: &str) {
    assert_eq!(found.len(), wanted.len());
    let most = wanted.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    assert!(most > 1e-4, "{what}: nothing to compare");
    for (i, (&x, &y)) in found.iter().zip(wanted).enumerate() {
        assert!((f64::from(x) - y).abs() <= 1e-4 * most, "{what}[{i}]: {x}, not {y}");
    }
}

/// What the block's buffers held when a gradient arrived.
#[derive(Default)]
struct Seen {
    down: Vec<f32>,
    dx: Vec<f32>,
    dgate: Vec<f32>,
    dup: Vec<f32>,
}

#[test]
fn the_gradient_is_that_of_the_product_with_the_quantized_input() {
    let mut trainer = Trainer::new(&config(), Box::new(Cpu::new())).unwrap();
    trainer.initialize();
    let (model, batch) = (trainer.model().clone(), Batch::whole(1, TOKENS));
    let tokens: Vec<u32> = (0..TOKENS as u32).map(|i| (i * i * 7 + 3) % 256).collect();
    trainer.backend_mut().upload(tokens.as_bytes(), model.acts.inputs);
    trainer.backend_mut().upload(tokens.as_bytes(), model.acts.targets);
    model.forward(trainer.backend_mut(), batch);
    let (mlp, acts) = (model.params.blocks[0].mlp.clone(), model.acts.blocks[0]);
    let [gate, up, act] = [acts.gate, acts.up, acts.act].map(|span| floats(&trainer, span));
    let weight = floats(&trainer, mlp.down.weight.weight.data);

    // Forward: what the product read is the rounded silu(gate) up.
    let exact: Vec<f32> = gate.iter().zip(&up).map(|(&g, &u)| silu(g.into()) as f32 * u).collect();
    let wanted: Vec<f64> = exact.chunks(INTERMEDIATE).flat_map(quantized).map(f64::from).collect();
    let off_grid = act.iter().zip(&wanted).filter(|(x, y)| (f64::from(**x) - **y).abs() > 1e-5).count();
    // A value on the edge between two grid points may fall either way: exp is rounded differently here.
    assert!(off_grid <= 2, "{off_grid} of {} activations are not on the grid", act.len());
    assert!(act.iter().zip(&exact).filter(|(x, y)| (*x - *y).abs() > 1e-6).count() > act.len() / 2, "nothing rounded");

    // Backward: the buffers of the block at the moment that the gradients of down, then of gate, are complete.
    let mut seen = Seen::default();
    let fetch = |backend: &dyn Backend, span: Span| {
        let mut values = vec![0f32; span.bytes / 4];
        backend.download(span, values.as_mut_bytes());
        values
    };
    model.loss_and_head_grad(trainer.backend_mut(), batch, 1.0 / TOKENS as f32);
    model.backward(
        trainer.backend_mut(),
        batch,
        1.0 / TOKENS as f32,
        &mut |backend: &mut dyn Backend, param: &Param, grad: Span| {
            if param.id == mlp.down.weight.id {
                (seen.down, seen.dx) = (fetch(backend, grad), fetch(backend, model.acts.grads.dx));
            } else if param.id == mlp.gate.weight.id {
                (seen.dgate, seen.dup) = (fetch(backend, acts.gate), fetch(backend, acts.up));
            }
        },
    );
    let at = |values: &[f32], width: usize, row: usize, col: usize| f64::from(values[row * width + col]);
    let product = |o: usize, i: usize| {
        (0..TOKENS).map(|t| at(&seen.dx, HIDDEN, t, o) * at(&act, INTERMEDIATE, t, i)).sum::<f64>()
    };
    let dw: Vec<f64> = (0..HIDDEN * INTERMEDIATE).map(|k| product(k / INTERMEDIATE, k % INTERMEDIATE)).collect();
    assert_near(&seen.down, &dw, "gradient of down");

    // Straight through: d silu(gate) up is dx W, without a factor or a mask from the rounding.
    let dact = |t: usize, i: usize| {
        (0..HIDDEN).map(|o| at(&seen.dx, HIDDEN, t, o) * at(&weight, INTERMEDIATE, o, i)).sum::<f64>()
    };
    let cells = || (0..TOKENS * INTERMEDIATE).map(|k| (k / INTERMEDIATE, k % INTERMEDIATE));
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let dgate: Vec<f64> = cells()
        .map(|(t, i)| {
            let (g, u) = (at(&gate, INTERMEDIATE, t, i), at(&up, INTERMEDIATE, t, i));
            dact(t, i) * u * sigmoid(g) * (1.0 + g * (1.0 - sigmoid(g)))
        })
        .collect();
    let dup: Vec<f64> = cells().map(|(t, i)| dact(t, i) * silu(at(&gate, INTERMEDIATE, t, i))).collect();
    assert_near(&seen.dgate, &dgate, "gradient of gate");
    assert_near(&seen.dup, &dup, "gradient of up");
}
