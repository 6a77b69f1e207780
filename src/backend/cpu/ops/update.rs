//! What optimizer rules are made of.

use super::adam::{self, Statistics, statistics};
use super::apply_update::{add_weight_rows, apply_rows, square_rows};
use super::normalize;
use super::param_rows::{MomentRows, ParamRows, WeightRows};
use super::state_rows::{direction_rows, load_rows, momentum_rows};
use crate::backend::adam::AdamArgs;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::isa::{Isa, vectorized};
use crate::backend::cpu::simd::tasks::Scratch;
use crate::backend::ops::Update;
use crate::backend::{Axis, DirectionArgs, MomentumArgs, Param, StateTensor, UpdateArgs, UpdateStats};
use crate::memory::Span;
use crate::quant::{self, GroupedShape, RngKey, RngUse};

/// Elements below which a block of rows is not cut further.
const BLOCK: usize = 16384;

impl Update for Cpu {
    fn adam(&mut self, param: &Param, grad: Span, args: &AdamArgs) {
        if self.held {
            return;
        }
        let mut slices = self.arena.borrow_slices();
        let mut scratch = Scratch::new(slices.write(self.workspace), &self.pool);
        let (isa, scratch, slices) = (self.isa, &mut scratch, &mut slices);
        let stats = self.pool.install(move || adam::step(isa, scratch, slices, param, grad, args));
        self.update_stats.add(stats);
    }

    fn hold_updates_unless_finite(&mut self, numbers: Span) {
        self.held |= self.arena.borrow_slices().read::<f32>(numbers).iter().any(|number| !number.is_finite());
    }

    fn begin_update(&mut self, grad: Span, freeze_on_zero: bool) {
        if self.held {
            self.gate = Gate::Shut;
            return;
        }
        let (isa, grad) = (self.isa, self.arena.borrow_slices().read::<f32>(grad));
        let (gate, stats) = self.pool.install(|| begin(isa, grad, freeze_on_zero));
        self.gate = gate;
        self.update_stats.add(stats);
    }

    fn momentum(&mut self, param: &Param, state: &StateTensor, x: Span, args: &MomentumArgs) {
        if self.gate != Gate::Open {
            return;
        }
        assert_eq!(args.usage, RngUse::M as u32, "the use of a momentum's random numbers");
        let key = RngKey { seed: args.seed, step: args.number, tensor: param.id, usage: RngUse::M };
        self.recur(param, state, x, args, key);
    }

    fn adam_direction(&mut self, param: &Param, m: &StateTensor, v: &StateTensor, x: Span, args: &DirectionArgs) {
        if self.gate != Gate::Open {
            return;
        }
        let (isa, mut slices) = (self.isa, self.arena.borrow_slices());
        let (mut m_rows, mut v_rows) = (MomentRows::claim(&mut slices, m), MomentRows::claim(&mut slices, v));
        let (x, shape) = (slices.write::<f32>(x), m.spec.format.matrix(param.weight.shape));
        assert_eq!(shape, v.spec.format.matrix(param.weight.shape), "shapes of two moments");
        assert_eq!(x.len(), shape.len(), "elements of a direction");
        self.pool.install(|| direction(isa, (shape, 0), &mut m_rows, &mut v_rows, x, args, param.id));
    }

    fn load_state(&mut self, param: &Param, state: &StateTensor, out: Span) {
        let (isa, mut slices) = (self.isa, self.arena.borrow_slices());
        let mut rows = MomentRows::claim(&mut slices, state);
        let (out, shape) = (slices.write::<f32>(out), state.spec.format.matrix(param.weight.shape));
        assert_eq!(out.len(), shape.len(), "elements of a state tensor");
        self.pool.install(|| load(isa, shape, &mut rows, out));
    }

    fn store_state(&mut self, param: &Param, state: &StateTensor, x: Span, key: &RngKey) {
        let args = MomentumArgs {
            seed: key.seed,
            number: key.step,
            keep: 0.0,
            add: 1.0,
            of_x: 1.0,
            of_old: 0.0,
            of_new: 0.0,
            sign: 0,
            usage: key.usage as u32,
        };
        self.recur(param, state, x, &args, *key);
    }

    fn normalize(&mut self, x: Span, rows: usize, cols: usize, axis: Axis, floor: f32) {
        let mut slices = self.arena.borrow_slices();
        let (isa, x) = (self.isa, slices.write::<f32>(x));
        assert_eq!(x.len(), rows * cols, "elements of a matrix");
        let mut scratch = Scratch::new(slices.write(self.workspace), &self.pool);
        let (sums, _) = scratch.split(normalize::need(rows, cols, axis));
        self.pool.install(|| match axis {
            Axis::Rows => normalize::rows(isa, x, cols, floor),
            Axis::Cols => normalize::cols(isa, x, cols, floor, sums),
        });
    }

