//! GaLore, Fira, APOLLO and APOLLO-Mini against trajectories of the authors' code, whose projections they are given, and
//! the projections of their own.

use crate::recorded::{Recorded, Run};
use tetrad::backend::{Moment, SecondMoment};
use tetrad::optim::{Apollo, Companion, GaLore, LowRank, Norms, Optimizer, ParamClass, Residual, StateConfig, Variant};
use tetrad::quant::{RngKey, RngUse, StateCodec, WeightFormat};

const LR: f64 = 0.01;
const STATE: StateConfig = StateConfig { m: Moment::F32, v: SecondMoment::F32, feedback: false };

fn common(rank: usize, variant: Variant) -> LowRank {
    let eps = if variant == Variant::Paper { 1e-8 } else { 1e-6 };
    LowRank { rank, gap: 20, beta1: 0.9, beta2: 0.999, eps, weight_decay: 0.0, variant, state: STATE }
}

fn companion(weight_decay: f64) -> Box<dyn Optimizer> {
    // The recordings have an all-zero gradient, and moments that decay in its step.
    Box::new(Companion { beta1: 0.9, beta2: 0.999, eps: 1e-6, weight_decay, freezes: false, state: STATE })
}

fn galore(common: LowRank, residual: Residual) -> GaLore {
    GaLore::new(common, residual, 0.25, StateCodec::F32)
}

#[test]
fn golden_galore() {
    for (name, rank, weight_decay, variant, problems) in [
        ("galore_r4", 4, 0.0, Variant::Reference, &["matrix", "tall", "square", "vector"][..]),
        ("galore_r8", 8, 0.0, Variant::Reference, &["matrix", "tall", "square", "vector"]),
        ("galore_r4_wd", 4, 0.1, Variant::Reference, &["matrix", "tall", "vector"]),
        ("galore_r4_paper", 4, 0.0, Variant::Paper, &["matrix", "tall"]),
    ] {
        let recorded = Recorded::load(name);
        for &problem in problems {
            if problem == "vector" {
                // Decays in the recordings, as a matrix does.
                recorded.follow(problem, companion(weight_decay), ParamClass::Matrix, LR);
                continue;
            }
            let rule = galore(LowRank { weight_decay, ..common(rank, variant) }, Residual::Dropped);
            let rule = rule.with_projections(recorded.projections(problem));
            recorded.follow(problem, Box::new(rule), ParamClass::Matrix, LR);
        }
    }
}

/// What the limiter keeps: 1e-5 relative.
fn assert_limiter(recorded: &Recorded, problem: &str, run: &Run, step: u64) {
    let (found, wanted) = (run.state("limiter")[0], recorded.limiter(problem, step));
    assert!((found - wanted).abs() <= 1e-5 * wanted.abs() + 1e-12, "{problem}, step {step}: {found}, not {wanted}");
}

#[test]
fn golden_fira() {
    for (name, variant, problems) in [
        ("fira_reference", Variant::Reference, &["matrix", "tall", "square"][..]),
        ("fira_reference_nozero", Variant::Reference, &["matrix", "tall"]),
        ("fira_paper", Variant::Paper, &["matrix", "tall"]),
    ] {
        let recorded = Recorded::load(name);
        for &problem in problems {
            let rule = galore(common(4, variant), Residual::Scaled).with_projections(recorded.projections(problem));
            recorded.follow_to(60, problem, Box::new(rule), ParamClass::Matrix, LR, |run, step| {
                if variant == Variant::Reference {
                    assert_limiter(&recorded, problem, run, step);
                }
            });
        }
    }
}

