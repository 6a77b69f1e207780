//! Kernels that only several ranks come to: the sums of another rank, added, and rounded before they are sent.

use crate::harness::gpu::{allocate, devices, launch};
use half::bf16;
use tetrad::backend::cuda::{Args, SOURCES};
use tetrad::memory::{Place, Span};
use zerocopy::IntoBytes;

const BYTES: usize = 1 << 14;

fn span(offset: usize, bytes: usize) -> Span {
    Span { place: Place::Arena, offset, bytes }
}

fn numbers(count: usize, scale: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 + 0.7) * scale).collect()
}

const COUNTS: [usize; 5] = [1, 255, 256, 257, 1000];

fn blocks(count: usize) -> [u32; 3] {
    [count.div_ceil(256) as u32, 1, 1]
}

#[test]
fn sums_of_another_rank_are_added_once() {
    for (name, mut gpu) in devices(SOURCES) {
        for count in COUNTS {
            let (theirs, own) = (numbers(count, 0.3), numbers(count, -1e3));
            let narrow: Vec<bf16> = theirs.iter().map(|x| bf16::from_f32(*x)).collect();
            let rounded: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
            let kernels: [(&str, &[u8], &[f32]); 2] =
                [("add_received", theirs.as_bytes(), &theirs), ("add_received_bf16", narrow.as_bytes(), &rounded)];
            for (kernel, sent, theirs) in kernels {
                allocate(&mut gpu, BYTES).unwrap();
                let (received, sums) = (span(0, sent.len()), span(4096, 4 * count));
                gpu.upload(sent, received);
                gpu.upload(own.as_bytes(), sums);
                let args = Args::new().span(&gpu, received).span(&gpu, sums).u64(count as u64);
                launch(&mut gpu, kernel, blocks(count), 256, 0, &args);
                let mut found = vec![0f32; count + 1];
                gpu.download(span(4096, 4 * count + 4), found.as_mut_bytes());
                let wanted: Vec<f32> = own.iter().zip(theirs).map(|(own, theirs)| own + theirs).chain([0.0]).collect();
                assert!(found == wanted, "{name}: {count} sums by {kernel}");
            }
        }
    }
}

#[test]
fn sums_are_rounded_to_the_nearest_halves_to_even() {
    for (name, mut gpu) in devices(SOURCES) {
        for count in COUNTS {
            allocate(&mut gpu, BYTES).unwrap();
            let mut own = numbers(count, 0.3);
            for (to, from) in own.iter_mut().zip([257.0 / 256.0, 259.0 / 256.0, 3.4e38, -0.0, 1e-40]) {
                *to = from;
            }
            gpu.upload(own.as_bytes(), span(0, 4 * count));
            let args = Args::new().span(&gpu, span(0, 4 * count)).span(&gpu, span(4096, 2 * count)).u64(count as u64);
            launch(&mut gpu, "round_sums", blocks(count), 256, 0, &args);
            let mut found = vec![bf16::ZERO; count + 1];
            gpu.download(span(4096, 2 * count + 2), found.as_mut_bytes());
            let wanted = own.iter().map(|x| bf16::from_f32(*x)).chain([bf16::ZERO]).map(bf16::to_bits);
            let found = found.into_iter().map(bf16::to_bits);
            assert!(found.eq(wanted), "{name}: {count} sums");
        }
    }
}
