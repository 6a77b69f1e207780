//! The lattice a group's weights live on: fitting it, moving on it, leaving it.
//!
//! A stored number b stands for the value `step (b - zero)`, where `step` is the group's scale divided by the
//! lattice's subdivision; with an offset o, for `step (b - fine / 2) + o`.

use super::Rounding;
use half::f16;

/// The smallest scale: the smallest normal f16. Below it a scale would lose its eleven bits.
pub const SCALE_MIN: f32 = 6.103_515_6e-5;

/// How a group of weights is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lattice {
    /// Steps of the stored number per scale: 16 with residue, 1 without.
    pub fine: f32,
    /// The stored number of the value 0 in symmetric groups.
    pub zero: f32,
    /// The stored number whose value is the offset, in asymmetric groups.
    pub origin: f32,
    /// Smallest stored number.
    pub min: f32,
    /// Largest stored number.
    pub max: f32,
    /// A fresh fit puts the largest magnitude at this many scales.
    pub fit: f32,
    /// A magnitude above this many scales has left the range.
    pub grow: f32,
    /// A group whose magnitudes all lie below this many scales wastes half of its range.
    pub shrink: f32,
}

impl Lattice {
    /// `codes` and `residue`: a byte.
    pub const INT4: Self =
        Self { fine: 16.0, zero: 136.0, origin: 8.0, min: 0.0, max: 255.0, fit: 6.0, grow: 7.4, shrink: 3.5 };
    /// `codes` only.
    pub const CODES: Self = Self { fine: 1.0, zero: 8.0, origin: 0.0, max: 15.0, ..Self::INT4 };
    /// One signed byte; the headroom is that of [`Lattice::INT4`]: 127 6/7.4 and 127 3.5/7.4.
    pub const INT8: Self =
        Self { fine: 1.0, zero: 0.0, origin: 0.0, min: -127.0, max: 127.0, fit: 103.0, grow: 127.0, shrink: 60.0 };

    /// The value of a stored number.
    #[inline(always)]
    pub fn value(&self, b: f32, place: Placement) -> f32 {
        match place.offset {
            None => place.scale * (b - self.zero) / self.fine,
            Some(offset) => place.scale * (b - self.origin) / self.fine + offset,
        }
    }

    /// Where the values of a group should lie on this lattice.
    /// A group of zeros gets the smallest scale; values that are not finite give scales that are not finite.
    pub fn fit(&self, values: &[f32], asymmetric: bool) -> Placement {
        if asymmetric {
            let (low, high) = range(values);
            let scale = to_scale((high - low) / (2.0 * self.fit));
            // The middle of the codes 0..15 meets the middle of the values.
            Placement { scale, offset: Some(f16::from_f32((low + high) * 0.5 - 7.5 * scale).to_f32()) }
        } else {
            Placement { scale: to_scale(absmax(values) / self.fit), offset: None }
        }
    }

    /// Whether values have left the range, or all lie in its inner half.
    #[inline(always)]
    pub fn needs_fit(&self, values: &[f32], place: Placement) -> bool {
        match place.offset {
            None => {
                let most = absmax(values);
                most > self.grow * place.scale || (most < self.shrink * place.scale && place.scale > SCALE_MIN)
            }
            Some(offset) => {
                let (low, high) = range(values);
                high > offset + (8.0 + self.grow) * place.scale
                    || low < offset - 0.5 * place.scale
                    || (high - low < 2.0 * self.shrink * place.scale && place.scale > SCALE_MIN)
            }
        }
    }

    /// The stored number for a value: `floor(b + u)`, clamped; `u` in [0, 1), one half for rounding to nearest.
    #[inline(always)]
    pub fn store(&self, value: f32, place: Placement, u: f32) -> f32 {
        let base = if place.offset.is_some() { self.origin } else { self.zero };
        let steps = (value - place.offset.unwrap_or(0.0)) * (self.fine / place.scale);
        (steps + base + u).floor().clamp(self.min, self.max)
    }

