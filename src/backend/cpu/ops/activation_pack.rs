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
        let (isa, mut scratch, mut slices) = self.begin();
        let (x, codes, scales) = (slices.read::<f32>(x), slices.write::<u8>(codes), slices.write::<u16>(scales));
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
        let (isa, mut scratch, mut slices) = self.begin();
        let (codes, scales, x) = (slices.read::<u8>(codes), slices.read::<u16>(scales), slices.write::<f32>(x));
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
