//! The references themselves: gradients are the slopes of what they are the gradients of.

use crate::harness::operands::Random;
use tetrad::backend::ops::reference::{
    attention, attention_grad, cross_entropy, linear, linear_grad_input, linear_grad_weight, rms_norm, rms_norm_grad,
    rope, swiglu, swiglu_grad, wide,
};
use tetrad::backend::{AttentionShape, IGNORE, Rotation};

/// `n` numbers between -1 and 1.
fn random(random: &mut Random, n: usize) -> Vec<f64> {
    wide(&random.floats(n))
}

/// Checks `grad`, the gradient of `sum(weights f(x))`, by central differences.
fn check_slopes(x: &[f64], grad: &[f64], weights: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) {
    const STEP: f64 = 1e-5;
    let loss = |x: &[f64]| f(x).iter().zip(weights).map(|(x, weight)| x * weight).sum::<f64>();
    for i in 0..x.len() {
        let moved = |by: f64| {
            let mut x = x.to_vec();
            x[i] += by;
            loss(&x)
        };
        let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        // The differences' own error: STEP^2 times a third derivative, and float64's rounding over STEP.
        assert!((slope - grad[i]).abs() < 1e-7, "element {i}: {slope} and {}", grad[i]);
    }
}

#[test]
fn gradients_of_products_are_slopes() {
    let mut r = Random(1);
    let (x, w, dy) = (random(&mut r, 3 * 5), random(&mut r, 4 * 5), random(&mut r, 3 * 4));
    check_slopes(&x, &linear_grad_input(&dy, &w, 5), &dy, |x| linear(x, &w, 5));
    check_slopes(&w, &linear_grad_weight(&dy, &x, 4), &dy, |w| linear(&x, w, 5));
}

#[test]
fn gradients_of_the_norm_are_slopes() {
    let mut r = Random(2);
    let (x, gain, dout) = (random(&mut r, 3 * 7), random(&mut r, 7), random(&mut r, 3 * 7));
    let (dx, dgain) = rms_norm_grad(&x, &gain, &rms_norm(&x, &gain, 1e-3).1, &dout);
    check_slopes(&x, &dx, &dout, |x| rms_norm(x, &gain, 1e-3).0);
    check_slopes(&gain, &dgain, &dout, |gain| rms_norm(&x, gain, 1e-3).0);
}

#[test]
fn gradients_of_attention_are_slopes() {
    let mut r = Random(3);
    let shape = AttentionShape { batch: 2, queries: 5, start: 0, capacity: 5, heads: 4, kv_heads: 2, head_dim: 3 };
    let (q, k, v) = (random(&mut r, 120), random(&mut r, 60), random(&mut r, 60));
    let dout = random(&mut r, 120);
    for first in [None, Some(&[0, 0, 2, 2, 2, 0, 1, 1, 3, 4][..])] {
        let [dq, dk, dv] = attention_grad(&q, &k, &v, &dout, first, shape);
        check_slopes(&q, &dq, &dout, |q| attention(q, &k, &v, first, shape).0);
        check_slopes(&k, &dk, &dout, |k| attention(&q, k, &v, first, shape).0);
        check_slopes(&v, &dv, &dout, |v| attention(&q, &k, v, first, shape).0);
    }
}

#[test]
fn gradients_of_swiglu_are_slopes() {
    let mut r = Random(4);
    let [gate, up, dout] = [(); 3].map(|()| random(&mut r, 9));
    let (dgate, dup) = swiglu_grad(&gate, &up, &dout);
    check_slopes(&gate, &dgate, &dout, |gate| swiglu(gate, &up));
    check_slopes(&up, &dup, &dout, |up| swiglu(&gate, up));
}

#[test]
fn gradients_of_the_loss_are_slopes() {
    let logits = random(&mut Random(5), 3 * 6);
    let targets = [2, IGNORE, 5];
    let (_, grad) = cross_entropy(&logits, &targets, 6);
    check_slopes(&logits, &grad, &[1.0; 3], |logits| cross_entropy(logits, &targets, 6).0);
}

#[test]
fn rotating_there_and_back_changes_nothing() {
    let mut r = Random(6);
    let x = random(&mut r, 2 * 3 * 2 * 6);
    let angles = random(&mut r, 5 * 3);
    let table: Vec<f64> = angles.iter().flat_map(|a| [a.cos(), a.sin()]).collect();
    let there = Rotation { heads: 2, head_dim: 6, queries: 3, start: 2, inverse: false };
    let back = rope(&rope(&x, &table, there, None), &table, Rotation { inverse: true, ..there }, None);
    assert!(x.iter().zip(back).all(|(x, back)| (x - back).abs() < 1e-14));
}
