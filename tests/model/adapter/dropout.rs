//! Dropout of an adapter's inputs: the same inputs are left out in forward and in backward, others in the next step, none
//! outside of training.

use crate::harness::adapter::{RecordedAdapter, recorded, recorded_lora};
use tetrad::backend::cpu::Cpu;
use tetrad::backend::{Backend, Param};
use tetrad::memory::Span;
use tetrad::model::{AdapterConfig, AdapterScale, Batch, ParamKind, fill};
use tetrad::train::Trainer;
use zerocopy::IntoBytes;

/// The sum of the losses of a batch, in nats.
fn loss(run: &RecordedAdapter, trainer: &mut Trainer, batch: Batch) -> f64 {
    let (model, backend) = trainer.model_and_backend();
    model.upload_tokens(backend, &run.base.inputs, &run.base.targets);
    model.forward(backend, batch);
    model.losses(backend, batch);
    model.sum_losses(backend, &mut vec![0.0; batch.tokens()])
}

/// A direction for the tensor of this number: numbers from -1 to 1.
fn direction(id: u32, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + id as usize * 31) % 17) as f32 / 8.0 - 1.0).collect()
}

/// Puts the adapter `by` along its direction away from the recorded values.
fn walk(run: &RecordedAdapter, trainer: &mut Trainer, by: f32) {
    let (model, backend) = trainer.model_and_backend();
    for (spec, param) in model.specs.iter().zip(&model.stored) {
        let Some(values) = recorded(&run.golden, "", spec.kind) else { continue };
        let (cols, way) = (spec.shape.cols, direction(spec.id, values.len()));
        let moved = |row: usize, out: &mut [f32]| {
            let at = |i: usize| values[row * cols + i] + by * way[row * cols + i];
            out.iter_mut().enumerate().for_each(|(i, x)| *x = at(i));
        };
        fill(backend, &param.weight, &mut |row, out| moved(row, out));
    }
}

#[test]
fn gradients_are_slopes_of_the_loss_with_the_same_inputs_left_out() {
    for (name, group) in [("lora", false), ("lora_group", true)] {
        let adapter = AdapterConfig { dropout: 0.25, group, ..recorded_lora(&["all"], AdapterScale::AlphaOverRank) };
        let run = RecordedAdapter::load(name, adapter);
        let mut trainer = run.trainer(Box::new(Cpu::new()), &run.golden);
        let (rows, length) = (run.config.train.batch, run.config.train.sequence);
        let [whole, step, next] =
            [Batch::whole(rows, length), Batch::step(rows, length, 1), Batch::step(rows, length, 2)];
        let losses = [whole, step, next, step].map(|batch| loss(&run, &mut trainer, batch));
        assert!(losses[0] != losses[1] && losses[1] != losses[2], "{losses:?}");
        assert_eq!(losses[1], losses[3], "a step leaves out the same inputs whenever it is computed");

        let (model, backend) = trainer.model_and_backend();
        model.forward(backend, step);
        model.loss_and_head_grad(backend, step, 1.0);
        let mut slope = 0.0;
        let mut add = |backend: &mut dyn Backend, param: &Param, grad: Span| {
            let mut values = vec![0.0f32; grad.bytes / 4];
            backend.download(grad, values.as_mut_bytes());
            let products = values.iter().zip(direction(param.id, values.len()));
            slope += products.map(|(&grad, way)| f64::from(grad) * f64::from(way)).sum::<f64>();
        };
        model.backward(backend, step, 1.0, &mut add);
        const BY: f32 = 1e-3;
        let [up, down] = [BY, -BY].map(|by| {
            walk(&run, &mut trainer, by);
            loss(&run, &mut trainer, step)
        });
        let found = (up - down) / (2.0 * f64::from(BY));
        assert!((found - slope).abs() < 0.01 * slope.abs().max(1.0), "{name}: {found}, by the gradients {slope}");
        let trained = trainer.model().specs.iter().filter(|spec| ParamKind::is_adapter(spec.kind)).count();
        assert_eq!(trained, 28, "two factors of seven matrices in two blocks");
    }
}
