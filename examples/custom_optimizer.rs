//! Trains with an update rule that is not part of the library: AdamW whose learning rate for a matrix depends on its
//! shape.
//!
//! ```sh
//! cargo run --release --example custom_optimizer
//! ```

use std::error::Error;
use tetrad::backend::{Backend, Param};
use tetrad::memory::Span;
use tetrad::optim::{AdamFamily, Groups, Optimizer, OptimizerConfig, ParamInfo, Rule, StateConfig, StepInfo};
use tetrad::quant::StateSpec;
use tetrad::{Config, Cpu, Trainer};

/// AdamW; matrices with more rows than columns take smaller steps.
struct ShapedAdamW(AdamFamily);

impl ShapedAdamW {
    fn new(config: &OptimizerConfig, state: StateConfig) -> Self {
        Self(AdamFamily::new(&OptimizerConfig { name: Rule::Adamw, ..config.clone() }, state))
    }
}

impl Optimizer for ShapedAdamW {
    // The plan, first values, checkpoints and `dump` follow from this declaration: a first and a second moment for each
    // weight, in as many bits as the configuration says.
    fn state(&self, param: &ParamInfo) -> Vec<StateSpec> {
        self.0.state(param)
    }

    // A step rewrites weight and state in place, by the backend's operations. The gradient is float32 and may be
    // overwritten.
    fn step(&self, backend: &mut dyn Backend, param: &Param, grad: Span, workspace: Span, at: &StepInfo) {
        let shape = param.weight.shape;
        let factor = (shape.cols as f64 / shape.rows as f64).sqrt().min(1.0);
        self.0.step(backend, param, grad, workspace, &StepInfo { lr: at.lr * factor, ..*at });
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut config = Config::default();
    (config.train.batch, config.train.sequence) = (4, 64);
    let cpu = Cpu::new();
    let config = tetrad::train::fastest(&config, &cpu);
    let rule = ShapedAdamW::new(&config.optimizer, config.storage.state());
    let mut trainer = Trainer::with_rules(&config, Groups::one(Box::new(rule)), Box::new(cpu))?;
    trainer.initialize();

    // The tokens are bytes of this very file.
    let text: Vec<u32> = include_bytes!("custom_optimizer.rs").iter().map(|&byte| byte.into()).collect();
    let tokens = config.train.batch * config.train.sequence;
    for start in (0..text.len() - tokens).step_by(tokens).cycle().take(50) {
        let report = trainer.step(&text[start..][..tokens], &text[start + 1..][..tokens]);
        if report.step.is_multiple_of(10) {
            println!("step {}  loss {:.4}", report.step, report.loss);
        }
    }
    Ok(())
}
