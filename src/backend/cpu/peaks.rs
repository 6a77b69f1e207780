//! What this machine can do at most, measured: the numbers that the speed of an operation is a share of.

use super::simd::bf16::{COLS, PANEL, ROWS, STRIP, repeated};
use super::simd::isa::{Isa, Level};
use crate::store::ticks;
use std::hint::black_box;
use std::time::Duration;

/// Sums that are independent of each other: more than the latency of a fused multiply-add times the units for it, and no
/// more than the registers of AVX2 hold beside two factors.
const SUMS: usize = 12;

/// Fused multiply-adds of each sum in one measurement: some 20 ms.
const ROUNDS: usize = 8 << 20;

/// Blocks of the sums of a tile in bfloat16, which stay in the first cache, and tiles in one measurement.
const BLOCKS: usize = 8;
const TILES: usize = 1 << 12;

/// Bytes that all threads together copy in one measurement.
const COPIED: usize = 64 << 20;

/// Measurements, of which the fastest counts.
const REPEATS: usize = 5;

/// The rates of all threads together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// float32 multiplications and additions in a second, in fused instructions on registers.
    pub flops: f64,
    /// The same of products in bfloat16, in tiles that stay in the first cache.
    pub bf16_flops: f64,
    /// Bytes read and bytes written in a second by copying 64 MiB; caches that are larger help.
    pub bytes: f64,
}

/// Measures them with the threads of the rayon pool that it is called in. It takes part of a second, and 128 MiB of memory.
pub fn peaks() -> Peaks {
    let (isa, threads) = (Isa::best(), rayon::current_num_threads());
    let fused = fastest(|| drop(rayon::broadcast(|_| black_box(fused(isa, black_box(ROUNDS))))));
    let flops = 2.0 * (threads * ROUNDS * SUMS * lanes(isa)) as f64 / fused;
    let tiled = fastest(|| drop(rayon::broadcast(|_| black_box(tiles(isa)))));
    let bf16_flops = (threads * TILES * BLOCKS * 2 * STRIP * COLS * 2) as f64 / tiled;
    let share = COPIED / threads;
    let mut buffers: Vec<_> = (0..threads).map(|i| (vec![i as u8 | 1; share], vec![0u8; share])).collect();
    let copied = fastest(|| {
        rayon::scope(|scope| {
            for (from, to) in &mut buffers {
                scope.spawn(|_| black_box(to).copy_from_slice(black_box(from)));
            }
        });
    });
    Peaks { flops, bf16_flops, bytes: (2 * share * threads) as f64 / copied }
}

/// Seconds of the fastest of some repetitions.
fn fastest(mut work: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..REPEATS {
        let begun = ticks();
        work();
        best = best.min(ticks().saturating_sub(begun));
    }
    best.max(Duration::from_nanos(1)).as_secs_f64()
}

/// [`TILES`] times the same tile of ones, and what one of its sums has become.
fn tiles(isa: Isa) -> f32 {
    /// Operands and sums, from the start of a cache line.
    #[repr(align(64))]
    struct Aligned<const N: usize>([f32; N]);
    let ones = black_box(f32::from_bits(0x3f80_3f80));
    let (left, right) = (Aligned([ones; BLOCKS * STRIP]), Aligned([ones; BLOCKS * PANEL]));
    let mut out = Aligned([0.0; ROWS * COLS]);
    repeated(isa, &left.0, &right.0, BLOCKS, &mut out.0, TILES);
    black_box(out.0)[0]
}

/// float32 numbers of a register.
fn lanes(isa: Isa) -> usize {
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => 16,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => 8,
        Level::Portable => 4,
    }
}

/// `rounds` multiplications and additions of [`SUMS`] registers.
fn fused(isa: Isa, rounds: usize) -> f32 {
    match isa.level() {
        // SAFETY: an `Isa` of this level exists only after AVX-512 F was detected.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { fused_avx512(rounds) },
        // SAFETY: an `Isa` of this level exists only after AVX2 and FMA were detected.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { fused_avx2(rounds) },
        Level::Portable => plain(rounds),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn fused_avx512(rounds: usize) -> f32 {
    use std::arch::x86_64::{_mm512_add_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
    let (factor, term) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(1.0)));
    let mut sums = [term; SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, term);
        }
    }
    _mm512_reduce_add_ps(sums.into_iter().fold(term, |a, b| _mm512_add_ps(a, b)))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fused_avx2(rounds: usize) -> f32 {
    use std::arch::x86_64::{_mm256_add_ps, _mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps};
    let (factor, term) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(1.0)));
    let mut sums = [term; SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, term);
        }
    }
    // All lanes are asked for, so that none is left out.
    _mm256_cvtss_f32(black_box(sums.into_iter().fold(term, |a, b| _mm256_add_ps(a, b))))
}

/// The same of four lanes by two instructions.
fn plain(rounds: usize) -> f32 {
    let (factor, term) = (black_box(0.5f32), black_box(1.0f32));
    let mut sums = [[term; 4]; SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = sum.map(|x| x * factor + term);
        }
    }
    sums.as_flattened().iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x becomes x / 2 + 1: from 1 it comes nearer to 2 with every round, so a loop that was left out would show.
    #[test]
    fn every_instruction_set_does_all_rounds() {
        for isa in Isa::available() {
            let few = fused(isa, 1);
            let many = fused(isa, 100);
            assert!(few < many, "{}: {few} {many}", isa.name());
        }
        // Ones times ones.
        assert_eq!(tiles(Isa::best()), (TILES * BLOCKS * 2 * STRIP / ROWS) as f32);
        let Peaks { flops, bf16_flops, bytes } = peaks();
        for rate in [flops, bf16_flops, bytes] {
            assert!(rate.is_finite() && rate > 1e6, "{flops} {bf16_flops} {bytes}");
        }
    }
}
