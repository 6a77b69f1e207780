//! A group of a weight.

use super::registers::{BYTES, Strip, absmax, bytes_of, load_integers, pick_low, plus, store_bytes};
use super::{PackedRows, PackedWeight};
use crate::backend::adam::AdamParams;
use crate::backend::cpu::simd::uniform::avx512::STRIP;
use crate::quant::{Element, QuantGrid, SCALE_MIN};
use std::arch::x86_64::*;

/// The registers of a group of N strips.
pub(super) struct Weight<const N: usize> {
    /// The group's scale; of floats 1.
    scale: f32,
    /// Stored integers; then the unrounded ones after the update. None of floats.
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
        let nothing = [[_mm512_setzero_ps(); 4]; N];
        let (grid, codes, residue, scales) = match &rows.weight {
            PackedWeight::Codes { grid, codes, residue, scales } => (grid, codes, residue, scales),
            PackedWeight::Bf16(data) => {
                let values = load_bf16(&data[group * rows.group..][..rows.group]);
                return Self { scale: 1.0, stored: nothing, values, steps: nothing };
            }
        };
        let scale = read_scale(scales, group);
        let (zero, step) = (_mm512_set1_ps(grid.zero_point), _mm512_set1_ps(scale * grid.unit));
        let mut weight = Self { scale, stored: nothing, values: nothing, steps: nothing };
        let (codes, residue) = (&codes[rows.bytes(group)], &residue[rows.bytes(group)]);
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
        let PackedWeight::Codes { grid, scales, .. } = &mut rows.weight else { return false };
        if !(self.needs_rescale(grid) && self.moves()) {
            let inverse = _mm512_set1_ps(grid.steps(self.scale));
            for (stored, step) in self.stored.as_flattened_mut().iter_mut().zip(self.steps.as_flattened()) {
                *stored = _mm512_sub_ps(*stored, _mm512_mul_ps(*step, inverse));
            }
            return false;
        }
        self.rescale(grid, scales, group);
        true
    }

    /// [`QuantGrid::needs_rescale`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn needs_rescale(&self, grid: &QuantGrid) -> bool {
        let (most, size) = (absmax(&self.values), self.scale.abs());
        (most > grid.grow * size && self.has_left(grid)) || (most < grid.shrink * size && size > SCALE_MIN)
    }

    /// Whether anything moves, rarely asked: where nothing does, no byte changes.
    #[cold]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn moves(&self) -> bool {
        let zero = _mm512_setzero_ps();
        self.steps.as_flattened().iter().any(|step| _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(*step, zero) != 0)
    }

    /// [`QuantGrid::has_left`], rarely asked.
    #[cold]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn has_left(&self, grid: &QuantGrid) -> bool {
        let all = |x: &[Strip; N], start: f32, fold: fn(f32, f32) -> f32| {
            let mut result = start;
            for register in x.as_flattened() {
                let mut numbers = [0.0; 16];
                // SAFETY: sixteen floats, and the store asks for no alignment.
                unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), *register) };
                result = numbers.into_iter().fold(result, fold);
            }
            result
        };
        let range = (all(&self.values, f32::INFINITY, f32::min), all(&self.values, f32::NEG_INFINITY, f32::max));
        grid.has_left(range, self.scale, all(&self.stored, f32::INFINITY, f32::min))
    }

    /// Puts the values on a grid that fits them.
    #[cold]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn rescale(&mut self, grid: &QuantGrid, scales: &mut [u8], group: usize) {
        let mut values = [[[0.0; 16]; 4]; N];
        for (values, strip) in values.iter_mut().zip(&self.values) {
            for (values, register) in values.iter_mut().zip(strip) {
                // SAFETY: sixteen floats, and the store asks for no alignment.
                unsafe { _mm512_storeu_ps(values.as_mut_ptr(), *register) };
            }
        }
        let new = grid.rescale(values.as_flattened().as_flattened(), false);
        new.write(Element::F16, scales, &mut [], group);
        self.scale = new.scale;
        let (zero, inverse) = (_mm512_set1_ps(grid.zero_point), _mm512_set1_ps(grid.steps_per_scale / new.scale));
        for (stored, value) in self.stored.as_flattened_mut().iter_mut().zip(self.values.as_flattened()) {
            *stored = _mm512_add_ps(_mm512_mul_ps(*value, inverse), zero);
        }
    }

    /// Rounds the integers or floats, and stores them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn store(&self, rows: &mut PackedRows, group: usize, u: &[Strip; N]) {
        let bytes = rows.bytes(group);
        let (grid, codes, residue) = match &mut rows.weight {
            PackedWeight::Codes { grid, codes, residue, .. } => (grid, codes, residue),
            PackedWeight::Bf16(data) => {
                return store_bf16(&self.values, u, &mut data[group * rows.group..][..rows.group]);
            }
        };
        let (codes, residue) = (&mut codes[bytes.clone()], &mut residue[bytes]);
        let (min, max) = (_mm512_set1_ps(grid.min), _mm512_set1_ps(grid.max));
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

    /// [`AdamParams::feed_back`] of what [`Weight::store`] leaves over by the same random numbers, `roots` being those of the second
    /// moments. Nothing where it was clamped, and nothing of floats.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn feed_back(
        &self,
        rows: &PackedRows,
        params: &AdamParams,
        u: &[Strip; N],
        [m, roots]: [&mut [Strip; N]; 2],
    ) {
        const DOWN: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
        let PackedWeight::Codes { grid, .. } = &rows.weight else { return };
        let (all, args) = (|x| _mm512_set1_ps(x), &params.args);
        let (mul, add) = (|a, b| _mm512_mul_ps(a, b), |a, b| _mm512_add_ps(a, b));
        let (min, max, step) = (all(grid.min), all(grid.max), all(self.scale * grid.unit));
        let rounded = self.stored.as_flattened().iter().zip(u.as_flattened());
        for ((exact, u), (m, root)) in rounded.zip(m.as_flattened_mut().iter_mut().zip(roots.as_flattened())) {
            let free = _mm512_roundscale_ps::<DOWN>(plus(*u, *exact));
            let kept = _mm512_min_ps(_mm512_max_ps(free, min), max);
            let left = _mm512_maskz_sub_ps(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(kept, free), *exact, kept);
            let divisor = add(mul(*root, all(args.inv_sqrt_bias_correction2)), all(args.eps));
            *m = add(*m, mul(mul(all(args.feedback), divisor), mul(left, step)));
        }
    }
}

