//! The tile with fused multiply-adds on registers of 8 or 16 numbers, for processors without instructions for bfloat16: some
//! rows' chains of one register of columns at a time. Words of the left operand are taken apart first, so that a chain reads
//! its factor from memory.

use super::{COLS, DEPTH, HIGH, PANEL, ROWS, STRIP, WORDS, former, latter};
use std::arch::x86_64::*;

/// Words of some rows, taken apart: for each row the former numbers, and the latter ones.
type Apart<const M: usize> = [[[f32; DEPTH * WORDS]; 2]; M];

#[inline(always)]
fn take_apart<const M: usize>(left: &[f32], row: usize, blocks: usize, apart: &mut Apart<M>) {
    for (i, [formers, latters]) in apart.iter_mut().enumerate() {
        let apart = formers.chunks_exact_mut(WORDS).zip(latters.chunks_exact_mut(WORDS));
        for (block, (formers, latters)) in apart.enumerate().take(blocks) {
            let words = &left[block * STRIP + (row + i) * WORDS..][..WORDS];
            for ((&word, first), second) in words.iter().zip(formers).zip(latters) {
                (*first, *second) = (former(word), latter(word));
            }
        }
    }
}

/// Defines a tile: its rows at once with their numbers, and what an instruction set calls its registers' functions.
macro_rules! tile {
    ($name:ident, $features:literal, $m:literal, [$($row:literal)*], $lanes:literal,
     $load:ident, $store:ident, $set:ident, $fma:ident, $add:ident, $halves:ident, $normal:ident) => {
        /// A tile that the output has all of.
        ///
        /// # Safety
        /// The processor has the features; `left` and `right` hold `blocks` blocks of a strip and of a panel, at most [`DEPTH`];
        /// the output is writable for [`ROWS`] rows of [`COLS`], `stride` apart.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(
            left: &[f32],
            right: &[f32],
            blocks: usize,
            (out, stride): (*mut f32, usize),
            goes_on: bool,
        ) {
            assert!(blocks <= DEPTH && blocks * PANEL <= right.len(), "{blocks} blocks");
            let mut apart: Apart<$m> = [[[0.0; DEPTH * WORDS]; 2]; $m];
            for row in (0..ROWS).step_by($m) {
                take_apart(left, row, blocks, &mut apart);
                for col in (0..COLS).step_by($lanes) {
                    let at = |i: usize| out.wrapping_add((row + i) * stride + col);
                    // All indices are literals, here and below, so that the sums are registers at every level of
                    // optimisation.
                    let mut sums = [$set(0.0); $m];
                    if goes_on {
                        // SAFETY: row + i < ROWS, and a register from column `col` on ends at COLS at most.
                        each_row!(I in $($row)* => sums[I] = $normal(unsafe { $load(at(I)) }));
                    }
                    for block in 0..blocks {
                        let mut chains = [[$set(0.0); 2]; $m];
                        for word in block * WORDS..(block + 1) * WORDS {
                            // SAFETY: word < blocks * WORDS, of which the panel has rows of COLS, as was asserted.
                            let halves = $halves(unsafe { $load(right.as_ptr().add(word * COLS + col)) });
                            each_row!(I in $($row)* => {
                                chains[I][0] = $fma($set(apart[I][0][word]), halves[0], chains[I][0]);
                                chains[I][1] = $fma($set(apart[I][1][word]), halves[1], chains[I][1]);
                            });
                        }
                        each_row!(I in $($row)* => sums[I] = $normal($add(sums[I], $add(chains[I][0], chains[I][1]))));
                    }
                    // SAFETY: as for loading.
                    each_row!(I in $($row)* => unsafe { $store(at(I), sums[I]) });
                }
            }
        }
    };
}

tile!(
    avx2, "avx2,fma", 4, [0 1 2 3], 8,
    _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps, halves_avx2, normal_avx2
);
tile!(
    avx512, "avx512f,fma", 8, [0 1 2 3 4 5 6 7], 16,
    _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps, halves_avx512, normal_avx512
);

/// The former and the latter numbers of words.
#[inline]
#[target_feature(enable = "avx2")]
fn halves_avx2(words: __m256) -> [__m256; 2] {
    let words = _mm256_castps_si256(words);
    let high = _mm256_set1_epi32(HIGH.cast_signed());
    [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)), _mm256_castsi256_ps(_mm256_and_si256(words, high))]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn halves_avx512(words: __m512) -> [__m512; 2] {
    let words = _mm512_castps_si512(words);
    let high = _mm512_set1_epi32(HIGH.cast_signed());
    [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)), _mm512_castsi512_ps(_mm512_and_si512(words, high))]
}

/// Subnormal numbers become 0, as for AMX; what is no number stays.
#[inline]
#[target_feature(enable = "avx2")]
fn normal_avx2(x: __m256) -> __m256 {
    let magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0), x);
    _mm256_and_ps(x, _mm256_cmp_ps::<_CMP_NLT_UQ>(magnitude, _mm256_set1_ps(f32::MIN_POSITIVE)))
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn normal_avx512(x: __m512) -> __m512 {
    let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(_mm512_abs_ps(x), _mm512_set1_ps(f32::MIN_POSITIVE));
    _mm512_maskz_mov_ps(kept, x)
}
