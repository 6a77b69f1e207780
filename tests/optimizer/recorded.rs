//! Recorded trajectories of rules that are built by hand: one parameter in float32, step by step.

use crate::one_param::OneParam;
use safetensors::SafeTensors;
use std::collections::HashMap;
use tetrad::backend::cpu::Isa;
use tetrad::optim::{Optimizer, ParamClass, ParamInfo, StepInfo};
use tetrad::quant::{GroupedShape, WeightFormat};

/// A recorded file.
pub struct Recorded {
    name: String,
    problems: HashMap<String, Vec<f32>>,
    tensors: HashMap<String, Vec<f32>>,
    /// Which gradient each step has, counted from 0.
    grads: Vec<usize>,
}

fn load(name: &str) -> (HashMap<String, Vec<f32>>, HashMap<String, String>) {
    let path = format!("{}/fixtures/golden/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let tensors = file.tensors().into_iter().map(|(name, view)| (name, floats(view.data()))).collect();
    (tensors, header.metadata().clone().unwrap_or_default())
}

/// The first 24 of each 40 columns.
fn square(x: &[f32]) -> Vec<f32> {
    x.chunks_exact(40).flat_map(|row| &row[..24]).copied().collect()
}

impl Recorded {
    pub fn load(name: &str) -> Self {
        let (mut problems, _) = load("problems");
        let (tensors, metadata) = load(name);
        let grads = match metadata.get("grad_index") {
            None => (0..60).collect(),
            Some(list) => list.split(',').map(|at| at.parse().unwrap()).collect(),
        };
        for part in ["w0", "grads"] {
            let of = |name: &str| problems[&format!("{name}.{part}")].clone();
            let (matrix, vector) = (of("matrix"), of("vector"));
            problems.insert(format!("square.{part}"), square(&matrix));
            problems.insert(format!("matrix_k.{part}"), matrix);
            problems.insert(format!("vector_bias.{part}"), vector);
        }
        Self { name: name.into(), problems, tensors, grads }
    }

    pub fn shape(problem: &str) -> (usize, usize) {
        match problem {
            "matrix" | "matrix_k" => (24, 40),
            "tall" => (40, 24),
            "square" => (24, 24),
            _ => (1, 64),
        }
    }

    /// The projections of a problem, `[rank, side]` each.
    pub fn projections(&self, problem: &str) -> Vec<Vec<f32>> {
        let of = |step: u64| {
            let p = &self.tensors[&format!("{problem}.proj.{step}")];
            let rank = p.len() / 24;
            match problem {
                "matrix" => (0..p.len()).map(|i| p[i % 24 * rank + i / 24]).collect(),
                _ => p.clone(),
            }
        };
        [1, 21, 41].map(of).into()
    }

    pub fn grad(&self, problem: &str, step: u64) -> &[f32] {
        let (rows, cols) = Self::shape(problem);
        &self.problems[&format!("{problem}.grads")][self.grads[step as usize - 1] * rows * cols..][..rows * cols]
    }

    pub fn limiter(&self, problem: &str, step: u64) -> f32 {
        self.tensors[&format!("{problem}.limiter")][step as usize - 1]
    }

    pub fn start(&self, problem: &str, rule: Box<dyn Optimizer>, class: ParamClass) -> Run {
        Run::new(rule, class, Self::shape(problem), WeightFormat::F32, &self.problems[&format!("{problem}.w0")])
    }

    /// All steps of a problem, each recorded weight compared: 2e-6 absolute plus 2e-5 relative, element by element.
    pub fn follow(&self, problem: &str, rule: Box<dyn Optimizer>, class: ParamClass, lr: f64) {
        self.follow_to(60, problem, rule, class, lr, |_, _| ());
    }

    /// The same up to a step, each looked at.
    pub fn follow_to(
        &self,
        last: u64,
        problem: &str,
        rule: Box<dyn Optimizer>,
        class: ParamClass,
        lr: f64,
        mut look: impl FnMut(&Run, u64),
    ) {
        let mut run = self.start(problem, rule, class);
        let mut compared = 0;
        for step in 1..=last {
            let w = run.step(step, lr, self.grad(problem, step));
            look(&run, step);
            let Some(wanted) = self.tensors.get(&format!("{problem}.w.{step}")) else { continue };
            compared += 1;
            assert_eq!(w.len(), wanted.len());
            for (i, (x, y)) in w.iter().zip(wanted).enumerate() {
                let near = (x - y).abs() <= 2e-6 + 2e-5 * y.abs();
                assert!(near, "{}: {problem}[{i}] after step {step} is {x}, recorded {y}", self.name);
            }
        }
        assert!(compared > 0, "{}: nothing of {problem} was compared", self.name);
    }
}

/// One parameter and its rule.
pub struct Run {
    pub at: OneParam,
    rule: Box<dyn Optimizer>,
}

impl Run {
    pub fn new(
        rule: Box<dyn Optimizer>,
        class: ParamClass,
        (rows, cols): (usize, usize),
        format: WeightFormat,
        w0: &[f32],
    ) -> Self {
        let shape = GroupedShape::new(rows, cols, 32);
        let info = ParamInfo { class, shape, head_dim: 8 };
        let mut at = OneParam::new(Isa::best(), shape, format, &rule.state(&info), rule.workspace(&info));
        at.param.decay = !matches!(class, ParamClass::Norm | ParamClass::Bias);
        let weight = at.param.weight;
        tetrad::model::fill(&mut at.cpu, &weight, &mut |row, out| out.copy_from_slice(&w0[row * cols..][..cols]));
        Self { at, rule }
    }

    /// A step; gives the weights after it, of a float32 parameter.
    pub fn step(&mut self, number: u64, lr: f64, grad: &[f32]) -> Vec<f32> {
        let OneParam { param, grad: span, workspace, .. } = self.at;
        self.at.write(grad, span);
        let info = StepInfo { number, lr, seed: 1 };
        self.rule.step(&mut self.at.cpu, &param, span, workspace, &info);
        if param.weight.format == WeightFormat::F32 { self.at.floats(param.weight.data) } else { Vec::new() }
    }

    /// A float32 state tensor.
    pub fn state(&self, name: &str) -> Vec<f32> {
        self.at.floats(self.at.param.state.get(name).unwrap().data)
    }
}