#[test]
fn golden_apollo() {
    use Norms::{Channels, Tensor};
    for (name, norms, scale, front, problems) in [
        ("apollo_reference", Channels, 1.0, false, &["matrix", "tall", "square"][..]),
        ("apollo_reference_nozero", Channels, 1.0, false, &["matrix", "tall"]),
        ("apollo_mini_reference", Tensor, 128.0, false, &["matrix", "tall", "square"]),
        ("apollo_mini_reference_nozero", Tensor, 128.0, false, &["matrix", "tall"]),
        ("apollo_mini_front", Tensor, 128.0, true, &["matrix", "tall"]),
        ("apollo_paper", Channels, 1.0, false, &["matrix", "tall"]),
    ] {
        let recorded = Recorded::load(name);
        let variant = if name == "apollo_paper" { Variant::Paper } else { Variant::Reference };
        for &problem in problems {
            let rank = if norms == Tensor { 1 } else { 4 };
            let rule = Apollo::new(common(rank, variant), norms, scale, front);
            let rule = Box::new(rule.with_projections(recorded.projections(problem)));
            recorded.follow_to(60, problem, rule, ParamClass::Matrix, LR, |run, step| {
                if variant == Variant::Reference {
                    assert_limiter(&recorded, problem, run, step);
                }
            });
        }
    }
}

/// `P^T P [side, side]` of `P [rank, side]`: the subspace, whatever the signs.
fn subspace(p: &[f32], side: usize) -> Vec<f64> {
    let of = |i: usize, j: usize| p.chunks(side).map(|row| f64::from(row[i]) * f64::from(row[j])).sum();
    (0..side * side).map(|at| of(at / side, at % side)).collect()
}

fn assert_same_subspace(found: &[f32], wanted: &[f32], tolerance: f64, what: &str) {
    let side = wanted.len() / (wanted.len() / 24);
    for (x, y) in subspace(found, side).iter().zip(subspace(wanted, side)) {
        assert!((x - y).abs() <= tolerance, "{what}: {x}, not {y}");
    }
}

#[test]
fn golden_subspaces_are_those_of_a_singular_value_decomposition() {
    for (name, rank) in [("galore_r4", 4), ("galore_r8", 8)] {
        let recorded = Recorded::load(name);
        for problem in ["matrix", "tall", "square"] {
            let wanted = recorded.projections(problem);
            let rule = Box::new(galore(common(rank, Variant::Reference), Residual::Dropped));
            let mut run = recorded.start(problem, rule, ParamClass::Matrix);
            for step in 1..=41 {
                run.step(step, LR, recorded.grad(problem, step));
                let Some(at) = [1, 21, 41].iter().position(|&at| at == step) else { continue };
                let (found, what) = (run.state("projection"), format!("{name}, {problem}, step {step}"));
                assert_same_subspace(&found, &wanted[at], 1e-5, &what);
                // The recording is a decomposition in float32, up to 9e-6 from this one.
                for (row, exact) in singular_vectors(problem, recorded.grad(problem, step), rank).iter().enumerate() {
                    let found = &found[24 * row..][..24];
                    let sign = found.iter().zip(exact).map(|(x, y)| f64::from(*x) * y).sum::<f64>().signum();
                    let near = found.iter().zip(exact).all(|(x, y)| (sign * f64::from(*x) - y).abs() <= 5e-6);
                    assert!(near, "{what}: singular vector {row} is {found:?}, not {exact:?}");
                }
            }
        }
    }
}

/// The singular vectors of the shorter side that belong to the `rank` largest values, in float64 by one-sided Jacobi
/// rotations: pairs of rows are turned until all rows are orthogonal.
fn singular_vectors(problem: &str, grad: &[f32], rank: usize) -> Vec<Vec<f64>> {
    let (rows, cols) = Recorded::shape(problem);
    let (side, other) = (24, rows.max(cols));
    let at = |i: usize, k: usize| f64::from(if rows < cols { grad[i * cols + k] } else { grad[k * cols + i] });
    // Behind each row of the matrix stands that of the rotations so far.
    let identity = |i: usize| (0..side).map(move |k| if i == k { 1.0 } else { 0.0 });
    let mut all: Vec<Vec<f64>> = (0..side).map(|i| (0..other).map(|k| at(i, k)).chain(identity(i)).collect()).collect();
    let dot = |x: &[f64], y: &[f64]| x[..other].iter().zip(&y[..other]).map(|(x, y)| x * y).sum::<f64>();
    let pairs = || (0..side).flat_map(|i| (i + 1..side).map(move |j| (i, j)));
    for (i, j) in (0..20).flat_map(|_| pairs()) {
        let (p, q, r) = (dot(&all[i], &all[i]), dot(&all[j], &all[j]), dot(&all[i], &all[j]));
        let (sin, cos) = (0.5 * (2.0 * r).atan2(p - q)).sin_cos();
        let [first, second] = all.get_disjoint_mut([i, j]).expect("two different rows");
        for (x, y) in first.iter_mut().zip(second) {
            (*x, *y) = (cos * *x + sin * *y, cos * *y - sin * *x);
        }
    }
    let squared = |i: usize| dot(&all[i], &all[i]);
    let largest = (0..side).map(squared).fold(0.0, f64::max);
    assert!(pairs().all(|(i, j)| dot(&all[i], &all[j]).abs() <= 1e-13 * largest), "{problem}: rows are not orthogonal");
    let mut order: Vec<usize> = (0..side).collect();
    order.sort_by(|&i, &j| squared(j).total_cmp(&squared(i)));
    order[..rank].iter().map(|&i| all[i][other..].to_vec()).collect()
}