    /// An unrounded stored number becomes one: `floor(exact + u)`, clamped. Also gives what was left over, in the
    /// unit of the weight, `step` being that of one stored number: at most one step, and nothing where it was
    /// clamped, since what is cut off there could never be replayed.
    #[inline(always)]
    pub fn round(&self, exact: f32, u: f32, step: f32) -> (f32, f32) {
        let free = (exact + u).floor();
        let b = if free < self.min { self.min } else { free };
        let b = if b > self.max { self.max } else { b };
        (b, if b == free { (exact - b) * step } else { 0.0 })
    }

    /// A group of values onto a lattice fitted to them; stored numbers go to `out`.
    pub fn quantize(&self, values: &[f32], asymmetric: bool, rounding: Rounding, out: &mut [f32]) -> Placement {
        let place = self.fit(values, asymmetric);
        for (i, (&value, out)) in values.iter().zip(out).enumerate() {
            *out = self.store(value, place, rounding.at(i));
        }
        place
    }
}

/// Scale and offset of a group, as stored (exactly representable in f16).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// The scale.
    pub scale: f32,
    /// The offset, in asymmetric groups.
    pub offset: Option<f32>,
}

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
        most[0] = most[0].max(x.abs());
    }
    for chunk in chunks {
        for (most, x) in most.iter_mut().zip(chunk) {
            *most = if x.abs() > *most { x.abs() } else { *most };
        }
    }
    most.into_iter().fold(0.0, f32::max)
}

/// Smallest and largest value.
#[inline(always)]
fn range(values: &[f32]) -> (f32, f32) {
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
    (low.into_iter().fold(f32::INFINITY, f32::min), high.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(Lattice, bool); 5] = [
        (Lattice::INT4, false),
        (Lattice::INT4, true),
        (Lattice::CODES, false),
        (Lattice::CODES, true),
        (Lattice::INT8, false),
    ];

    fn group(seed: u64, spread: f32, shift: f32) -> Vec<f32> {
        let stream = crate::nibble::Stream { seed, step: 0, tensor: 0, purpose: crate::nibble::Purpose::Init };
        let mut x = vec![0.0; 64];
        stream.normal(0, &mut x);
        x.iter().map(|x| x * spread + shift).collect()
    }

    #[test]
    fn rounding_to_nearest_is_within_half_a_step() {
        for (lattice, asymmetric) in ALL {
            for seed in 0..20 {
                let x = group(seed, 0.02, if asymmetric { 0.05 } else { 0.0 });
                let mut b = vec![0.0; 64];
                let place = lattice.quantize(&x, asymmetric, Rounding::Nearest, &mut b);
                assert!(!lattice.needs_fit(&x, place), "a fresh fit needs no fit");
                for (&x, &b) in x.iter().zip(&b) {
                    let error = (lattice.value(b, place) - x).abs();
                    assert!(error <= 0.5001 * place.scale / lattice.fine, "{lattice:?} {asymmetric} {error}");
                }
            }
        }
    }

    #[test]
    fn the_code_is_the_trained_value_rounded_to_nearest() {
        let place = Placement { scale: 0.25, offset: None };
        for b in 0..256 {
            let trained = Lattice::INT4.value(b as f32, place);
            let code = Lattice::CODES.value((b >> 4) as f32, place);
            assert!((trained - code).abs() <= 0.5 * place.scale, "{b}");
        }
    }

    #[test]
    fn extremes_trigger_a_fit() {
        for (lattice, asymmetric) in ALL {
            let x = group(1, 0.02, 0.0);
            let place = lattice.fit(&x, asymmetric);
            let grown: Vec<f32> = x.iter().map(|x| x * 1.5).collect();
            let shrunk: Vec<f32> = x.iter().map(|x| x * 0.5).collect();
            assert!(lattice.needs_fit(&grown, place) && lattice.needs_fit(&shrunk, place));
        }
    }

    #[test]
    fn a_group_of_zeros_has_the_smallest_scale_and_stays() {
        for (lattice, asymmetric) in ALL {
            let mut b = [0.0; 32];
            let place = lattice.quantize(&[0.0; 32], asymmetric, Rounding::Nearest, &mut b);
            assert_eq!(place.scale, SCALE_MIN);
            assert!(b.iter().all(|&b| lattice.value(b, place).abs() <= SCALE_MIN * 0.5));
            assert!(!lattice.needs_fit(&[0.0; 32], place));
        }
    }
}
