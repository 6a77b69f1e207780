//! The grid that a group's weights are quantized to: the value of a stored integer, rounding, choosing the scale.
//!
//! A stored integer q has the value `step (q - zero_point)`, where `step` is the group's scale divided by
//! `steps_per_scale`; with an offset o, it has the value `step (q - offset_point) + o`. Four-bit floats are not evenly
//! spaced: see [`super::fp4`].

use super::fp4::{level, position, power_at_least, power_of_two};
use super::{Element, Rounding};
use half::f16;

/// The smallest scale: the smallest normal f16. Below it a scale would lose its eleven bits.
pub const SCALE_MIN: f32 = 6.103_515_6e-5;

/// How the values of stored integers are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// Evenly; scales are f16.
    Even,
    /// Like the sixteen floats of two exponent bits and one of mantissa; scales are powers of two.
    E2m1,
}

/// The integers that weights of one format are stored as, and what they mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantGrid {
    /// Steps of the stored integer per scale, a power of two: 16 with residue, 1 without.
    pub steps_per_scale: f32,
    /// Scales per step: its inverse, which is exact.
    pub unit: f32,
    /// The stored integer of the value 0 in symmetric groups.
    pub zero_point: f32,
    /// The stored integer whose value is the offset, in asymmetric groups.
    pub offset_point: f32,
    /// Smallest stored integer.
    pub min: f32,
    /// Largest stored integer.
    pub max: f32,
    /// How their values are spaced.
    pub levels: Levels,
    /// A new scale puts the largest magnitude at this many scales (or fewer, where scales are powers of two).
    pub target: f32,
    /// The same where nothing will be trained that needs room to grow.
    pub tight: f32,
    /// A magnitude above this many scales has left the range.
    pub grow: f32,
    /// A symmetric group that holds a stored integer below this was not fitted here: ggml's Q4_0 and a merged adapter
    /// use the code 0, where the grids of training end above it.
    pub deep: f32,
    /// The scales below zero that values of such a group may go on to.
    pub reach: f32,
    /// A group whose magnitudes all lie below this many scales wastes half of its range.
    pub shrink: f32,
}

impl QuantGrid {
    /// `codes` and `residue`: a byte.
    pub const INT4: Self = Self {
        steps_per_scale: 16.0,
        unit: 1.0 / 16.0,
        zero_point: 136.0,
        offset_point: 8.0,
        min: 0.0,
        max: 255.0,
        levels: Levels::Even,
        target: 6.0,
        // As near to the values as sixteen codes allow.
        tight: 7.2,
        grow: 7.4,
        // Values down to 7.4 scales below zero are rounded to 17 at least.
        deep: 17.0,
        reach: 8.4,
        shrink: 3.5,
    };
    /// `codes` only. Here rounding leads to code 0 too; such a group keeps its scale as well.
    pub const CODES: Self = Self {
        steps_per_scale: 1.0,
        unit: 1.0,
        zero_point: 8.0,
        offset_point: 0.0,
        max: 15.0,
        deep: 1.0,
        ..Self::INT4
    };
    /// One signed byte; the headroom is that of [`QuantGrid::INT4`]: 127 6/7.4 and 127 3.5/7.4.
    pub const INT8: Self = Self {
        steps_per_scale: 1.0,
        unit: 1.0,
        zero_point: 0.0,
        offset_point: 0.0,
        min: -127.0,
        max: 127.0,
        levels: Levels::Even,
        target: 103.0,
        tight: 103.0,
        grow: 127.0,
        deep: -127.0,
        reach: 127.0,
        shrink: 60.0,
    };
    /// `codes` and `residue` of four-bit floats: sixteen steps from each of the fifteen values to the next.
    pub const FP4: Self = Self {
        steps_per_scale: 16.0,
        unit: 1.0 / 16.0,
        zero_point: 120.0,
        offset_point: 0.0,
        min: 0.0,
        max: 239.0,
        levels: Levels::E2m1,
        target: 6.0,
        tight: 6.0,
        // The last of the steps has the value 6.875. A new scale leaves the largest magnitude between 3 and 6.
        grow: 6.8,
        deep: 0.0,
        reach: 6.8,
        shrink: 2.75,
    };
    /// `codes` only.
    pub const FP4_CODES: Self = Self { steps_per_scale: 1.0, unit: 1.0, zero_point: 7.0, max: 14.0, ..Self::FP4 };

