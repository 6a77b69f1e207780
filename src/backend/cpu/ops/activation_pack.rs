//! Rows in four bits, by the codec of first moments: signed, one scale per group, stochastically rounded.

use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::isa::vectorized;
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::ops::ActivationPack;
use crate::backend::{PACK_GROUP, packed_bytes};
use crate::memory::Span;
use crate::quant::{self, MomentCodec, RngKey};

/// Elements of a task, about.
const BLOCK: usize = 1 << 13;

/// What belongs to one row.
struct Row {
    of_codes: usize,
    of_scales: usize,
    /// Rows of a task.
    block: usize,
}

impl Row {
    /// Rows of `features` elements; `lengths` are those of the elements, codes and scales of all rows.
    fn new(features: usize, lengths: [usize; 3]) -> Self {
        let (of_codes, of_scales) = (packed_bytes(1, features).0, features.div_ceil(PACK_GROUP));
        let rows = lengths[0] / features;
        assert_eq!(lengths, [features, of_codes, of_scales].map(|n| n * rows), "whole rows");
        Self { of_codes, of_scales, block: (BLOCK / features).max(1) }
    }
}

impl ActivationPack for Cpu {
    fn pack_rows(&mut self, x: Span, codes: Span, scales: Span, features: usize, first_row: usize, key: &RngKey) {
        let (isa, mut scratch, mut claims) = self.begin();
        let (x, codes, scales) = (claims.read::<f32>(x), claims.write::<u8>(codes), claims.write::<u16>(scales));
        let Row { of_codes, of_scales, block } = Row::new(features, [x.len(), codes.len(), scales.len()]);
        let (_, mut areas) = scratch.split(Need::default());
        let planes = codes.chunks_mut(block * of_codes).zip(scales.chunks_mut(block * of_scales));
        let tasks = x.chunks(block * features).zip(planes).enumerate();
        areas.run(tasks, |(i, (x, (codes, scales))), _| {
            let planes = codes.chunks_exact_mut(of_codes).zip(scales.chunks_exact_mut(of_scales));
            for (row, (x, (codes, scales))) in x.chunks_exact(features).zip(planes).enumerate() {
                let element = (first_row + i * block + row) * of_scales * PACK_GROUP;
                pack_row(isa, x, codes, scales, element as u64, key);
            }
        });
    }

    fn unpack_rows(&mut self, codes: Span, scales: Span, x: Span, features: usize) {
        let (isa, mut scratch, mut claims) = self.begin();
        let (codes, scales, x) = (claims.read::<u8>(codes), claims.read::<u16>(scales), claims.write::<f32>(x));
        let Row { of_codes, of_scales, block } = Row::new(features, [x.len(), codes.len(), scales.len()]);
        let (_, mut areas) = scratch.split(Need::default());
        let planes = codes.chunks(block * of_codes).zip(scales.chunks(block * of_scales));
        areas.run(x.chunks_mut(block * features).zip(planes), |(x, (codes, scales)), _| {
            let planes = codes.chunks_exact(of_codes).zip(scales.chunks_exact(of_scales));
            for (x, (codes, scales)) in x.chunks_exact_mut(features).zip(planes) {
                unpack_row(isa, codes, scales, x);
            }
        });
    }
}

vectorized! {
    fn pack_row(x: &[f32], codes: &mut [u8], scales: &mut [u16], element: u64, key: &RngKey) {
        let groups = x.chunks(PACK_GROUP).zip(codes.chunks_exact_mut(PACK_GROUP / 2)).zip(scales);
        for (i, ((x, codes), scale)) in groups.enumerate() {
            let (mut values, mut u, mut bytes) = ([0.0; PACK_GROUP], [0.0; PACK_GROUP], [0; PACK_GROUP]);
            values[..x.len()].copy_from_slice(x);
            key.uniform(element + (i * PACK_GROUP) as u64, &mut u);
            *scale = MomentCodec::M4.encode(&mut values, &u, &mut bytes);
            MomentCodec::M4.to_nibbles(&mut bytes);
            quant::pack(&bytes, codes);
        }
    }
}

