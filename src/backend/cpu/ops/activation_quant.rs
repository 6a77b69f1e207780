//! Four-bit activations with two outliers kept per group (arXiv 2502.17055).

use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::isa::vectorized;
use crate::backend::cpu::simd::reduce;
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::ops::ActivationQuant;
use crate::memory::Span;

/// Elements of a group.
const GROUP: usize = 256;
/// Elements of a task, about.
const BLOCK: usize = 1 << 13;

impl ActivationQuant for Cpu {
    fn quantize_activations(&mut self, x: Span, features: usize) {
        let (isa, mut scratch, mut claims) = self.begin();
        let x = claims.write::<f32>(x);
        assert!(x.len().is_multiple_of(features), "whole rows");
        let block = (BLOCK / features).max(1) * features;
        let (_, mut areas) = scratch.split(Need::default());
        areas.run(x.chunks_mut(block), |rows, _| {
            for row in rows.chunks_exact_mut(features) {
                row.chunks_mut(GROUP).for_each(|group| quantize_group(isa, group));
            }
        });
    }
}

vectorized! {
    /// The two largest magnitudes stay (of equal ones, the first); the others become `s round(x / s)` with
    /// `s = absmax / 7` of these others, halves to the even neighbour. NaN stays NaN and counts in no maximum.
    fn quantize_group(x: &mut [f32]) {
        let first = largest(x);
        let first_value = std::mem::replace(&mut x[first], 0.0);
        let second = largest(x);
        let second_value = std::mem::replace(&mut x[second], 0.0);
        let scale = x[largest(x)].abs() / 7.0;
        // A scale of zero (or too small for a float32) means that nothing but the two is there to be rounded.
        if scale != 0.0 {
            x.iter_mut().for_each(|x| *x = scale * (*x / scale).round_ties_even());
        }
        // In this order: a group of one element has only a first.
        x[second] = second_value;
        x[first] = first_value;
    }
}

/// Index of the first element of the greatest magnitude; 0 if there is none but NaN.
#[inline(always)]
fn largest(x: &[f32]) -> usize {
    let max = reduce::max_magnitude(x);
    x.iter().position(|x| x.abs() == max).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use crate::backend::cpu::Isa;
    use crate::backend::cpu::testing::Rig;
    use crate::backend::ops::reference;
    use crate::backend::testing::Random;

    #[test]
    fn same_values_as_the_reference_to_the_last_bit() {
        for (tokens, features) in [(1, 1), (2, 2), (3, 3), (5, 31), (3, 255), (2, 256), (9, 257), (40, 344), (2, 5461)]
        {
            let (mut random, mut rig) = (Random(features as u64), Rig::default());
            // Sixteenths: plenty of equal magnitudes and of exact halves.
            let x: Vec<f32> = random.floats(tokens * features).iter().map(|x| (x * 16.0).round() / 16.0).collect();
            let at = rig.add(&x[..]);
            let expected = reference::quantize_activations(&x, features);
            rig.check(&[(at, reference::wide(&expected))], 0.0, |cpu| cpu.quantize_activations(at, features));
        }
    }

    #[test]
    fn outliers_stay_exact_and_ties_go_to_the_first() {
        let mut x = vec![0.75f32; 256];
        (x[7], x[100], x[200], x[255]) = (1.0, -3.7, 3.7, -0.8);
        let mut rig = Rig::default();
        let at = rig.add(&x[..]);
        for isa in Isa::available() {
            let found = rig.run(isa, 1, &[at], |cpu| cpu.quantize_activations(at, 256)).remove(0);
            assert_eq!((found[100], found[200], found[7]), (-3.7, 3.7, 1.0));
            // The others have absmax 1: -0.8 is nearest to -6/7, 0.75 to 5/7.
            assert_eq!((found[255], found[0]), (-6.0 * (1.0 / 7.0), 5.0 * (1.0 / 7.0)));
        }
    }

    #[test]
    fn nan_stays_nan_and_spoils_no_neighbour() {
        let mut x = vec![0.5f32; 300];
        (x[0], x[299]) = (f32::NAN, f32::NAN);
        let mut rig = Rig::default();
        let at = rig.add(&x[..]);
        for isa in Isa::available() {
            let found = rig.run(isa, 1, &[at], |cpu| cpu.quantize_activations(at, 300)).remove(0);
            assert!(found.iter().enumerate().all(|(i, x)| x.is_nan() == (i == 0 || i == 299)));
        }
    }
}
