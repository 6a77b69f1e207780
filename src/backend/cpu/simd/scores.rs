//! Products of one query with many keys.

#[cfg(target_arch = "x86_64")]
use super::isa::Level;
use super::isa::{Isa, madd, vectorized};
use super::reduce::fold_halves;

/// Sums of a product that are kept apart until its end: lane `l` those of elements `l`, `l + 16` and so on.
const LANES: usize = 16;

/// Sets each score to the product of `q` with a key; keys are `width` elements apart.
///
/// # Panics
/// If there are fewer keys than scores.
pub(crate) fn scores(isa: Isa, q: &[f32], keys: &[f32], width: usize, scores: &mut [f32]) {
    let last = scores.len().checked_sub(1).map_or(0, |last| last * width + q.len());
    assert!(last <= keys.len(), "{} keys of {} elements in {}", scores.len(), q.len(), keys.len());
    match isa.level() {
        // SAFETY: an `Isa` of this level exists only after AVX-512 was detected, and all keys are there.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::scores(q, keys, width, scores) },
        _ => plain(isa, q, keys, width, scores),
    }
}

vectorized! {
    fn plain(q: &[f32], keys: &[f32], width: usize, scores: &mut [f32]) {
        for (i, score) in scores.iter_mut().enumerate() {
            let (key, mut sums) = (&keys[i * width..][..q.len()], [0.0f32; LANES]);
            let ((q, q_tail), (key, key_tail)) = (q.as_chunks::<LANES>(), key.as_chunks::<LANES>());
            for (q, key) in q.iter().zip(key) {
                for l in 0..LANES {
                    sums[l] = madd::<FMA>(q[l], key[l], sums[l]);
                }
            }
            for ((sum, q), key) in sums.iter_mut().zip(q_tail).zip(key_tail) {
                *sum = madd::<FMA>(*q, *key, *sum);
            }
            *score = fold_halves(sums);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::LANES;
    use crate::backend::cpu::simd::gemm::tail_mask;
    use crate::backend::cpu::simd::reduce::fold_four;
    use std::arch::x86_64::*;

    /// Keys at a time: their sums are folded together.
    const AT_ONCE: usize = 4;

    /// See [`super::scores`].
    ///
    /// # Safety
    /// The processor has AVX-512 F and AVX2, and `keys` holds as many elements as `q` from each multiple of `width` on, for as
    /// many keys as there are scores.
    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) unsafe fn scores(q: &[f32], keys: &[f32], width: usize, scores: &mut [f32]) {
        for (i, scores) in scores.chunks_mut(AT_ONCE).enumerate() {
            let mut sums = [_mm512_setzero_ps(); AT_ONCE];
            // The last key again in place of those that do not exist.
            let at = |j: usize| keys.as_ptr().wrapping_add((AT_ONCE * i + j.min(scores.len() - 1)) * width);
            let keys = [at(0), at(1), at(2), at(3)];
            for from in (0..q.len()).step_by(LANES) {
                let there = tail_mask(q.len() - from);
                // SAFETY: elements of the query and of keys that are there.
                unsafe {
                    let q = _mm512_maskz_loadu_ps(there, q.as_ptr().add(from));
                    for (sum, key) in sums.iter_mut().zip(keys) {
                        *sum = _mm512_fmadd_ps(q, _mm512_maskz_loadu_ps(there, key.add(from)), *sum);
                    }
                }
            }
            let mut found = [0.0; AT_ONCE];
            // SAFETY: four numbers are stored.
            unsafe { _mm_storeu_ps(found.as_mut_ptr(), fold_four(sums)) };
            scores.copy_from_slice(&found[..scores.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_that_fuse_give_the_same_bits() {
        for (len, width) in [(1, 1), (15, 20), (16, 16), (17, 40), (64, 192), (100, 128)] {
            for count in [0, 1, 3, 4, 5, 9] {
                let number = |i: usize| (i * 7919 % 1009) as f32 / 500.0 - 1.0;
                let (q, keys): (Vec<f32>, Vec<f32>) =
                    ((0..len).map(number).collect(), (0..count * width + len).map(|i| number(i + 5)).collect());
                let of = |isa| {
                    let mut found = vec![f32::NAN; count];
                    scores(isa, &q, &keys, width, &mut found);
                    found
                };
                let mut fused = Isa::available().filter(|isa| isa.name() != "portable").map(of);
                let expected: Vec<f32> = (0..count)
                    .map(|i| {
                        q.iter().zip(&keys[i * width..]).map(|(&q, &key)| f64::from(q) * f64::from(key)).sum::<f64>()
                    })
                    .map(|sum| sum as f32)
                    .collect();
                let near = |found: &[f32]| found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4);
                assert!(near(&of(Isa::available().last().unwrap())), "{count} keys of {len}");
                let first = fused.next();
                assert!(first.as_deref().is_none_or(near) && fused.all(|found| Some(&found) == first.as_ref()));
            }
        }
    }
}