    /// Steps of the stored integer in a unit of value. Where the scale is 0 all integers have one value, and nothing moves by any
    /// number of them.
    #[inline(always)]
    pub fn steps(&self, scale: f32) -> f32 {
        if scale == 0.0 { 0.0 } else { self.steps_per_scale / scale }
    }

    /// The value of a stored integer.
    #[inline(always)]
    pub fn value(&self, q: f32, group: GroupScale) -> f32 {
        match group.offset {
            None if self.levels == Levels::E2m1 => group.scale * level((q - self.zero_point) * self.unit),
            None => group.scale * (q - self.zero_point) * self.unit,
            Some(offset) => group.scale * (q - self.offset_point) * self.unit + offset,
        }
    }

    /// The scale, and offset if `asymmetric`, for the values of a group. A group of zeros gets the smallest scale;
    /// values that are not finite give a scale that is not finite.
    #[inline(always)]
    pub fn rescale(&self, values: &[f32], asymmetric: bool) -> GroupScale {
        if asymmetric {
            let (low, high) = range(values);
            let scale = to_scale((high - low) / (2.0 * self.target));
            // The middle of the codes 0..15 meets the middle of the values.
            GroupScale { scale, offset: Some(f16::from_f32((low + high) * 0.5 - 7.5 * scale).to_f32()) }
        } else {
            let scale = absmax(values) / self.target;
            let scale = if self.levels == Levels::E2m1 { power_at_least(scale) } else { to_scale(scale) };
            GroupScale { scale, offset: None }
        }
    }

    /// Whether values have left the range, or all lie in its inner half: then the group needs a new scale. `lowest` gives its
    /// smallest stored integer before the values moved. A negative scale, as ggml writes it, turns the grid round.
    #[inline(always)]
    pub fn needs_rescale(&self, values: &[f32], group: GroupScale, lowest: impl FnOnce() -> f32) -> bool {
        let size = group.scale.abs();
        match group.offset {
            None => {
                let most = absmax(values);
                (most > self.grow * size && self.has_left(range(values), group.scale, lowest()))
                    || (most < self.shrink * size && size > SCALE_MIN)
            }
            Some(offset) => {
                let ((low, high), offset) = along(group.scale, range(values), offset);
                high > offset + (8.0 + self.grow) * size
                    || low < offset - 0.5 * size
                    || (high - low < 2.0 * self.shrink * size && size > SCALE_MIN)
            }
        }
    }

    /// Whether the values of a symmetric group, the smallest and the largest, have left its range.
    pub(crate) fn has_left(&self, range: (f32, f32), scale: f32, lowest: f32) -> bool {
        let ((low, high), _) = along(scale, range, 0.0);
        let reach = if lowest < self.deep { self.reach } else { self.grow };
        high > self.grow * scale.abs() || low < -reach * scale.abs()
    }

    /// The stored integer of a value: `floor(q + u)`, clamped; `u` in [0, 1), one half for rounding to nearest.
    #[inline(always)]
    pub fn store(&self, value: f32, group: GroupScale, u: f32) -> f32 {
        // `clamp` asks whether its limits are in order, each time.
        let free = (self.exact(value, group) + u).floor();
        let q = if free < self.min { self.min } else { free };
        if q > self.max { self.max } else { q }
    }

    /// The unrounded stored number of a value.
    #[inline(always)]
    pub fn exact(&self, value: f32, group: GroupScale) -> f32 {
        if self.levels == Levels::E2m1 {
            return position(value / group.scale) * self.steps_per_scale + self.zero_point;
        }
        let base = if group.offset.is_some() { self.offset_point } else { self.zero_point };
        (value - group.offset.unwrap_or(0.0)) * (self.steps_per_scale / group.scale) + base
    }

    /// Rounds a stored number to an integer: `floor(exact + u)`, clamped. Also gives the rounding error in the unit of
    /// the weight, `step` being the value of one: at most one step, and zero where the integer was clamped, since what
    /// is cut off there could never be replayed.
    #[inline(always)]
    pub fn round(&self, exact: f32, u: f32, step: f32) -> (f32, f32) {
        let free = (exact + u).floor();
        let q = if free < self.min { self.min } else { free };
        let q = if q > self.max { self.max } else { q };
        (q, if q == free { (exact - q) * step } else { 0.0 })
    }

