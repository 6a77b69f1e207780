//! With AVX2.

use crate::quant::{BLOCK, COUNTERS, MULTIPLIERS, ROUNDS, RngKey, WEYL};
use std::arch::x86_64::*;

/// The four words of as many counters as a block takes, each in the lower half of a lane; what is in the upper half
/// means nothing.
type Words = [__m256i; 4];

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn uniform(key: &RngKey, first: u64, out: &mut [f32]) {
    assert!(first.is_multiple_of(BLOCK as u64) && out.len().is_multiple_of(BLOCK));
    let mut counter = first / BLOCK as u64 * COUNTERS as u64;
    // Two blocks at once: the rounds of one alone would wait for their products.
    let (pairs, rest) = out.as_chunks_mut::<{ 2 * BLOCK }>();
    for pair in pairs {
        let words = words(key, counter);
        for (words, block) in words.iter().zip(pair.as_chunks_mut().0) {
            place(words, block);
        }
        counter += 2 * COUNTERS as u64;
    }
    for block in rest.as_chunks_mut().0 {
        place(&words(key, counter)[0], block);
    }
}

/// Philox of two blocks' counters. The products read the lower halves of lanes only, and additions and exclusive ors
/// carry nothing down, so nothing has to be cut off.
#[inline]
#[target_feature(enable = "avx2")]
fn words(key: &RngKey, counter: u64) -> [Words; 2] {
    let all = |x: u64| _mm256_set1_epi64x(x as i64);
    let (by_a, by_c) = (all(MULTIPLIERS.0.into()), all(MULTIPLIERS.1.into()));
    let (weyl_k, weyl_l) = (all(WEYL.0.into()), all(WEYL.1.into()));
    let (mut k, mut l) = (all(key.seed), all(key.seed >> 32));
    let first = _mm256_add_epi64(all(counter), _mm256_set_epi64x(3, 2, 1, 0));
    let counters = [first, _mm256_add_epi64(first, all(COUNTERS as u64))];
    let usage = all((key.usage as u64) << 24);
    let mut words = counters.map(|counter| {
        let high = _mm256_and_si256(_mm256_srli_epi64::<32>(counter), all(0x00ff_ffff));
        [counter, _mm256_or_si256(high, usage), all(key.tensor.into()), all(key.step.into())]
    });
    for _ in 0..ROUNDS {
        for [a, b, c, d] in &mut words {
            let (x, y) = (_mm256_mul_epu32(*a, by_a), _mm256_mul_epu32(*c, by_c));
            *a = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64::<32>(y), *b), k);
            *c = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64::<32>(x), *d), l);
            (*b, *d) = (y, x);
        }
        k = _mm256_add_epi64(k, weyl_k);
        l = _mm256_add_epi64(l, weyl_l);
    }
    words
}

/// Eight numbers out of each counter's words: of a word the lower halves of all lanes, then the upper ones.
#[inline]
#[target_feature(enable = "avx2")]
fn place(words: &Words, out: &mut [f32; BLOCK]) {
    let (low, high) = (_mm256_set1_epi64x(0xffff), _mm256_set1_epi64x(0xffff << 32));
    let order = _mm256_set_epi32(7, 5, 3, 1, 6, 4, 2, 0);
    for (&word, out) in words.iter().zip(out.as_chunks_mut::<8>().0) {
        let upper = _mm256_and_si256(_mm256_slli_epi64::<16>(word), high);
        let halves = _mm256_or_si256(_mm256_and_si256(word, low), upper);
        let whole = _mm256_cvtepi32_ps(_mm256_permutevar8x32_epi32(halves, order));
        let numbers = _mm256_mul_ps(whole, _mm256_set1_ps(1.0 / 65536.0));
        // SAFETY: `out` is eight floats, and the store asks for no alignment.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), numbers) };
    }
}
