//! A kernel that only several ranks come to: the sums of another rank, added.

use crate::harness::gpu::{allocate, devices, launch};
use tetrad::backend::cuda::{Args, SOURCES};
use tetrad::memory::{Place, Span};
use zerocopy::IntoBytes;

#[test]
fn sums_of_another_rank_are_added_once() {
    for (name, mut gpu) in devices(SOURCES) {
        for count in [1usize, 255, 256, 257, 1000] {
            allocate(&mut gpu, 1 << 14).unwrap();
            let [received, sums, behind] = [0, 4096, 4096 + 4 * count];
            let span = |offset, bytes| Span { place: Place::Arena, offset, bytes };
            let numbers = |scale: f32| (0..count).map(|i| (i as f32 + 0.7) * scale).collect::<Vec<_>>();
            let (theirs, own) = (numbers(0.3), numbers(-1e3));
            gpu.upload(theirs.as_bytes(), span(received, 4 * count));
            gpu.upload(own.as_bytes(), span(sums, 4 * count));
            let args = Args::new().span(&gpu, span(received, 4 * count)).span(&gpu, span(sums, 4 * count));
            let args = args.u64(count as u64);
            launch(&mut gpu, "add_received", [count.div_ceil(256) as u32, 1, 1], 256, 0, &args);
            let mut found = vec![0f32; count + 1];
            gpu.download(span(sums, 4 * count + 4), found.as_mut_bytes());
            let wanted: Vec<f32> = own.iter().zip(&theirs).map(|(own, theirs)| own + theirs).chain([0.0]).collect();
            assert!(behind < 1 << 14 && found == wanted, "{name}: {count} sums");
        }
    }
}
