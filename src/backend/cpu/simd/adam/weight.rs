//! A group of a weight.

use super::PackedRows;
use super::registers::{BYTES, Strip, absmax, bytes_of, load_integers, pick_low, plus, store_bytes};
use crate::backend::adam::AdamParams;
use crate::backend::cpu::simd::uniform::avx512::STRIP;
use crate::quant::{Element, QuantGrid, SCALE_MIN};
use std::arch::x86_64::*;

/// The registers of a group of N strips.
pub(super) struct Weight<const N: usize> {
    scale: f32,
    /// Stored integers; then the unrounded ones after the update.
    stored: [Strip; N],
    /// Values; then those after the update, unrounded.
    values: [Strip; N],
    /// What is taken from them.
    steps: [Strip; N],
}

impl<const N: usize> Weight<N> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn load(rows: &PackedRows, group: usize) -> Self {
        let scale = read_scale(rows.scales, group);
        let (zero, step) = (_mm512_set1_ps(rows.grid.zero_point), _mm512_set1_ps(scale * rows.grid.unit));
        let nothing = [[_mm512_setzero_ps(); 4]; N];
        let mut weight = Self { scale, stored: nothing, values: nothing, steps: nothing };
        let (codes, residue) = (&rows.codes[rows.bytes(group)], &rows.residue[rows.bytes(group)]);
        for strip in 0..N {
            let part = strip * BYTES..(strip + 1) * BYTES;
            weight.stored[strip] = load_integers(&codes[part.clone()], &residue[part]);
            for i in 0..4 {
                // The unit is a power of two, so that it may come before the product.
                weight.values[strip][i] = _mm512_mul_ps(step, _mm512_sub_ps(weight.stored[strip][i], zero));
            }
        }
        weight
    }

    /// [`AdamParams::update`], or [`AdamParams::update_shared`], of a strip; leaves roots in `v`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn advance<const PLAIN: bool, const SHARED: bool>(
        &mut self,
        strip: usize,
        params: &AdamParams,
        grad: &[f32; STRIP],
        [m, v]: [&mut Strip; 2],
    ) {
        let (all, args) = (|x| _mm512_set1_ps(x), &params.args);
        let (mul, add) = (|a, b| _mm512_mul_ps(a, b), |a, b| _mm512_add_ps(a, b));
        for (i, grad) in grad.as_chunks::<16>().0.iter().enumerate() {
            let value = self.values[strip][i];
            // SAFETY: sixteen floats, and the load asks for no alignment.
            let mut g = unsafe { _mm512_loadu_ps(grad.as_ptr()) };
            if !PLAIN {
                g = clipped(g, params);
            }
            g = mul(g, all(params.norm));
            if !PLAIN && !SHARED {
                g = add(g, mul(all(args.l2), value));
            }
            m[i] = add(mul(all(args.beta1), m[i]), mul(all(args.one_minus_beta1), g));
            if !SHARED {
                v[i] = add(mul(all(args.beta2), v[i]), mul(all(args.one_minus_beta2), mul(g, g)));
            }
            v[i] = _mm512_sqrt_ps(v[i]);
            let divisor = add(mul(v[i], all(args.inv_sqrt_bias_correction2)), all(args.eps));
            let mut step = _mm512_div_ps(mul(all(args.step_size), m[i]), divisor);
            if !PLAIN && !SHARED {
                step = mul(all(args.post_decay), step);
            }
            // The opposite of what the reference adds: rounding does not know signs.
            self.steps[strip][i] = add(step, mul(all(args.decay), value));
            self.values[strip][i] = _mm512_sub_ps(value, self.steps[strip][i]);
        }
    }

    /// Moves the stored integers, without rounding them; whether the group got a new scale.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn requantize(&mut self, rows: &mut PackedRows, group: usize) -> bool {
        let grid = rows.grid;
        if !self.needs_rescale(grid) {
            let inverse = _mm512_set1_ps(grid.steps_per_scale / self.scale);
            for (stored, step) in self.stored.as_flattened_mut().iter_mut().zip(self.steps.as_flattened()) {
                *stored = _mm512_sub_ps(*stored, _mm512_mul_ps(*step, inverse));
            }
            return false;
        }
        self.rescale(rows, group);
        true
    }

    /// [`QuantGrid::needs_rescale`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn needs_rescale(&self, grid: &QuantGrid) -> bool {
        let most = absmax(&self.values);
        most > grid.grow * self.scale || (most < grid.shrink * self.scale && self.scale > SCALE_MIN)
    }

    /// Puts the values on a grid that fits them.
    #[cold]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn rescale(&mut self, rows: &mut PackedRows, group: usize) {
        let mut values = [[[0.0; 16]; 4]; N];
        for (values, strip) in values.iter_mut().zip(&self.values) {
            for (values, register) in values.iter_mut().zip(strip) {
                // SAFETY: sixteen floats, and the store asks for no alignment.
                unsafe { _mm512_storeu_ps(values.as_mut_ptr(), *register) };
            }
        }
        let grid = rows.grid;
        let new = grid.rescale(values.as_flattened().as_flattened(), false);
        new.write(Element::F16, rows.scales, &mut [], group);
        let (zero, inverse) = (_mm512_set1_ps(grid.zero_point), _mm512_set1_ps(grid.steps_per_scale / new.scale));
        for (stored, value) in self.stored.as_flattened_mut().iter_mut().zip(self.values.as_flattened()) {
            *stored = _mm512_add_ps(_mm512_mul_ps(*value, inverse), zero);
        }
    }

    /// Rounds the integers, and stores them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn store(&self, rows: &mut PackedRows, group: usize, u: &[Strip; N]) {
        let bytes = rows.bytes(group);
        let (codes, residue) = (&mut rows.codes[bytes.clone()], &mut rows.residue[bytes]);
        let (min, max) = (_mm512_set1_ps(rows.grid.min), _mm512_set1_ps(rows.grid.max));
        for (strip, (stored, u)) in self.stored.iter().zip(u).enumerate() {
            let mut integers = [_mm512_setzero_si512(); 4];
            for (integers, (exact, u)) in integers.iter_mut().zip(stored.iter().zip(u)) {
                // Not negative, so that cutting off is rounding down.
                *integers = _mm512_cvttps_epi32(_mm512_min_ps(_mm512_max_ps(plus(*u, *exact), min), max));
            }
            let ([even, odd], part) = (bytes_of(integers), strip * BYTES..(strip + 1) * BYTES);
            store_bytes(pick_low(_mm256_srli_epi16::<4>(even), odd), &mut codes[part.clone()]);
            store_bytes(pick_low(even, _mm256_slli_epi16::<4>(odd)), &mut residue[part]);
        }
    }
}

/// Elements above the threshold by AdaClip.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn clipped(g: __m512, params: &AdamParams) -> __m512 {
    let at = _mm512_set1_ps(params.clip.at);
    let far = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(_mm512_abs_ps(g), at);
    if far == 0 {
        return g;
    }
    _mm512_mask_mul_ps(g, far, _mm512_div_ps(g, _mm512_set1_ps(params.clip.gmax)), at)
}

/// The scale of a group, of half precision.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn read_scale(scales: &[u8], group: usize) -> f32 {
    let bits = i16::from_le_bytes([scales[2 * group], scales[2 * group + 1]]);
    _mm512_cvtss_f32(_mm512_cvtph_ps(_mm256_set1_epi16(bits)))
}
