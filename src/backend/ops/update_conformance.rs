//! What rules are made of, held against plain arithmetic on every storage; the fused pass has tests of its own with the
//! rules.

use super::conformance::{Case, MAX, stored};
use crate::backend::{Axis, Backend, MomentumArgs, Param, State, UpdateArgs, Weight};
use crate::memory::Span;
use crate::quant::{Element, GroupedShape, RngUse, StateCodec, StateSpec, WeightFormat, WeightPlane};

/// Rows of several groups, the last of them with padding.
const SHAPE: GroupedShape = GroupedShape { rows: 8, cols: 130, group: 32 };

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    rows_and_columns_are_normalized(open);
    for (format, step) in formats() {
        updates_move_the_stored_weight(open, format, step);
    }
    for codec in [StateCodec::F32, StateCodec::Int8 { signed: true }, StateCodec::Int4 { signed: true }] {
        momentum_is_its_recurrence(open, codec);
    }
}

/// Formats that are trained, with and without what is below their codes, and the distance of the numbers that they
/// store as [`parameter`] fills them.
fn formats() -> impl Iterator<Item = (WeightFormat, f64)> {
    let both = |format: WeightFormat| {
        let residue = format.codec().takes_residue().then(|| format.with_residue(true));
        [Some(format), residue].into_iter().flatten()
    };
    let step = |format: WeightFormat| match (format.codec().element(), format.grid()) {
        (Element::I8, _) => 0.01,
        (_, Some(grid)) => 0.125 / f64::from(grid.steps_per_scale),
        (Element::Bf16, None) => 1.0 / 256.0,
        (_, None) => 1e-6,
    };
    stored().flat_map(both).map(move |format| (format, step(format)))
}

/// A parameter with values of about one and state of zeros.
fn parameter(case: &mut Case, format: WeightFormat, specs: &[StateSpec]) -> Param {
    let (weight, _) = case.weight(SHAPE, WeightFormat::of(format.codec()));
    let residue = case.bytes(vec![0x88; format.plane_bytes(WeightPlane::Residue, SHAPE)]);
    let weight = Weight { format, residue, ..weight };
    let zeros = specs.iter().map(|spec| spec.format.codec.zero_byte()).collect::<Vec<_>>();
    let mut tensor = 0;
    let state = State::place(specs, SHAPE, &mut |name, bytes| {
        let zero = if name.ends_with("scales") { 0 } else { zeros[tensor] };
        tensor += usize::from(!name.ends_with("scales"));
        case.bytes(vec![zero; bytes])
    });
    Param { id: 3, group: 0, decay: true, sparse: false, weight, state }
}

fn floats(backend: &dyn Backend, span: Span) -> Vec<f64> {
    let mut bytes = vec![0; span.bytes];
    backend.download(span, &mut bytes);
    bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
}

fn rows_and_columns_are_normalized(open: &dyn Fn() -> Box<dyn Backend>) {
    let mut case = Case::new(open, 21);
    let GroupedShape { rows, cols, .. } = SHAPE;
    let mut x = case.numbers(rows * cols);
    // A row and a column whose root mean square is below the floor.
    x[cols..2 * cols].fill(0.0);
    x.iter_mut().skip(5).step_by(cols).for_each(|x| *x = 1e-6);
    let [by_row, by_col] = [(); 2].map(|()| case.add(&x));
    case.run(MAX, |backend| {
        backend.normalize(by_row, rows, cols, Axis::Rows, 1e-3);
        backend.normalize(by_col, rows, cols, Axis::Cols, 1e-3);
    });
    let rms = |values: Vec<f64>| (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt().max(1e-3);
    let at = |r: usize, c: usize| f64::from(x[r * cols + c]);
    let of_row: Vec<f64> = (0..rows).map(|r| rms((0..cols).map(|c| at(r, c)).collect())).collect();
    let of_col: Vec<f64> = (0..cols).map(|c| rms((0..rows).map(|r| at(r, c)).collect())).collect();
    let each = |divisor: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
        (0..rows * cols).map(|i| at(i / cols, i % cols) / divisor(i / cols, i % cols)).collect()
    };
    case.near_floats(by_row, &each(&|r, _| of_row[r]), "rows over their root mean square");
    case.near_floats(by_col, &each(&|_, c| of_col[c]), "columns over their root mean square");
}