/// Values of bfloat16 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_bf16<const N: usize>(data: &[u16]) -> [Strip; N] {
    let mut values = [[_mm512_setzero_ps(); 4]; N];
    for (value, bits) in values.as_flattened_mut().iter_mut().zip(data.as_chunks::<16>().0) {
        // SAFETY: sixteen numbers of sixteen bits, and the load asks for no alignment.
        let bits = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(bits.as_ptr().cast()) });
        *value = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits));
    }
    values
}

/// [`crate::quant::bf16_stochastic`] of a group.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_bf16<const N: usize>(values: &[Strip; N], u: &[Strip; N], data: &mut [u16]) {
    let exponent = _mm512_set1_epi32(0x7f80_0000);
    for ((value, u), out) in values.as_flattened().iter().zip(u.as_flattened()).zip(data.as_chunks_mut::<16>().0) {
        let bits = _mm512_castps_si512(*value);
        // Random numbers are integers here, so that this is exact.
        let rounded = _mm512_add_epi32(bits, _mm512_cvttps_epi32(*u));
        let special = _mm512_cmpeq_epi32_mask(_mm512_and_si512(bits, exponent), exponent);
        let payload = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x007f_ffff));
        let kept = _mm512_mask_or_epi32(bits, payload, bits, _mm512_set1_epi32(1 << 22));
        let high = _mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(rounded, special, kept));
        // SAFETY: sixteen numbers of sixteen bits, and the store asks for no alignment.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(high)) };
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
