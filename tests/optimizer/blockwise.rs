//! Adam-mini and Adafactor against recorded trajectories.

use crate::recorded::Recorded;
use tetrad::backend::{Moment, SecondMoment};
use tetrad::optim::{Adafactor, AdamMini, ParamClass, StateConfig};

#[test]
fn golden_adam_mini() {
    let state = StateConfig { m: Moment::F32, v: SecondMoment::F32, feedback: false };
    let rule = AdamMini { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, freezes: false, state };
    let recorded = Recorded::load("adam_mini");
    for (problem, class) in [
        ("matrix", ParamClass::Matrix),
        ("matrix_k", ParamClass::QueryOrKey),
        ("tall", ParamClass::Embedding),
        ("vector", ParamClass::Norm),
        ("vector_bias", ParamClass::Bias),
    ] {
        recorded.follow(problem, Box::new(rule), class, 0.01);
    }
}

#[test]
fn golden_adafactor() {
    let rule =
        Adafactor { beta2_decay: -0.8, eps: 1e-30, eps2: 1e-3, clip_threshold: 1.0, weight_decay: 0.0, freezes: false };
    let recorded = Recorded::load("adafactor_torch");
    for (problem, class) in [("matrix", ParamClass::Matrix), ("tall", ParamClass::Matrix), ("vector", ParamClass::Norm)]
    {
        recorded.follow(problem, Box::new(rule), class, 0.01);
    }
}