    fn add_weight(&mut self, param: &Param, x: Span, factor: f32) {
        let (isa, mut slices) = (self.isa, self.arena.borrow_slices());
        let mut weight = WeightRows::claim(&mut slices, &param.weight);
        let (x, shape) = (slices.write::<f32>(x), param.weight.shape);
        assert_eq!(x.len(), shape.len(), "elements of a direction");
        self.pool.install(|| add_weight(isa, shape, &mut weight, x, factor));
    }

    fn weight_squares(&mut self, param: &Param, out: Span) {
        let (isa, mut slices) = (self.isa, self.arena.borrow_slices());
        let mut weight = WeightRows::claim(&mut slices, &param.weight);
        let (out, shape) = (slices.write::<f32>(out), param.weight.shape);
        assert_eq!(out.len(), shape.padded_len() / quant::BLOCK, "a sum for each block");
        self.pool.install(|| squares_of_weight(isa, shape, &mut weight, out));
    }

    fn apply_update(&mut self, param: &Param, direction: Span, args: &UpdateArgs) {
        let (isa, frozen) = (self.isa, self.gate == Gate::Frozen);
        // Adding nothing could still rescale a group.
        if self.gate == Gate::Shut || (frozen && args.decay == 0.0) {
            return;
        }
        let mut slices = self.arena.borrow_slices();
        let mut rows = ParamRows::claim_weight(&mut slices, param, direction);
        assert_eq!(rows.grad.len(), param.weight.shape.len(), "elements of a direction");
        let rescales = self.pool.install(|| apply(isa, &mut rows, args, frozen, param.id));
        self.update_stats.rescales += rescales;
    }

    fn update_stats(&mut self) -> UpdateStats {
        self.held = false;
        std::mem::take(&mut self.update_stats)
    }
}

impl Cpu {
    /// The recurrence of a state tensor, whatever the gradient allows.
    fn recur(&mut self, param: &Param, state: &StateTensor, x: Span, args: &MomentumArgs, key: RngKey) {
        let (isa, mut slices) = (self.isa, self.arena.borrow_slices());
        let mut rows = MomentRows::claim(&mut slices, state);
        let (x, shape) = (slices.write::<f32>(x), state.spec.format.matrix(param.weight.shape));
        assert_eq!(x.len(), shape.len(), "elements of a direction");
        self.pool.install(|| momentum(isa, (shape, 0), &mut rows, x, args, key));
    }
}

/// What the gradient allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Momentum and update.
    #[default]
    Open,
    /// Only the decay of the weight.
    Frozen,
    /// Nothing.
    Shut,
}

/// What a gradient allows, and what it adds to the statistics.
pub(crate) fn begin(isa: Isa, grad: &[f32], freeze_on_zero: bool) -> (Gate, UpdateStats) {
    let Statistics { gmax, grad_sq } = statistics(isa, grad);
    if !(gmax.is_finite() && grad_sq.is_finite()) {
        return (Gate::Shut, UpdateStats { skipped: 1, ..UpdateStats::default() });
    }
    let gate = if freeze_on_zero && gmax == 0.0 { Gate::Frozen } else { Gate::Open };
    (gate, UpdateStats { grad_sq, ..UpdateStats::default() })
}

vectorized! {
    fn momentum_block(
        with: Isa,
        at: (GroupedShape, usize),
        state: &mut MomentRows,
        x: &mut [f32],
        args: &MomentumArgs,
        key: RngKey,
    ) {
        momentum_rows(with, at, state, x, args, key)
    }
}

/// The recurrence of some rows, cut among threads; `at`: the shape of the whole, and the number of the first row.
pub(crate) fn momentum(
    isa: Isa,
    at: (GroupedShape, usize),
    state: &mut MomentRows,
    x: &mut [f32],
    args: &MomentumArgs,
    key: RngKey,
) {
    let (g, first) = at;
    let rows = x.len() / g.cols;
    if rows <= 1 || x.len() <= BLOCK {
        return momentum_block(isa, isa, at, state, x, args, key);
    }
    let half = rows / 2;
    let (mut top, mut bottom) = state.split(half, g);
    let (left, right) = x.split_at_mut(half * g.cols);
    rayon::join(
        || momentum(isa, at, &mut top, left, args, key),
        || momentum(isa, (g, first + half), &mut bottom, right, args, key),
    );
}

