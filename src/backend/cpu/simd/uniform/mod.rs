//! [`RngKey::uniform`] by vectors, the same numbers: an update of packed weights and compact state draws three of them for
//! each weight, which would otherwise be most of its work.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;

use super::isa::{Isa, Level};
use crate::quant::RngKey;

/// Fills `out` with the uniform numbers of the elements from `first` on; see [`RngKey::uniform`].
///
/// # Panics
/// If `first` or the length is not a multiple of 32.
#[inline(always)]
pub(crate) fn uniform(isa: Isa, key: &RngKey, first: u64, out: &mut [f32]) {
    match isa.level() {
        // SAFETY: an `Isa` of this level exists only after all that it names was detected.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::uniform(key, first, out) },
        // SAFETY: an `Isa` of this level exists only after AVX2 was detected.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::uniform(key, first, out) },
        Level::Portable => key.uniform(first, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{BLOCK, RngUse};

    /// Around the counter whose lower word overflows too, and with the largest of all words.
    #[test]
    fn every_instruction_set_gives_the_numbers_of_the_reference() {
        let keys = [(7 << 40 | 3, 9, 4, RngUse::M), (u64::MAX, u32::MAX, u32::MAX, RngUse::StoredProjection)];
        for (seed, step, tensor, usage) in keys {
            let key = RngKey { seed, step, tensor, usage };
            for first in [0, 96, (1 << 35) - 96, 1 << 58] {
                for blocks in [1, 2, 3, 7, 8] {
                    let mut expected = vec![0.0; blocks * BLOCK];
                    key.uniform(first, &mut expected);
                    for isa in Isa::available() {
                        let mut found = vec![0.0; blocks * BLOCK];
                        uniform(isa, &key, first, &mut found);
                        assert_eq!(found, expected, "{}, {blocks} blocks from {first}", isa.name());
                    }
                }
            }
        }
    }
}