/// How orthonormal rows are.
fn assert_orthonormal(p: &[f32], rank: usize, tolerance: f64) {
    let side = p.len() / rank;
    for (i, x) in p.chunks(side).enumerate() {
        for (j, y) in p.chunks(side).enumerate() {
            let product: f64 = x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            let wanted = if i == j { 1.0 } else { 0.0 };
            assert!((product - wanted).abs() <= tolerance, "rows {i} and {j}: {product}");
        }
    }
}

#[test]
fn a_gradient_without_directions_keeps_the_projection() {
    let recorded = Recorded::load("galore_r4");
    let rule = || Box::new(galore(common(4, Variant::Standard), Residual::Scaled));
    for nothing in [vec![0.0; 960], vec![f32::NAN; 960]] {
        let mut run = recorded.start("matrix", rule(), ParamClass::Matrix);
        run.step(1, LR, &nothing);
        let random = run.state("projection");
        assert_orthonormal(&random, 4, 1e-5);
        // It is a projection that a later gradient is seen through.
        let before = run.at.floats(run.at.param.weight.data);
        let after = run.step(2, LR, recorded.grad("matrix", 2));
        assert!(before != after && after.iter().all(|x| x.is_finite()));
        run.step(21, LR, recorded.grad("matrix", 21));
        let found = run.state("projection");
        assert!(found != random);
        let planes = run.at.planes();
        run.step(41, LR, &nothing);
        assert_eq!(run.state("projection"), found);
        assert_eq!(run.at.planes(), planes, "nor does anything else move");
    }
}

/// A step that is skipped before anything is computed leaves a projection of zeros, with which nothing would be learned.
#[test]
fn what_a_skipped_step_was_to_find_is_found_in_the_next() {
    let recorded = Recorded::load("galore_r4");
    for codec in [StateCodec::F32, INT4] {
        let rule = Box::new(GaLore::new(common(4, Variant::Standard), Residual::Dropped, 0.25, codec));
        let mut run = recorded.start("matrix", rule, ParamClass::Matrix);
        let before = run.at.floats(run.at.param.weight.data);
        let after = run.step(2, LR, recorded.grad("matrix", 2));
        assert!(before != after, "{codec:?}");
        let projection = |run: &Run| run.at.param.state.get("projection").map(|tensor| run.at.read(tensor.data));
        let found = projection(&run);
        run.step(3, LR, recorded.grad("matrix", 3));
        assert!(found == projection(&run), "{codec:?}: found twice");
    }
}

