//! What every backend must do with state tensors of any shape, and with the squares of weights: tests against float64.

use super::conformance::{Case, MAX, stored};
use super::reference::wide;
use crate::backend::{Backend, DirectionArgs, Param, State};
use crate::quant::{
    GroupedShape, RngKey, RngUse, StateCodec, StateFormat, StateShape, StateSpec, WeightFormat, absmax,
};

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for (rows, cols) in [(1, 1), (3, 70), (5, 96)] {
        directions(open, rows, cols);
        for codec in [StateCodec::F32, StateCodec::Int8 { signed: true }, StateCodec::Int4 { signed: true }] {
            kept(open, rows, cols, codec);
        }
    }
    squares(open);
}

/// A parameter whose state is a matrix of its own.
fn parameter(case: &mut Case, state: &[StateSpec]) -> Param {
    let shape = GroupedShape::new(4, 64, 32);
    let (weight, _) = case.weight(shape, WeightFormat::F32);
    let state = State::place(state, shape, &mut |_, bytes| case.bytes(vec![0; bytes]));
    Param { id: 7, group: 0, decay: true, sparse: false, weight, state }
}

fn directions(open: &dyn Fn() -> Box<dyn Backend>, rows: usize, cols: usize) {
    let mut case = Case::new(open, cols as u64);
    let matrix = StateFormat::new(StateCodec::F32, StateShape::Matrix { rows, cols });
    let specs = ["m", "v"].map(|name| StateSpec { name, format: matrix });
    let param = parameter(&mut case, &specs);
    let [m, v] = ["m", "v"].map(|name| *param.state.get(name).expect("declared above"));
    let steps = [(); 2].map(|()| case.numbers(rows * cols));
    let at = [&steps[0], &steps[1]].map(|x| case.add(x));
    let (seed, number) = (1, 2);
    let (beta1, one_minus_beta1, beta2, one_minus_beta2) = (0.75, 0.25, 0.5, 0.5);
    let args = DirectionArgs {
        seed,
        number,
        beta1,
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        factor: 3.0,
        root: 2.0,
        eps: 0.125,
    };
    case.run(MAX, |backend| {
        for x in at {
            backend.begin_update(x, false);
            backend.adam_direction(&param, &m, &v, x, &args);
        }
    });
    let mut moments = vec![(0.0, 0.0); rows * cols];
    for (x, at) in steps.iter().zip(at) {
        for (x, (m, v)) in wide(x).iter().zip(&mut moments) {
            (*m, *v) = (0.75 * *m + 0.25 * x, 0.5 * *v + 0.5 * x * x);
        }
        let wanted: Vec<_> = moments.iter().map(|(m, v)| 3.0 * m / (2.0 * v.sqrt() + 0.125)).collect();
        case.near_floats(at, &wanted, "a direction of Adam");
    }
    case.near_floats(m.data, &moments.iter().map(|(m, _)| *m).collect::<Vec<_>>(), "first moments");
    case.near_floats(v.data, &moments.iter().map(|(_, v)| *v).collect::<Vec<_>>(), "second moments");
}

/// What is stored comes back, to the step of its code.
fn kept(open: &dyn Fn() -> Box<dyn Backend>, rows: usize, cols: usize, codec: StateCodec) {
    let mut case = Case::new(open, rows as u64);
    let spec = StateSpec { name: "p", format: StateFormat::new(codec, StateShape::Matrix { rows, cols }) };
    let param = parameter(&mut case, &[spec]);
    let state = *param.state.get("p").expect("declared above");
    let x = case.numbers(rows * cols);
    let (at, out) = (case.add(&x), case.room(rows * cols));
    let key = RngKey { seed: 4, step: 5, tensor: param.id, usage: RngUse::StoredProjection };
    case.run(MAX, |backend| {
        backend.store_state(&param, &state, at, &key);
        backend.load_state(&param, &state, out);
    });
    let Some(moment) = codec.moment() else { return case.same_floats(out, &x, "floats of a state") };
    let found = case.floats(out);
    for (i, (found, wanted)) in found.iter().zip(&x).enumerate() {
        let group = x[i / cols * cols..][..cols].chunks(32).nth(i % cols / 32).expect("its group");
        // A bfloat16 scale is up to 1 % above the largest magnitude.
        let step = absmax(group) / f32::from(moment.max) * 1.01;
        assert!(
            (found - wanted).abs() <= step,
            "{codec:?}: element {i} of {rows}x{cols} is {found}, stored was {wanted}"
        );
    }
}

fn squares(open: &dyn Fn() -> Box<dyn Backend>) {
    for format in stored() {
        let mut case = Case::new(open, 3);
        let shape = GroupedShape::new(5, 70, 64);
        let (weight, planes) = case.weight(shape, format);
        let param = Param { id: 0, group: 0, decay: true, sparse: false, weight, state: State::default() };
        let out = case.room(shape.padded_len() / 32);
        case.run(MAX, |backend| backend.weight_squares(&param, out));
        let values = planes.values();
        let blocks = values.chunks(shape.cols).flat_map(|row| (0..4).map(move |block| (32 * block, row)));
        let squares = |(first, row): (usize, &[f64])| row.iter().skip(first).take(32).map(|x| x * x).sum();
        case.near_floats(out, &blocks.map(squares).collect::<Vec<_>>(), "squares of a weight");
    }
}