vectorized! {
    fn direction_block(
        with: Isa,
        at: (GroupedShape, usize),
        moments: [&mut MomentRows; 2],
        x: &mut [f32],
        args: &DirectionArgs,
        id: u32,
    ) {
        direction_rows(with, at, moments, x, args, id)
    }
}

/// Adam's direction of some rows, likewise.
fn direction<'a>(
    isa: Isa,
    at: (GroupedShape, usize),
    m: &mut MomentRows<'a>,
    v: &mut MomentRows<'a>,
    x: &mut [f32],
    args: &DirectionArgs,
    id: u32,
) {
    let (g, first) = at;
    let rows = x.len() / g.cols;
    if rows <= 1 || x.len() <= BLOCK {
        return direction_block(isa, isa, at, [m, v], x, args, id);
    }
    let half = rows / 2;
    let ((mut m_top, mut m_bottom), (mut v_top, mut v_bottom)) = (m.split(half, g), v.split(half, g));
    let (left, right) = x.split_at_mut(half * g.cols);
    rayon::join(
        || direction(isa, at, &mut m_top, &mut v_top, left, args, id),
        || direction(isa, (g, first + half), &mut m_bottom, &mut v_bottom, right, args, id),
    );
}

vectorized! {
    fn load_block(shape: GroupedShape, state: &MomentRows, out: &mut [f32]) {
        load_rows(shape, state, out)
    }
}

/// A state tensor's elements, likewise.
pub(crate) fn load(isa: Isa, shape: GroupedShape, state: &mut MomentRows, out: &mut [f32]) {
    let rows = out.len() / shape.cols;
    if rows <= 1 || out.len() <= BLOCK {
        return load_block(isa, shape, state, out);
    }
    let (mut top, mut bottom) = state.split(rows / 2, shape);
    let (left, right) = out.split_at_mut(rows / 2 * shape.cols);
    rayon::join(|| load(isa, shape, &mut top, left), || load(isa, shape, &mut bottom, right));
}

vectorized! {
    fn square_block(with: Isa, shape: GroupedShape, weight: &WeightRows, out: &mut [f32]) {
        square_rows(with, shape, weight, out)
    }
}

/// Squares of the blocks of a weight, likewise.
pub(crate) fn squares_of_weight(isa: Isa, shape: GroupedShape, weight: &mut WeightRows, out: &mut [f32]) {
    let of_row = shape.padded_cols() / quant::BLOCK;
    let rows = out.len() / of_row;
    if rows <= 1 || out.len() <= BLOCK / quant::BLOCK {
        return square_block(isa, isa, shape, weight, out);
    }
    let (mut top, mut bottom) = weight.split(rows / 2, shape);
    let (left, right) = out.split_at_mut(rows / 2 * of_row);
    rayon::join(|| squares_of_weight(isa, shape, &mut top, left), || squares_of_weight(isa, shape, &mut bottom, right));
}

vectorized! {
    fn add_block(with: Isa, shape: GroupedShape, weight: &WeightRows, x: &mut [f32], factor: f32) {
        add_weight_rows(with, shape, weight, x, factor)
    }
}

/// `x += factor w`, likewise.
pub(crate) fn add_weight(isa: Isa, shape: GroupedShape, weight: &mut WeightRows, x: &mut [f32], factor: f32) {
    let rows = x.len() / shape.cols;
    if rows <= 1 || x.len() <= BLOCK {
        return add_block(isa, isa, shape, weight, x, factor);
    }
    let (mut top, mut bottom) = weight.split(rows / 2, shape);
    let (left, right) = x.split_at_mut(rows / 2 * shape.cols);
    rayon::join(
        || add_weight(isa, shape, &mut top, left, factor),
        || add_weight(isa, shape, &mut bottom, right, factor),
    );
}

vectorized! {
    fn apply_block(with: Isa, rows: &mut ParamRows, args: &UpdateArgs, frozen: bool, id: u32) -> u64 {
        apply_rows(with, rows, args, frozen, id)
    }
}

/// The update of some rows, cut among threads; gives the number of groups that were rescaled.
pub(crate) fn apply(isa: Isa, rows: &mut ParamRows, args: &UpdateArgs, frozen: bool, id: u32) -> u64 {
    let count = rows.len();
    if count <= 1 || rows.grad.len() <= BLOCK {
        return apply_block(isa, isa, rows, args, frozen, id);
    }
    let (mut top, mut bottom) = rows.split(count / 2);
    let (a, b) = rayon::join(|| apply(isa, &mut top, args, frozen, id), || apply(isa, &mut bottom, args, frozen, id));
    a + b
}
