//! The formula of one element.

use super::{AdamArgs, Clip};

/// All that the elements of one tensor need in one step: the step's constants and what the gradient's statistics add.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamParams {
    /// AdaClip, or infinite.
    pub clip: Clip,
    /// AdaGN's factor, or 1.
    pub norm: f32,
    /// Only weight decay happens; m and v stay as they are.
    pub frozen: bool,
    /// Everything else.
    pub args: AdamArgs,
}

/// An element after the formula, before anything is rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// What is added to the weight.
    pub delta: f32,
    /// First moment.
    pub m: f32,
    /// Second moment.
    pub v: f32,
    /// Its root.
    pub root: f32,
}

impl AdamParams {
    /// One element: gradient `g`, weight `w`, moments `m` and `v` as stored before the step.
    #[inline(always)]
    pub fn update(&self, g: f32, w: f32, m: f32, v: f32) -> AdamStep {
        let g = self.clip.apply(g) * self.norm + self.args.l2 * w;
        let limit = self.args.spike_threshold * v;
        self.advance(if g * g > limit { limit.sqrt().copysign(g) } else { g }, w, m, v)
    }

    /// Whether no element of this gradient is clipped: [`AdamParams::update_plain`] then gives the same numbers, without
    /// the divisions and roots that clipping takes whether it happens or not.
    pub fn is_plain(&self) -> bool {
        self.clip.gmax <= self.clip.at && self.args.spike_threshold == f32::INFINITY
    }

    /// [`AdamParams::update`] where [`AdamParams::is_plain`].
    #[inline(always)]
    pub fn update_plain(&self, g: f32, w: f32, m: f32, v: f32) -> AdamStep {
        self.advance(g * self.norm + self.args.l2 * w, w, m, v)
    }

    /// The moments take `g` in, and the weight moves.
    #[inline(always)]
    fn advance(&self, g: f32, w: f32, m: f32, v: f32) -> AdamStep {
        let c = &self.args;
        let m = c.beta1 * m + c.one_minus_beta1 * g;
        let v = c.beta2 * v + c.one_minus_beta2 * (g * g);
        let root = v.sqrt();
        let delta = c.post_decay * -(c.step_size * m / self.divisor(root)) - c.decay * w;
        AdamStep { delta, m, v, root }
    }

    /// The gradient's element as it enters the moments, where nothing but AdaClip and AdaGN change it.
    #[inline(always)]
    pub fn gradient(&self, g: f32) -> f32 {
        self.clip.apply(g) * self.norm
    }

    /// A mean of squared gradients taken into its moving average, which was `old` before the step.
    #[inline(always)]
    pub fn mean_of_squares(&self, old: f32, mean: f32) -> f32 {
        self.args.beta2 * old + self.args.one_minus_beta2 * mean
    }

    /// One element whose second moment is shared: `v` is the one of this step, see [`AdamParams::mean_of_squares`].
    #[inline(always)]
    pub fn update_shared(&self, g: f32, w: f32, m: f32, v: f32) -> AdamStep {
        let c = &self.args;
        let m = c.beta1 * m + c.one_minus_beta1 * self.gradient(g);
        let root = v.sqrt();
        let delta = -(c.step_size * m / self.divisor(root)) - c.decay * w;
        AdamStep { delta, m, v, root }
    }

    /// The root of the corrected second moment, plus eps.
    #[inline(always)]
    pub fn denominator(&self, v: f32) -> f32 {
        self.divisor(v.sqrt())
    }

    /// What a first moment is divided by, of the root of the second.
    #[inline(always)]
    fn divisor(&self, root: f32) -> f32 {
        root * self.args.inv_sqrt_bias_correction2 + self.args.eps
    }

    /// `m` with the rounding error `error` (unrounded minus stored weight) fed back; `v` after the update.
    #[inline(always)]
    pub fn feed_back(&self, m: f32, v: f32, error: f32) -> f32 {
        m + self.args.feedback * self.denominator(v) * error
    }

    /// The whole step of a tensor that only decays.
    #[inline(always)]
    pub fn decay_only(&self, w: f32) -> f32 {
        -(self.args.decay * w)
    }
}