/// Of a gradient of rank one, and of magnitudes whose squares float32 cannot hold.
#[test]
fn few_directions_and_small_numbers_are_found_too() {
    let recorded = Recorded::load("galore_r4");
    let rank_one: Vec<f32> = (0..960).map(|i| ((i / 40 + 1) as f32).sin() * ((i % 40) as f32 * 0.7).cos()).collect();
    let length = (0..24).map(|i| ((i + 1) as f32).sin().powi(2)).sum::<f32>().sqrt();
    for scale in [1.0, 1e-15, 1e12] {
        let grad: Vec<f32> = rank_one.iter().map(|x| x * scale).collect();
        let mut run = recorded.start(
            "matrix",
            Box::new(galore(common(4, Variant::Standard), Residual::Dropped)),
            ParamClass::Matrix,
        );
        let w = run.step(1, LR, &grad);
        assert!(w.iter().all(|x| x.is_finite()));
        let p = run.state("projection");
        let along: f32 = p[..24].iter().enumerate().map(|(i, p)| p * ((i + 1) as f32).sin() / length).sum();
        assert!((along.abs() - 1.0).abs() < 1e-4, "{scale}: the first direction has {along} of the only one");
        let others = p.chunks(24).skip(1).map(|p| p.iter().map(|x| x * x).sum::<f32>());
        assert!(others.into_iter().all(|squared| squared < 1.001), "{scale}");
    }
}

/// A rule with every option that changes what is stored, by name.
fn compact(name: &str, m: Moment, v: SecondMoment, codec: StateCodec) -> Box<dyn Optimizer> {
    let common = LowRank { state: StateConfig { m, v, ..STATE }, ..common(4, Variant::Standard) };
    match name {
        "galore" => Box::new(GaLore::new(common, Residual::Dropped, 0.25, codec)),
        "fira" => Box::new(GaLore::new(common, Residual::Scaled, 0.25, codec)),
        "apollo" => Box::new(Apollo::new(common, Norms::Channels, 1.0, false)),
        _ => Box::new(Apollo::new(LowRank { rank: 1, ..common }, Norms::Tensor, 128.0, true)),
    }
}

const INT4: StateCodec = StateCodec::Int4 { signed: true };
const RULES: [&str; 4] = ["galore", "fira", "apollo", "apollo-mini"];

/// Compact moments and projections step where float32 does, on the whole: the cosine between the two ways.
#[test]
fn compact_state_goes_nearly_the_same_way() {
    let recorded = Recorded::load("galore_r4");
    for problem in ["matrix", "tall"] {
        for name in RULES {
            let way = |m, v, codec| {
                let mut run = recorded.start(problem, compact(name, m, v, codec), ParamClass::Matrix);
                let start = run.at.floats(run.at.param.weight.data);
                let mut w = Vec::new();
                for step in 1..=60 {
                    w = run.step(step, LR, recorded.grad(problem, step));
                }
                w.iter().zip(start).map(|(w, start)| f64::from(w - start)).collect::<Vec<_>>()
            };
            let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
            let exact = way(Moment::F32, SecondMoment::F32, StateCodec::F32);
            for (m, v, codec, least) in [
                (Moment::Int8, SecondMoment::Int8, StateCodec::Int8 { signed: true }, 0.9),
                (Moment::Int4, SecondMoment::Int4, INT4, 0.5),
            ] {
                let found = way(m, v, codec);
                let cosine = dot(&found, &exact) / (dot(&found, &found) * dot(&exact, &exact)).sqrt();
                println!("{name}, {problem}, {m:?}: {cosine}");
                assert!(found != exact && cosine > least, "{name}, {problem}, {m:?}: a cosine of {cosine}");
            }
        }
    }
}

/// Packed weights and compact state, with any number of threads: the same bytes, several refreshes among the steps.
#[test]
fn the_number_of_threads_changes_no_byte_of_a_low_rank_rule() {
    let (rows, cols) = (70, 333);
    let mut w0 = vec![0.0; rows * cols];
    RngKey { seed: 1, step: 0, tensor: 0, usage: RngUse::Init }.normal(0, &mut w0);
    for name in RULES {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let rule = compact(name, Moment::Int4, SecondMoment::Int4, INT4);
                let mut run = Run::new(rule, ParamClass::Matrix, (rows, cols), WeightFormat::INT4, &w0);
                for number in [1, 2, 21] {
                    let mut grad = vec![0.0; rows * cols];
                    RngKey { seed: 2, step: number, tensor: 9, usage: RngUse::Init }.normal(0, &mut grad);
                    run.step(number.into(), LR, &grad);
                }
                run.at.planes()
            })
        };
        let one = run(1);
        assert_eq!(run(2), one, "{name}");
        assert_eq!(run(5), one, "{name}");
    }
}