    /// Quantizes a group with a scale of its own; the stored integers go to `out`.
    #[inline(always)]
    pub fn quantize(&self, values: &[f32], asymmetric: bool, rounding: Rounding, out: &mut [f32]) -> GroupScale {
        let group = self.rescale(values, asymmetric);
        for (i, (&value, out)) in values.iter().zip(out).enumerate() {
            *out = self.store(value, group, rounding.at(i));
        }
        group
    }
}

/// Scale and offset of a group, as stored (exactly representable in f16).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupScale {
    /// The scale.
    pub scale: f32,
    /// The offset, in asymmetric groups.
    pub offset: Option<f32>,
}

impl GroupScale {
    /// Of group `group`, from the bytes of a weight's planes, scales being of type `scale`; the plane of offsets is empty
    /// in symmetric groups.
    #[inline(always)]
    pub fn read(scale: Element, scales: &[u8], offsets: &[u8], group: usize) -> Self {
        if scale == Element::PowerOfTwo {
            return Self { scale: power_of_two(scales[group]), offset: None };
        }
        let number = |plane: &[u8]| f16::from_le_bytes([plane[2 * group], plane[2 * group + 1]]).to_f32();
        Self { scale: number(scales), offset: (!offsets.is_empty()).then(|| number(offsets)) }
    }

    /// The inverse of [`GroupScale::read`].
    #[inline(always)]
    pub fn write(self, scale: Element, scales: &mut [u8], offsets: &mut [u8], group: usize) {
        if scale == Element::PowerOfTwo {
            scales[group] = (self.scale.to_bits() >> 23) as u8;
            return;
        }
        let bytes = |number: f32| f16::from_f32(number).to_le_bytes();
        scales[2 * group..][..2].copy_from_slice(&bytes(self.scale));
        if let Some(offset) = self.offset {
            offsets[2 * group..][..2].copy_from_slice(&bytes(offset));
        }
    }
}

/// A range of values and an offset as they lie along a grid of this scale.
#[inline(always)]
fn along(scale: f32, (low, high): (f32, f32), offset: f32) -> ((f32, f32), f32) {
    if scale < 0.0 { ((-high, -low), -offset) } else { ((low, high), offset) }
}

#[inline(always)]
fn to_scale(scale: f32) -> f32 {
    f16::from_f32(scale.clamp(SCALE_MIN, f16::MAX.to_f32())).to_f32()
}

/// Lanes of the reductions below; a fixed number keeps their order the same on every instruction set.
const LANES: usize = 16;

