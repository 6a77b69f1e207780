//! Sums and maxima over many lanes. The compiler may not reorder float additions, so their order is given explicitly.

use crate::quant::fold_lanes;

/// Lanes of a reduction: two registers of the widest kind.
const LANES: usize = 32;

/// The lanes folded onto each other, half by half: the same order on every instruction set. Never inlined: the
/// compiler would vectorize the loop that filled the lanes by the last pair of this tree, two lanes at a time.
#[inline(never)]
fn fold(lanes: &[f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    fold_lanes(*lanes, f)
}

/// Lanes summed pairwise: lane i with lane i + half. N is a power of two.
#[inline(always)]
pub(crate) fn fold_halves<const N: usize>(lanes: [f32; N]) -> f32 {
    fold_lanes(lanes, |low, high| low + high)
}

/// Lanes of four rows summed as [`fold_halves`] sums them: the halves of all at once.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx2")]
pub(crate) fn fold_four(rows: [std::arch::x86_64::__m512; 4]) -> std::arch::x86_64::__m128 {
    use std::arch::x86_64::*;
    // Sixteen lanes of two rows to eight of each: a a b b, in quarters of registers.
    let halve =
        |a, b| _mm512_add_ps(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b));
    let (ab, cd) = (halve(rows[0], rows[1]), halve(rows[2], rows[3]));
    // Eight to four: a b c d.
    let four =
        _mm512_add_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd), _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd));
    let two = _mm512_add_ps(four, _mm512_permute_ps::<0b11_10_11_10>(four));
    let one = _mm512_add_ps(two, _mm512_permute_ps::<0b01_01_01_01>(two));
    let firsts = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
    _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, one))
}

/// Sum over pairs of elements, in 32 interleaved sums and one of what is left over: `f(a, b, sum)` adds one pair.
#[inline(always)]
pub(crate) fn sum_of(a: &[f32], b: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for j in 0..LANES {
            sums[j] = f(a[j], b[j], sums[j]);
        }
    }
    // Apart from the lanes: an index known only at run time would keep them out of vector registers.
    let rest = a_tail.iter().zip(b_tail).fold(0.0, |sum, (&a, &b)| f(a, b, sum));
    fold(&sums, |a, b| a + b) + rest
}

/// The greatest element; NaN is passed over, nothing gives negative infinity.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    // Not `f32::max`: this order of the operands is one instruction, which drops a NaN in `a`.
    let greater = |a: f32, b: f32| if a > b { a } else { b };
    let mut greatest = [f32::NEG_INFINITY; LANES];
    let (whole, tail) = x.as_chunks::<LANES>();
    for x in whole {
        for j in 0..LANES {
            greatest[j] = greater(x[j], greatest[j]);
        }
    }
    let rest = tail.iter().fold(f32::NEG_INFINITY, |greatest, &x| greater(x, greatest));
    greater(fold(&greatest, greater), rest)
}
