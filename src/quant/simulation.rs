//! Four-bit numbers that floats are rounded to where products read them: what publications train with, over weights that
//! keep all their bits.

use super::grid::{absmax, range};

/// What a group's floats are rounded to. Halves go to the even neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Simulation {
    /// INT4 as in the code of arXiv 2502.17055 if there are offsets: `s (clamp(round(x / s) + z, 0, 15) - z)` with
    /// `s = (max - min) / 15` and `z = clamp(-round(min / s), 0, 15)`. Without: `s clamp(round(x / s), -8, 7)` with
    /// `s = absmax / 7`. Groups run on from a row to the next.
    Int4 {
        /// Whether a group has an offset beside its scale.
        offsets: bool,
    },
    /// The same in groups that begin anew in each row.
    Int4Rows {
        /// Whether a group has an offset beside its scale.
        offsets: bool,
    },
    /// FP4 E1M2 as in the code of arXiv 2502.17055: the two largest magnitudes of a group stay, the others become
    /// `q round(x / q)` with a quarter of the largest of these others as `q`. Groups run on from a row to the next.
    Fp4,
}

/// A group of INT4 whose range is below this is rounded as if it had this range.
const LEAST_RANGE: f32 = 1e-5;
/// FP4: the largest magnitude is taken to be at least this.
const LEAST_MAGNITUDE: f32 = 1e-6;

impl Simulation {
    /// All.
    pub const ALL: [Self; 5] = [
        Self::Int4 { offsets: false },
        Self::Int4 { offsets: true },
        Self::Int4Rows { offsets: false },
        Self::Int4Rows { offsets: true },
        Self::Fp4,
    ];

    /// Whether groups begin anew in each row.
    pub const fn is_per_row(self) -> bool {
        matches!(self, Self::Int4Rows { .. })
    }

    /// The name of the numbers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int4 { .. } | Self::Int4Rows { .. } => "INT4",
            Self::Fp4 => "FP4",
        }
    }

    /// Rounds a group.
    #[inline(always)]
    pub fn round(self, group: &mut [f32]) {
        match self {
            Self::Int4 { offsets: true } | Self::Int4Rows { offsets: true } => round_asymmetric(group),
            Self::Int4 { offsets: false } | Self::Int4Rows { offsets: false } => round_symmetric(group),
            Self::Fp4 => round_fp4(group),
        }
    }
}

#[inline(always)]
fn round_symmetric(group: &mut [f32]) {
    let (low, high) = range(group);
    let scale = high.max(-low).max(LEAST_RANGE) / 7.0;
    for x in group {
        *x = scale * (*x / scale).round_ties_even().clamp(-8.0, 7.0);
    }
}

#[inline(always)]
fn round_asymmetric(group: &mut [f32]) {
    let (low, high) = range(group);
    let scale = (high - low).max(LEAST_RANGE) / 15.0;
    let zero = (-(low / scale).round_ties_even()).clamp(0.0, 15.0);
    for x in group {
        *x = scale * (((*x / scale).round_ties_even() + zero).clamp(0.0, 15.0) - zero);
    }
}

#[inline(always)]
fn round_fp4(group: &mut [f32]) {
    without_the_largest(group, |group| {
        let step = absmax(group).max(LEAST_MAGNITUDE) / 4.0;
        for x in group {
            *x = step * (*x / step).round_ties_even();
        }
    });
}

/// Puts the two largest magnitudes (of equal ones the first) aside while `work` sees zeros in their places. What is not a
/// number is never the largest.
///
/// # Panics
/// If the group is empty.
#[inline(always)]
pub fn without_the_largest(group: &mut [f32], work: impl FnOnce(&mut [f32])) {
    let first = largest(group);
    let first_value = std::mem::replace(&mut group[first], 0.0);
    let second = largest(group);
    let second_value = std::mem::replace(&mut group[second], 0.0);
    work(group);
    // In this order: a group of one element has only a first.
    group[second] = second_value;
    group[first] = first_value;
}

/// Index of the first element of the greatest magnitude; 0 if there is none but NaN.
#[inline(always)]
fn largest(group: &[f32]) -> usize {
    let most = absmax(group);
    group.iter().position(|x| x.abs() == most).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_largest_are_put_aside_and_come_back() {
        let mut group = [0.5, -2.0, f32::NAN, 2.0, 1.0];
        without_the_largest(&mut group, |group| {
            assert_eq!((group[1], group[3]), (0.0, 0.0));
            group[0] = 7.0;
        });
        assert_eq!([group[0], group[1], group[3], group[4]], [7.0, -2.0, 2.0, 1.0]);
        assert!(group[2].is_nan());
        let mut one = [3.0];
        without_the_largest(&mut one, |group| assert_eq!(group, [0.0]));
        assert_eq!(one, [3.0]);
    }

    #[test]
    fn fp4_has_five_magnitudes_beside_the_largest() {
        let mut group = [9.0, -8.0, 1.0, 0.1, -0.13, 0.4, 0.625, 0.875];
        Simulation::Fp4.round(&mut group);
        assert_eq!(group, [9.0, -8.0, 1.0, 0.0, -0.25, 0.5, 0.5, 1.0]);
    }
}
