//! With AVX-512: a strip of 64 elements is four registers, a group one or two strips.
//!
//! No product is fused with a sum that the reference rounds twice. What is fused is a random number, a multiple of 2^-16, with
//! what it is added to: that product is exact.

use super::moments::{load_m, load_v, store_m, store_v};
use super::registers::Strip;
use super::weight::Weight;
use super::{PackedRows, PackedSecondMoments};
use crate::backend::adam::AdamParams;
use crate::backend::cpu::simd::uniform::avx512::{Draws, STRIP};
use crate::quant::RngUse;
use std::arch::x86_64::*;

/// See [`super::update`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn update(rows: &mut PackedRows, params: &AdamParams, id: u32) -> u64 {
    // Most steps clip nothing, decay no gradient and weaken no update.
    let plain = params.is_plain() && (params.args.l2, params.args.post_decay) == (0.0, 1.0);
    let draws = Draws::new(params.args.seed, id, params.args.number);
    match (rows.group / STRIP, plain) {
        (1, true) => update_groups::<1, true>(rows, params, &draws),
        (1, false) => update_groups::<1, false>(rows, params, &draws),
        (_, true) => update_groups::<2, true>(rows, params, &draws),
        (_, false) => update_groups::<2, false>(rows, params, &draws),
    }
}

/// Groups of N strips. `PLAIN`: no element is clipped, the gradient does not decay, and no update is weakened afterwards.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn update_groups<const N: usize, const PLAIN: bool>(rows: &mut PackedRows, params: &AdamParams, draws: &Draws) -> u64 {
    let shared = matches!(rows.v, PackedSecondMoments::Shared(..));
    let mut rescales = 0;
    for group in 0..rows.m_scales.len() {
        let mut weight = Weight::<N>::load(rows, group);
        let (mut m, mut v) = (load_m::<N>(rows, group), load_v::<N>(rows, group));
        let first = group * rows.group;
        let grad = rows.grad[first..first + rows.group].as_chunks().0;
        for (strip, (grad, moments)) in grad.iter().zip(m.iter_mut().zip(&mut v)).enumerate() {
            match shared {
                false => weight.advance::<PLAIN, false>(strip, params, grad, moments.into()),
                true => weight.advance::<PLAIN, true>(strip, params, grad, moments.into()),
            }
        }
        let [w_u, m_u, v_u] = draw_group::<N>(draws, rows.first + first as u64);
        rescales += u64::from(weight.requantize(rows, group));
        weight.store(rows, group, &w_u);
        if params.args.feedback != 0.0 {
            weight.feed_back(rows, params, &w_u, [&mut m, &mut v]);
        }
        store_m(rows, group, &m, &m_u);
        store_v(rows, group, &v, &v_u);
    }
    rescales
}

/// Random numbers of weight and moments.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn draw_group<const N: usize>(draws: &Draws, first: u64) -> [[Strip; N]; 3] {
    let mut all = [[[_mm512_setzero_ps(); 4]; N]; 3];
    for strip in 0..N {
        let drawn = draws.draw([RngUse::Weight, RngUse::M, RngUse::V], first + (strip * STRIP) as u64);
        for (all, drawn) in all.iter_mut().zip(drawn) {
            all[strip] = drawn;
        }
    }
    all
}
