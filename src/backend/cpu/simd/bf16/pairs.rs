//! The tile with `VDPBF16PS` (AVX512-BF16), for processors without AMX: an instruction adds two products to a sum, that of the
//! upper halves of its words first, each by a fused addition. A chain takes two of its products at once so, where the words hold
//! neighbours of a chain: [`trade_strip`] and [`trade_panel`] have two words that follow each other trade halves, formers `f` and
//! latters `l` in `(f0, l0), (f1, l1)` becoming `(f1, f0), (l1, l0)`, the lower half first.

use super::fused::normal_avx512 as normal;
use super::{COLS, HIGH, PANEL, ROWS, STRIP, WORDS};
use crate::backend::cpu::simd::isa::vectorized;
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// Proof that the processor has the instruction, and that it sums in the order above.
#[derive(Clone, Copy)]
pub(super) struct Detected(());

impl Detected {
    pub fn new() -> Option<Self> {
        static DETECTED: OnceLock<bool> = OnceLock::new();
        let detect = || {
            let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
            // SAFETY: the processor has both.
            has && unsafe { sums_in_order() }
        };
        DETECTED.get_or_init(detect).then_some(Self(()))
    }

    /// A tile that the output has all of.
    ///
    /// # Safety
    /// `left` and `right` are readable for `blocks` blocks of a strip and of a panel; the output is writable for [`ROWS`] rows
    /// of [`COLS`], `stride` apart.
    pub unsafe fn tile(self, left: &[f32], right: &[f32], blocks: usize, out: (*mut f32, usize), goes_on: bool) {
        // SAFETY: the features were detected, which `self` proves; the rest is the caller's promise.
        unsafe { tile(left, right, blocks, out, goes_on) }
    }
}

vectorized! {
    /// Words of a strip, or of some of its rows, trade halves.
    pub(super) fn trade_strip(words: &mut [f32]) {
        for pair in words.as_chunks_mut::<2>().0 {
            *pair = trade(pair[0], pair[1]);
        }
    }
}

vectorized! {
    /// Words of a panel, or of an even number of its rows, trade halves.
    pub(super) fn trade_panel(words: &mut [f32]) {
        for rows in words.as_chunks_mut::<{ 2 * COLS }>().0 {
            let (former, latter) = rows.split_at_mut(COLS);
            for (former, latter) in former.iter_mut().zip(latter) {
                [*former, *latter] = trade(*former, *latter);
            }
        }
    }
}

#[inline(always)]
fn trade(former: f32, latter: f32) -> [f32; 2] {
    let (former, latter) = (former.to_bits(), latter.to_bits());
    [former << 16 | latter & !HIGH, former & HIGH | latter >> 16].map(f32::from_bits)
}

/// What the instruction takes for the words of a register.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn words(register: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes, of which any are valid.
    unsafe { std::mem::transmute(register) }
}

/// Rows whose sums and chains are registers: with both registers of a row's columns 8 of the former, 16 of the latter.
const M: usize = 4;
const LANES: usize = 16;
const _: () = assert!(ROWS.is_multiple_of(M) && COLS == 2 * LANES && WORDS.is_multiple_of(2));

/// See [`Detected::tile`].
///
/// # Safety
/// The processor has the features; the rest as there.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile(left: &[f32], right: &[f32], blocks: usize, (out, stride): (*mut f32, usize), goes_on: bool) {
    for row in (0..ROWS).step_by(M) {
        let at = |i: usize, j: usize| out.wrapping_add((row + i) * stride + j * LANES);
        // All indices are literals, here and below, so that the sums are registers at every level of optimisation.
        let mut sums = [[_mm512_setzero_ps(); 2]; M];
        if goes_on {
            // SAFETY: row + i < ROWS, and a register from column j LANES on ends at COLS at most.
            each_row!(I in 0 1 2 3 => sums[I] = unsafe { [_mm512_loadu_ps(at(I, 0)), _mm512_loadu_ps(at(I, 1))] });
        }
        let left = &left[row * WORDS..];
        if goes_on && any_fine(&sums) {
            add_blocks::<true>(left, right, blocks, &mut sums);
        } else {
            add_blocks::<false>(left, right, blocks, &mut sums);
        }
        each_row!(I in 0 1 2 3 => {
            // SAFETY: as for loading.
            unsafe {
                _mm512_storeu_ps(at(I, 0), sums[I][0]);
                _mm512_storeu_ps(at(I, 1), sums[I][1]);
            }
        });
    }
}

