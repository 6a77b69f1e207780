//! The update of a parameter from its gradient.

use super::conformance::{Case, MAX};
use super::reference::wide;
use crate::backend::adam::AdamArgs;
use crate::backend::{Axis, Backend, DirectionArgs, MomentumArgs, Param, State, StateTensor, UpdateArgs, UpdateStats};
use crate::memory::Span;
use crate::quant::{
    GroupedShape, RngKey, RngUse, StateCodec, StateFormat, StateShape, StateSpec, WeightFormat, absmax,
};

/// What optimizer rules are made of. Adam's family is one fused pass. Any other rule calls [`Update::begin_update`] with
/// the gradient, makes a direction of it in the gradient's own buffer, and adds that to the weight by
/// [`Update::apply_update`].
pub trait Update {
    /// One update of a parameter in place by Adam, AdamW, SPAM or Stable-SPAM, which `args` tells apart, from its
    /// complete gradient (float32, unpadded, read only). The state has `m`, either `v` or `v_rows` (and `v_cols`), and
    /// `scalars` (see [`crate::backend::adam`]).
    /// A gradient that is not finite changes nothing but is counted. Of a sparse parameter, rows whose gradient is zero
    /// are left as they are, unless moments are reset in this step.
    fn adam(&mut self, param: &Param, grad: Span, args: &AdamArgs);

    /// Takes the gradient of a parameter (float32) into account, before any of the operations that follow. If it is not
    /// finite, [`Update::momentum`] and [`Update::apply_update`] do nothing until the next call, which is counted; if it
    /// is all zero and `freeze_on_zero`, momentum does nothing and the update only decays the weight.
    fn begin_update(&mut self, grad: Span, freeze_on_zero: bool);

    /// A recurrence of a state tensor and `x`, float32 with as many elements, which becomes the result; see
    /// [`MomentumArgs`]. Compact state is rounded stochastically.
    fn momentum(&mut self, param: &Param, state: &StateTensor, x: Span, args: &MomentumArgs);

    /// The direction of Adam, by moments of any shape that both state tensors have: `m = beta1 m + (1 - beta1) x` and
    /// `v = beta2 v + (1 - beta2) x^2`, and `x`, float32 with as many elements, becomes
    /// `factor m / (root sqrt(v) + eps)`; see [`DirectionArgs`]. Compact moments are rounded stochastically.
    fn adam_direction(&mut self, param: &Param, m: &StateTensor, v: &StateTensor, x: Span, args: &DirectionArgs);

    /// `out`, float32: the elements of a signed state tensor.
    fn load_state(&mut self, param: &Param, state: &StateTensor, out: Span);

    /// Puts `x`, float32, in place of a signed state tensor, whatever the gradient is; compact state is rounded
    /// stochastically by the numbers of `key`.
    fn store_state(&mut self, param: &Param, state: &StateTensor, x: Span, key: &RngKey);

    /// Divides each row or column of `x`, float32 `[rows, cols]`, by its root mean square, or by `floor` if that is
    /// larger.
    fn normalize(&mut self, x: Span, rows: usize, cols: usize, axis: Axis, floor: f32);

    /// `x += factor w`: the weight as the optimizer sees it, residue included. `x` is float32 in the weight's shape.
    fn add_weight(&mut self, param: &Param, x: Span, factor: f32);

    /// `out[i]`: the sum of the squares of block `i` of the padded weight (32 elements of a row, which is padded to whole
    /// groups), residue included, one after the other; `out` is float32.
    fn weight_squares(&mut self, param: &Param, out: Span);

    /// `w = w - lr direction - decay w`, in place on the stored planes, rounded as in [`Update::adam`]. `direction` is
    /// float32 in the weight's shape.
    fn apply_update(&mut self, param: &Param, direction: Span, args: &UpdateArgs);

    /// What the updates since the last call did, together: one question to the device for a whole step.
    fn update_stats(&mut self) -> UpdateStats;
}

/// What rules do with moments, against float64; see [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for (rows, cols) in [(1, 1), (3, 70), (5, 96)] {
        directions(open, rows, cols);
        for codec in [StateCodec::F32, StateCodec::Int8 { signed: true }, StateCodec::Int4 { signed: true }] {
            stored(open, rows, cols, codec);
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
fn stored(open: &dyn Fn() -> Box<dyn Backend>, rows: usize, cols: usize, codec: StateCodec) {
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
    for format in super::conformance::stored() {
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