/// The largest magnitude; magnitudes that are NaN are passed over.
#[inline(always)]
pub fn absmax(values: &[f32]) -> f32 {
    let mut most = [0.0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    for &x in chunks.remainder() {
        most[0] = if x.abs() > most[0] { x.abs() } else { most[0] };
    }
    for chunk in chunks {
        for (most, x) in most.iter_mut().zip(chunk) {
            *most = if x.abs() > *most { x.abs() } else { *most };
        }
    }
    fold_lanes(most, |a, b| if b > a { b } else { a })
}

/// Lanes combined pairwise, lane i with lane i + half: log N dependent operations, and the same order on every
/// instruction set. N is a power of two.
#[inline(always)]
pub(crate) fn fold_lanes<const N: usize>(mut lanes: [f32; N], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = N / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = combine(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Smallest and largest value.
#[inline(always)]
pub(super) fn range(values: &[f32]) -> (f32, f32) {
    let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let chunks = values.chunks_exact(LANES);
    for &x in chunks.remainder() {
        (low[0], high[0]) = (low[0].min(x), high[0].max(x));
    }
    for chunk in chunks {
        for (i, &x) in chunk.iter().enumerate() {
            low[i] = if x < low[i] { x } else { low[i] };
            high[i] = if x > high[i] { x } else { high[i] };
        }
    }
    (fold_lanes(low, |a, b| if b < a { b } else { a }), fold_lanes(high, |a, b| if b > a { b } else { a }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(QuantGrid, bool); 7] = [
        (QuantGrid::INT4, false),
        (QuantGrid::INT4, true),
        (QuantGrid::CODES, false),
        (QuantGrid::CODES, true),
        (QuantGrid::INT8, false),
        (QuantGrid::FP4, false),
        (QuantGrid::FP4_CODES, false),
    ];

    fn group(seed: u64, spread: f32, shift: f32) -> Vec<f32> {
        let key = crate::quant::RngKey { seed, step: 0, tensor: 0, usage: crate::quant::RngUse::Init };
        let mut x = vec![0.0; 64];
        key.normal(0, &mut x);
        x.iter().map(|x| x * spread + shift).collect()
    }

    #[test]
    fn rounding_to_nearest_is_within_half_a_step() {
        for (grid, asymmetric) in ALL {
            for seed in 0..20 {
                let x = group(seed, 0.02, if asymmetric { 0.05 } else { 0.0 });
                let mut b = vec![0.0; 64];
                let group = grid.quantize(&x, asymmetric, Rounding::Nearest, &mut b);
                assert!(!grid.needs_rescale(&x, group, || grid.zero_point), "a new scale needs no other");
                for (&x, &b) in x.iter().zip(&b) {
                    let error = (grid.value(b, group) - x).abs();
                    // The widest of the gaps between four-bit floats is two scales.
                    let gap = if grid.levels == Levels::E2m1 { 2.0 } else { 1.0 };
                    let bound = 0.5001 * gap * group.scale / grid.steps_per_scale;
                    assert!(error <= bound, "{grid:?} {asymmetric} {error}");
                }
            }
        }
    }

    #[test]
    fn the_code_is_the_trained_value_rounded_to_nearest() {
        let group = GroupScale { scale: 0.25, offset: None };
        for b in 0..256 {
            let trained = QuantGrid::INT4.value(b as f32, group);
            let code = QuantGrid::CODES.value((b >> 4) as f32, group);
            assert!((trained - code).abs() <= 0.5 * group.scale, "{b}");
        }
    }

    #[test]
    fn extremes_ask_for_a_new_scale() {
        for (grid, asymmetric) in ALL {
            let x = group(1, 0.02, 0.0);
            let group = grid.rescale(&x, asymmetric);
            // Powers of two leave up to a factor of two of room.
            let grown: Vec<f32> = x.iter().map(|x| x * if grid.levels == Levels::E2m1 { 2.3 } else { 1.5 }).collect();
            let shrunk: Vec<f32> = x.iter().map(|x| x * if grid.levels == Levels::E2m1 { 0.45 } else { 0.5 }).collect();
            let needs = |x: &[f32]| grid.needs_rescale(x, group, || grid.zero_point);
            assert!(needs(&grown) && needs(&shrunk));
        }
    }

    #[test]
    fn a_group_of_zeros_has_the_smallest_scale_and_stays() {
        for (grid, asymmetric) in ALL {
            let mut b = [0.0; 32];
            let group = grid.quantize(&[0.0; 32], asymmetric, Rounding::Nearest, &mut b);
            assert_eq!(group.scale, SCALE_MIN);
            assert!(b.iter().all(|&b| grid.value(b, group).abs() <= SCALE_MIN * 0.5));
            assert!(!grid.needs_rescale(&[0.0; 32], group, || grid.zero_point));
        }
    }

    /// Groups as ggml makes them: the largest magnitude is code 0, at eight scales of either sign.
    #[test]
    fn groups_of_either_sign_that_use_every_code_keep_their_scale() {
        for (grid, asymmetric) in
            ALL.into_iter().filter(|(grid, _)| grid.zero_point >= 8.0 && grid.levels == Levels::Even)
        {
            for scale in [0.25, -0.25] {
                let offset = asymmetric.then_some(8.0 * -scale);
                let group = GroupScale { scale, offset };
                let stored = |code: i32| {
                    ((code as f32) - 8.0) * grid.steps_per_scale
                        + if asymmetric { grid.offset_point + 8.0 * grid.steps_per_scale } else { grid.zero_point }
                };
                let values: Vec<f32> = (0..16).map(|code| grid.value(stored(code), group)).collect();
                let needs = |values: &[f32]| grid.needs_rescale(values, group, || stored(0));
                assert!(!needs(&values), "{grid:?} {group:?}: {values:?}");
                // On both sides there is an end.
                for (i, beyond) in [(0, -0.7), (15, 0.6)] {
                    let mut moved = values.clone();
                    moved[i] += beyond * scale;
                    assert!(needs(&moved), "{grid:?} {group:?}: {moved:?}");
                }
                // Where training put the values, what lies as far down has left.
                assert!(asymmetric || grid.needs_rescale(&values, group, || grid.zero_point));
            }
        }
    }
}