fn updates_move_the_stored_weight(open: &dyn Fn() -> Box<dyn Backend>, format: WeightFormat, step: f64) {
    let mut case = Case::new(open, 22);
    let param = parameter(&mut case, format, &[]);
    let direction = case.numbers(SHAPE.len());
    let mut broken = direction.clone();
    broken[77] = f32::INFINITY;
    let ([given, broken], zeros) = ([&direction, &broken].map(|x| case.add(x)), vec![0f32; SHAPE.len()]);
    let [before, same, after, decayed] = [(); 4].map(|()| case.add(&zeros));
    let no_gradient = case.add(&zeros);
    let (lr, decay) = (0.03, 0.02);
    let args = |lr, decay| UpdateArgs { seed: 5, number: 9, lr, decay, reserved: 0 };
    let mut stats = None;
    case.run(MAX, |backend| {
        backend.add_weight(&param, before, 1.0);
        backend.begin_update(broken, true);
        backend.apply_update(&param, given, &args(lr, decay));
        let skipped = backend.update_stats();
        backend.add_weight(&param, same, 1.0);
        backend.begin_update(given, true);
        backend.apply_update(&param, given, &args(lr, decay));
        backend.add_weight(&param, after, 1.0);
        // An all-zero gradient freezes the rule: the direction, which a momentum may have made, is not applied.
        backend.begin_update(no_gradient, true);
        backend.apply_update(&param, given, &args(lr, decay));
        backend.add_weight(&param, decayed, 1.0);
        stats = Some((skipped, backend.update_stats(), [before, same, after, decayed].map(|x| floats(backend, x))));
    });
    let (skipped, stats, [before, same, after, decayed]) = stats.expect("the case ran");
    assert_eq!((skipped.skipped, stats.skipped), (1, 0), "{format:?}: gradients that are not finite");
    assert!(before.iter().any(|w| w.abs() > 0.5) && before == same, "{format:?}: a skipped update moves nothing");
    let squares: f64 = direction.iter().map(|&d| f64::from(d).powi(2)).sum();
    assert!((stats.grad_sq - squares).abs() < 1e-4 * squares, "{format:?}: squares of the gradient");
    let (lr, decay) = (f64::from(lr), f64::from(decay));
    let moved = |(w, d): (&f64, &f32)| w - lr * f64::from(*d) - decay * w;
    near(&after, before.iter().zip(&direction).map(moved), format, step);
    near(&decayed, after.iter().map(|w| w - decay * w), format, step);
}

/// Each weight is a neighbour of where it belongs, and their mean is where it belongs: rounding has no bias.
fn near(found: &[f64], expected: impl Iterator<Item = f64>, format: WeightFormat, step: f64) {
    let errors: Vec<f64> = found.iter().zip(expected).map(|(found, expected)| found - expected).collect();
    // A group that was rescaled has a step of 8/6 at most, and bf16 twice its own from 1 to 2.
    let limit = 2.0 * step;
    for (i, error) in errors.iter().enumerate() {
        assert!(error.abs() <= limit, "{format:?}: weight {i} is off by {error}, the step is {step}");
    }
    let bias = errors.iter().sum::<f64>() / errors.len() as f64;
    assert!(bias.abs() < 0.1 * step, "{format:?}: the weights are off by {bias} in the mean, the step is {step}");
}

fn momentum_is_its_recurrence(open: &dyn Fn() -> Box<dyn Backend>, codec: StateCodec) {
    let mut case = Case::new(open, 23);
    let spec = StateSpec::per_weight("m", codec);
    // Momentum does not look at the weight.
    let format = stored().next().expect("a format is stored");
    let param = parameter(&mut case, format, &[spec]);
    let (first, second) = (case.numbers(SHAPE.len()), case.numbers(SHAPE.len()));
    let zeros = vec![0f32; SHAPE.len()];
    let [x, y, ignored, kept, signs] = [&first, &second, &second, &zeros, &zeros].map(|x| case.add(x));
    let no_gradient = case.add(&zeros);
    let plain = MomentumArgs {
        seed: 5,
        number: 9,
        keep: 0.75,
        add: 0.5,
        of_x: 0.25,
        of_old: -0.5,
        of_new: 2.0,
        sign: 0,
        usage: RngUse::M as u32,
    };
    // Shows the state and leaves it as it is.
    let show = MomentumArgs { keep: 1.0, add: 0.0, of_x: 0.0, of_old: 1.0, of_new: 0.0, ..plain };
    case.run(MAX, |backend| {
        let state = *param.state.get("m").expect("declared above");
        backend.begin_update(x, true);
        backend.momentum(&param, &state, x, &plain);
        backend.momentum(&param, &state, y, &plain);
        backend.begin_update(no_gradient, true);
        backend.momentum(&param, &state, ignored, &plain);
        backend.begin_update(x, true);
        backend.momentum(&param, &state, kept, &show);
        backend.momentum(&param, &state, signs, &MomentumArgs { sign: 1, ..show });
    });
    let number = |x: &f32| f64::from(*x);
    let one: Vec<f64> = first.iter().map(|x| 0.5 * number(x)).collect();
    let two: Vec<f64> = one.iter().zip(&second).map(|(s, x)| 0.75 * s + 0.5 * number(x)).collect();
    let of_one: Vec<f64> = first.iter().zip(&one).map(|(x, s)| 0.25 * number(x) + 2.0 * s).collect();
    case.near_floats(x, &of_one, "the result of the first step");
    if codec == StateCodec::F32 {
        let of_two = |((x, old), new): ((&f32, &f64), &f64)| 0.25 * number(x) - 0.5 * old + 2.0 * new;
        let of_two: Vec<f64> = second.iter().zip(&one).zip(&two).map(of_two).collect();
        case.near_floats(y, &of_two, "the result of the second step");
        case.near_floats(kept, &two, "the state after two steps, and a third without a gradient");
        let signs_of: Vec<f64> = two.iter().map(|s| if *s == 0.0 { 0.0 } else { s.signum() }).collect();
        case.near_floats(signs, &signs_of, "the signs of the state");
    } else {
        // A compact state is rounded to a neighbour in each step; the largest of a group is 0.875.
        let step = if codec == (StateCodec::Int8 { signed: true }) { 0.875 / 127.0 } else { 0.875 / 7.0 };
        case.within(kept, &two, 2.0 * step, "the compact state after two steps");
    }
}
