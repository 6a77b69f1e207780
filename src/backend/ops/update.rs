//! The update of a parameter from its gradient.

use crate::backend::adam::AdamArgs;
use crate::backend::{AdamUpdate, Axis, DirectionArgs, MomentumArgs, Param, StateTensor, UpdateArgs, UpdateStats};
use crate::memory::Span;
use crate::quant::RngKey;

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

    /// The same for several parameters, whose spans do not overlap: their planes, and what is counted, become what one update
    /// after the other makes of them.
    fn adam_group(&mut self, updates: &[AdamUpdate]) {
        updates.iter().for_each(|update| self.adam(&update.param, update.grad, &update.args));
    }

    /// If one of `numbers`, float32, is not finite, every [`Update::adam`] and all that [`Update::begin_update`] allows change
    /// nothing and count nothing until [`Update::update_stats`] is called: whether a step is learned may depend on numbers that
    /// the host has not read.
    fn hold_updates_unless_finite(&mut self, numbers: Span);

    /// Takes the gradient of a parameter (float32) into account, before any of the operations that follow. If it is not
    /// finite, [`Update::momentum`] and [`Update::apply_update`] do nothing until the next call, which is counted; if it
    /// is all zero and `freeze_on_zero`, momentum does nothing and the update only decays the weight, or does nothing
    /// without decay.
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
    /// float32 in the weight's shape, from a multiple of 16 bytes on, as what a rule is given is.
    fn apply_update(&mut self, param: &Param, direction: Span, args: &UpdateArgs);

    /// What the updates since the last call did, together: one question to the device for a whole step.
    fn update_stats(&mut self) -> UpdateStats;
}