vectorized! {
    fn unpack_row(codes: &[u8], scales: &[u16], x: &mut [f32]) {
        for ((x, codes), &scale) in x.chunks_mut(PACK_GROUP).zip(codes.chunks_exact(PACK_GROUP / 2)).zip(scales) {
            let (mut bytes, mut values) = ([0; PACK_GROUP], [0.0; PACK_GROUP]);
            quant::unpack(codes, &mut bytes);
            MomentCodec::M4.from_nibbles(&mut bytes);
            MomentCodec::M4.decode(&bytes, scale, &mut values);
            x.copy_from_slice(&values[..x.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Isa;
    use crate::backend::cpu::testing::Rig;
    use crate::backend::testing::Random;
    use crate::quant::{RngUse, bf16_ceil, bf16_to_f32};

    const KEY: RngKey = RngKey { seed: 7, step: 3, tensor: 2, usage: RngUse::ActivationPack };

    /// Each element by the formula of the trait, from the number that is its own.
    #[test]
    fn every_element_is_its_scale_times_a_whole_number() {
        for (rows, features, first) in [(1, 1, 0), (3, 31, 5), (2, 64, 0), (70, 65, 9), (40, 257, 3)] {
            let (mut random, mut rig) = (Random(features as u64), Rig::default());
            let x = random.floats(rows * features);
            let groups = features.div_ceil(PACK_GROUP);
            let mut expected = Vec::new();
            for (i, &value) in x.iter().enumerate() {
                let (row, col) = (i / features, i % features);
                let from = row * features + col / PACK_GROUP * PACK_GROUP;
                let group = &x[from..(from + PACK_GROUP).min((row + 1) * features)];
                let most = group.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                let scale = bf16_to_f32(bf16_ceil(most / 7.0));
                let u = KEY.uniform_at(((first + row) * groups * PACK_GROUP + col) as u64);
                expected.push(f64::from(scale * (value * (1.0 / scale) + u).floor().clamp(-7.0, 7.0)));
            }
            let (codes, scales) = packed_bytes(rows, features);
            let x_at = rig.add(&x[..]);
            let (codes, scales) = (rig.add(&vec![0u8; codes][..]), rig.add(&vec![0u8; scales][..]));
            let out = rig.out(rows * features);
            rig.check(&[(out, expected)], 0.0, |cpu| {
                cpu.pack_rows(x_at, codes, scales, features, first, &KEY);
                cpu.unpack_rows(codes, scales, out, features);
            });
        }
    }

    /// The mean of many roundings is the number itself.
    #[test]
    fn packing_is_right_on_average() {
        let (mut random, mut rig) = (Random(1), Rig::default());
        let x = random.floats(PACK_GROUP);
        let (x_at, codes, scales) = (rig.add(&x[..]), rig.add(&[0u8; 32][..]), rig.add(&[0u8; 2][..]));
        let out = rig.out(PACK_GROUP);
        let mut sums = vec![0.0; PACK_GROUP];
        let runs = 400;
        for step in 0..runs {
            let found = rig.run(Isa::best(), 1, &[out], |cpu| {
                cpu.pack_rows(x_at, codes, scales, PACK_GROUP, 0, &RngKey { step, ..KEY });
                cpu.unpack_rows(codes, scales, out, PACK_GROUP);
            });
            found[0].iter().zip(&mut sums).for_each(|(x, sum)| *sum += f64::from(*x) / f64::from(runs));
        }
        // A rounding has a standard deviation of at most half a scale, here 1/14; five of the mean's.
        let bound = 5.0 * 0.5 / 7.0 / f64::from(runs).sqrt();
        for (x, mean) in x.iter().zip(sums) {
            assert!((f64::from(*x) - mean).abs() < bound, "{x} has a mean of {mean}");
        }
    }
}