/// Adds [`M`] rows' blocks to their sums. Where those may be `FINE`, subnormal numbers become 0 after every block; other sums never
/// are subnormal.
///
/// # Panics
/// If the operands have fewer blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn add_blocks<const FINE: bool>(left: &[f32], right: &[f32], blocks: usize, sums: &mut [[__m512; 2]; M]) {
    for block in 0..blocks {
        let (left, right) = (&left[block * STRIP..][..M * WORDS], &right[block * PANEL..][..PANEL]);
        let (mut formers, mut latters) = ([[_mm512_setzero_ps(); 2]; M], [[_mm512_setzero_ps(); 2]; M]);
        for word in (0..WORDS).step_by(2) {
            // SAFETY: `right` has WORDS rows of COLS words, two registers each, and WORDS is even.
            let load = |i: usize| words(unsafe { _mm512_loadu_ps(right.as_ptr().add(word * COLS + i * LANES)) });
            let [a, b, c, d] = [load(0), load(1), load(2), load(3)];
            each_row!(I in 0 1 2 3 => {
                let at = I * WORDS + word;
                let [former, latter] = [left[at], left[at + 1]].map(|word| words(_mm512_set1_ps(word)));
                formers[I][0] = _mm512_dpbf16_ps(formers[I][0], former, a);
                formers[I][1] = _mm512_dpbf16_ps(formers[I][1], former, b);
                latters[I][0] = _mm512_dpbf16_ps(latters[I][0], latter, c);
                latters[I][1] = _mm512_dpbf16_ps(latters[I][1], latter, d);
            });
        }
        each_row!(I in 0 1 2 3 => {
            sums[I][0] = sum::<FINE>(sums[I][0], formers[I][0], latters[I][0]);
            sums[I][1] = sum::<FINE>(sums[I][1], formers[I][1], latters[I][1]);
        });
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn sum<const FINE: bool>(sum: __m512, formers: __m512, latters: __m512) -> __m512 {
    let sum = if FINE { normal(sum) } else { sum };
    let sum = _mm512_add_ps(sum, _mm512_add_ps(formers, latters));
    if FINE { normal(sum) } else { sum }
}

/// Whether a sum may be no multiple of 2^-126, as products and sums of them are (see [`super::Operand`]), so that it may become
/// subnormal: a magnitude below 2^-103 whose last place is below 2^-126.
#[inline]
#[target_feature(enable = "avx512f")]
fn any_fine(sums: &[[__m512; 2]; M]) -> bool {
    const LEAST: f32 = f32::from_bits((127 - 103) << 23);
    sums.as_flattened().iter().any(|&sum| {
        let nonzero = _mm512_cmp_ps_mask::<_CMP_NEQ_OQ>(sum, _mm512_setzero_ps());
        _mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(nonzero, _mm512_abs_ps(sum), _mm512_set1_ps(LEAST)) != 0
    })
}

/// Whether the instruction adds what manuals say, and in that order: numbers for which any other comes to other bits.
#[target_feature(enable = "avx512f,avx512bf16")]
fn sums_in_order() -> bool {
    let mut state = 1u32;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Of a magnitude from 1/16 to 2.
        f32::from_bits(state & 0x807f_0000 | (123 + (state >> 9) % 5) << 23)
    };
    (0..64).all(|_| {
        let [a, b, c, d, sum] = [(); 5].map(|()| number());
        let word = |low: f32, high: f32| words(_mm512_set1_ps(f32::from_bits(low.to_bits() >> 16 | high.to_bits())));
        let found = _mm512_dpbf16_ps(_mm512_set1_ps(sum / 3.0), word(a, b), word(c, d));
        a.mul_add(c, b.mul_add(d, sum / 3.0)).to_bits() == _mm512_cvtss_f32(found).to_bits()
    })
}
