//! With AVX-512: the counters of 64 elements side by side.

use crate::quant::{BLOCK, COUNTERS, MULTIPLIERS, ROUNDS, RngKey, RngUse, WEYL};
use std::arch::x86_64::*;

/// Elements whose numbers one register of counters gives.
pub(in crate::backend::cpu::simd) const STRIP: usize = 2 * BLOCK;

/// What uniform numbers are multiples of.
pub(in crate::backend::cpu::simd) const UNIT: f32 = 1.0 / 65536.0;

/// What the random numbers of a tensor in a step have in common.
pub(in crate::backend::cpu::simd) struct Draws {
    /// The keys of the rounds.
    rounds: [[u64; 2]; ROUNDS],
    tensor: u64,
    step: u64,
    /// Which halves of two words of four counters are sixteen elements, in their order: of the first and the last four.
    order: [__m512i; 2],
}

impl Draws {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn new(seed: u64, tensor: u32, step: u32) -> Self {
        let (mut k, mut l) = (seed as u32, (seed >> 32) as u32);
        let rounds = std::array::from_fn(|_| {
            let round = [k.into(), l.into()];
            (k, l) = (k.wrapping_add(WEYL.0), l.wrapping_add(WEYL.1));
            round
        });
        let order = [order(0), order(COUNTERS)];
        Self { rounds, tensor: tensor.into(), step: step.into(), order }
    }

    /// The numbers of 64 elements from `first` on, a multiple of 32, for each of some uses; in units of [`UNIT`]. Several
    /// uses at once are faster: the rounds of one would wait for their products.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn draw<const N: usize>(&self, uses: [RngUse; N], first: u64) -> [[__m512; 4]; N] {
        let all = |x: u64| _mm512_set1_epi64(x as i64);
        let counters =
            _mm512_add_epi64(all(first / BLOCK as u64 * COUNTERS as u64), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
        let high = _mm512_and_si512(_mm512_srli_epi64::<32>(counters), all(0x00ff_ffff));
        // Loops in place of `map`: what is called from there is not compiled for these instructions, and not inlined.
        let mut words = [[counters, high, all(self.tensor), all(self.step)]; N];
        for ([_, high, ..], usage) in words.iter_mut().zip(uses) {
            *high = _mm512_or_si512(*high, all((usage as u64) << 24));
        }
        let (by_a, by_c) = (all(MULTIPLIERS.0.into()), all(MULTIPLIERS.1.into()));
        // Only lower halves of lanes mean anything: products read no others, and exclusive ors carry nothing over. Two rounds
        // at a time need no copies for the exchange of words.
        for two in self.rounds.as_chunks::<2>().0 {
            for &[k, l] in two {
                let (k, l) = (all(k), all(l));
                for [a, b, c, d] in &mut words {
                    let (x, y) = (_mm512_mul_epu32(*a, by_a), _mm512_mul_epu32(*c, by_c));
                    *a = xor(upper_halves(y), *b, k);
                    *c = xor(upper_halves(x), *d, l);
                    (*b, *d) = (y, x);
                }
            }
        }
        let ([first, last], mut out) = (self.order, [[_mm512_setzero_ps(); 4]; N]);
        for (out, [a, b, c, d]) in out.iter_mut().zip(words) {
            *out = [numbers(a, first, b), numbers(c, first, d), numbers(a, last, b), numbers(c, last, d)];
        }
        out
    }
}

/// See [`super::uniform`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn uniform(key: &RngKey, first: u64, out: &mut [f32]) {
    assert!(first.is_multiple_of(BLOCK as u64) && out.len().is_multiple_of(BLOCK));
    let draws = Draws::new(key.seed, key.tensor, key.step);
    let unit = _mm512_set1_ps(UNIT);
    for (i, strip) in out.chunks_mut(STRIP).enumerate() {
        let [numbers] = draws.draw([key.usage], first + (i * STRIP) as u64);
        // The last may be half a strip.
        for (numbers, out) in numbers.into_iter().zip(strip.as_chunks_mut::<16>().0) {
            // SAFETY: `out` is sixteen floats, and the store asks for no alignment.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_mul_ps(numbers, unit)) };
        }
    }
}

/// `a ^ b ^ c`.
#[inline]
#[target_feature(enable = "avx512f")]
fn xor(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0x96>(a, b, c)
}

/// The upper halves of lanes, in both halves. Shifts would wait for the multiplier's port.
#[inline]
#[target_feature(enable = "avx512f")]
fn upper_halves(x: __m512i) -> __m512i {
    _mm512_shuffle_epi32::<0b11_11_01_01>(x)
}

/// Sixteen halves of words of `x` and `y`, as numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn numbers(x: __m512i, order: __m512i, y: __m512i) -> __m512 {
    _mm512_cvtepi32_ps(_mm512_maskz_permutex2var_epi16(0x5555_5555, x, order, y))
}

/// Element by element: of four counters from `first` on the lower halves of a word, then the upper ones, then those of the
/// next word.
#[inline]
#[target_feature(enable = "avx512f")]
fn order(first: usize) -> __m512i {
    let half = |element: usize| {
        let (lane, half, word) = (first + element % COUNTERS, element / COUNTERS % 2, element / (2 * COUNTERS));
        // A lane is four halves, a register 32.
        (32 * word + 4 * lane + half) as i32
    };
    let lanes: [i32; 16] = std::array::from_fn(half);
    // SAFETY: sixteen integers, and the load asks for no alignment.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}
