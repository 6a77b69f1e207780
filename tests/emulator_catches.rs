//! What the emulator of CUDA finds: kernels with a planted bug, each beside the same kernel without it.
//!
//! The kernels are in `tests/emulator/kernels/planted.cu`. A bug is caught if a launch fails or its result is not the
//! expected one under at least one of the first three orders of threads; the right twin passes under eight.

use half::bf16;
use tetrad_emulator::{Buffer, Launch};

/// Orders that must catch a bug, and orders that a right kernel must pass.
const FEW: u32 = 3;
const MANY: u32 = 8;

/// What an order of threads showed.
#[derive(Debug, PartialEq)]
enum Seen {
    Right,
    OtherValues,
    Failure(String),
}

/// Runs `wrong_NAME` or `right_NAME` once, with the output read back from a buffer that `launch` fills.
fn see(launch: Launch, output: &Buffer, expected: &[f32]) -> Seen {
    match launch.run() {
        Err(text) => Seen::Failure(text),
        // By bits: a NaN that is poison must not pass for anything.
        Ok(()) if output.read::<f32>().iter().map(|x| x.to_bits()).eq(expected.iter().map(|x| x.to_bits())) => {
            Seen::Right
        }
        Ok(()) => Seen::OtherValues,
    }
}

/// The right kernel passes under all orders; what the wrong one shows under the first three.
fn twins(name: &str, expected: &[f32], launch: impl Fn(Launch, &Buffer) -> Launch) -> Vec<Seen> {
    let run = |kernel: String, order: u32| {
        let output = Buffer::poisoned::<f32>(expected.len());
        see(launch(Launch::new(&kernel).order(order), &output), &output, expected)
    };
    for order in 0..MANY {
        assert_eq!(run(format!("right_{name}"), order), Seen::Right, "right_{name} under order {order}");
    }
    (0..FEW).map(|order| run(format!("wrong_{name}"), order)).collect()
}

/// The bug shows as wrong values under some order.
fn shows_in_values(name: &str, seen: &[Seen]) {
    assert!(seen.contains(&Seen::OtherValues), "wrong_{name} was not caught: {seen:?}");
}

/// The bug is reported under every order, by a text that holds all of `parts`.
fn is_reported(name: &str, seen: &[Seen], parts: &[&str]) {
    for (order, seen) in seen.iter().enumerate() {
        let Seen::Failure(text) = seen else { panic!("wrong_{name} passed under order {order}: {seen:?}") };
        let start = format!("kernel wrong_{name}, block (0, 0, 0), thread ");
        assert!(text.starts_with(&start), "{text}");
        for part in parts {
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        }
    }
}

/// Numbers that tell their places, exact in every format and sum used here.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| i as f32 + 1.0).collect()
}

fn backwards(x: &[f32], piece: usize) -> Vec<f32> {
    x.chunks(piece).flat_map(|chunk| chunk.iter().rev()).copied().collect()
}

/// Backwards in pieces of `threads` groups of four.
fn groups_backwards(x: &[f32], threads: usize) -> Vec<f32> {
    let pieces = x.chunks(4 * threads);
    pieces.flat_map(|piece| piece.chunks(4).rev().flatten()).copied().collect()
}

#[test]
fn a_missing_barrier() {
    let x = numbers(3 * 256);
    let input = Buffer::of(&x);
    let seen = twins("barrier", &backwards(&x, 256), |launch, output| {
        launch.grid([3, 1, 1]).threads(256).buffer(&input).buffer(output)
    });
    shows_in_values("barrier", &seen);
}

#[test]
fn a_missing_barrier_within_a_warp() {
    let x = numbers(256);
    let input = Buffer::of(&x);
    let seen =
        twins("warp_barrier", &backwards(&x, 32), |launch, output| launch.threads(256).buffer(&input).buffer(output));
    shows_in_values("warp_barrier", &seen);
}

#[test]
fn a_missing_barrier_before_shared_memory_is_written_again() {
    let x = numbers(5 * 128);
    let input = Buffer::of(&x);
    let sums: Vec<f32> = (0..128).map(|i| (0..5).map(|round| x[round * 128 + (i + 37) % 128]).sum()).collect();
    let seen = twins("refill", &sums, |launch, output| launch.threads(128).buffer(&input).buffer(output).u32(5));
    shows_in_values("refill", &seen);
}

#[test]
fn a_missing_wait_for_an_asynchronous_copy() {
    let x = numbers(64 * 4);
    let input = Buffer::of(&x);
    let seen = twins("wait", &groups_backwards(&x, 64), |launch, output| {
        launch.threads(64).shared(64 * 16).buffer(&input).buffer(output)
    });
    shows_in_values("wait", &seen);
}

#[test]
fn a_wait_for_one_group_too_few() {
    let x = numbers(6 * 64 * 4);
    let input = Buffer::of(&x);
    let swapped: Vec<f32> = x.chunks(8).flat_map(|pair| [&pair[4..], &pair[..4]].concat()).collect();
    let seen = twins("pipeline", &swapped, |launch, output| {
        launch.threads(64).shared(2 * 64 * 16).buffer(&input).buffer(output).u32(6)
    });
    shows_in_values("pipeline", &seen);
}

#[test]
fn a_copy_into_what_others_still_read() {
    let x = numbers(4 * 64 * 4);
    let input = Buffer::of(&x);
    let seen = twins("overwrite", &groups_backwards(&x, 64), |launch, output| {
        launch.threads(64).shared(64 * 16).buffer(&input).buffer(output).u32(4)
    });
    shows_in_values("overwrite", &seen);
}

#[test]
fn a_wrong_fragment_index() {
    // Small integers: every product and sum is exact.
    let entry = |i: usize| ((i * 7 + 3) % 13) as f32 - 6.0;
    let (a, b): (Vec<f32>, Vec<f32>) = ((0..256).map(entry).collect(), (100..228).map(entry).collect());
    let bits = |values: &[f32]| values.iter().map(|&x| bf16::from_f32(x).to_bits()).collect::<Vec<_>>();
    let (left, right) = (Buffer::of(&bits(&a)), Buffer::of(&bits(&b)));
    let product: Vec<f32> = (0..128).map(|i| (0..16).map(|k| a[i / 8 * 16 + k] * b[k * 8 + i % 8]).sum()).collect();
    let seen = twins("fragment", &product, |launch, output| launch.buffer(&left).buffer(&right).buffer(output));
    assert!(seen.iter().all(|seen| *seen == Seen::OtherValues), "{seen:?}");
}

#[test]
fn a_read_one_past_the_end_of_an_allocation() {
    let x = numbers(128);
    let input = Buffer::of(&x);
    let sums: Vec<f32> = (0..128).map(|i| x[i] + x.get(i + 1).unwrap_or(&0.0)).collect();
    let seen = twins("past_end", &sums, |launch, output| {
        launch.grid([3, 1, 1]).threads(64).buffer(&input).buffer(output).u32(128)
    });
    for seen in &seen {
        let text = "kernel wrong_past_end, block (1, 0, 0), thread 63: access 0 bytes past the end of an allocation of \
                    512 bytes";
        assert_eq!(*seen, Seen::Failure(text.into()));
    }
}

#[test]
fn a_read_one_past_the_end_of_dynamic_shared_memory() {
    let y: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let seen = twins("past_shared", &y, |launch, output| launch.threads(64).shared(256).buffer(output));
    is_reported(
        "past_shared",
        &seen,
        &["thread 63: access 0 bytes past the end of 256 bytes of dynamic shared memory"],
    );
}

#[test]
fn a_write_past_the_end_of_a_shared_array() {
    let y: Vec<f32> = (0..64).map(|i| (i % 63) as f32).collect();
    let seen = twins("past_array", &y, |launch, output| launch.threads(64).buffer(output));
    for seen in &seen {
        let text = "kernel wrong_past_array, block 0: wrote beyond a shared array of 252 bytes";
        assert_eq!(*seen, Seen::Failure(text.into()));
    }
}

#[test]
fn a_return_before_a_barrier() {
    let x = numbers(50);
    let input = Buffer::of(&x);
    let seen = twins("early_return", &backwards(&x, 50), |launch, output| {
        launch.threads(64).buffer(&input).buffer(output).u32(50)
    });
    is_reported(
        "early_return",
        &seen,
        &["deadlock: thread ", " waits at sync_threads (planted.cu:", " for all threads, but thread ", " has returned"],
    );
}

#[test]
fn a_shuffle_that_some_lanes_do_not_reach() {
    let x = numbers(64);
    let input = Buffer::of(&x);
    let expected: Vec<f32> = (0..64).map(|i| x[i] + x[i ^ 1]).collect();
    let seen = twins("divergent", &expected, |launch, output| launch.threads(64).buffer(&input).buffer(output).u32(40));
    is_reported(
        "divergent",
        &seen,
        &["deadlock: thread ", " waits at a shuffle (planted.cu:", " for all lanes of its warp, but thread "],
    );
}

#[test]
fn lanes_and_threads_that_meet_at_different_places() {
    let x = numbers(64);
    let input = Buffer::of(&x);
    let expected: Vec<f32> = (0..64).map(|i| x[i] + x[i ^ 1]).collect();
    let seen = twins("branches", &expected, |launch, output| launch.threads(64).buffer(&input).buffer(output));
    is_reported("branches", &seen, &["lanes meet at different places: thread ", " waits at a shuffle (planted.cu:"]);
    let seen = twins("barriers", &[1.0; 64], |launch, output| launch.threads(64).buffer(output));
    is_reported(
        "barriers",
        &seen,
        &["threads meet at different places: thread ", " waits at sync_threads (planted.cu:"],
    );
}

#[test]
fn shared_memory_that_nobody_initialised() {
    let x = numbers(64);
    let input = Buffer::of(&x);
    let seen = twins("uninitialised", &[64.0 * 65.0 / 2.0; 64], |launch, output| {
        launch.threads(64).buffer(&input).buffer(output)
    });
    assert!(seen.iter().all(|seen| *seen == Seen::OtherValues), "{seen:?}");
}

#[test]
fn a_wide_load_from_an_address_that_is_not_aligned() {
    let x = numbers(33 * 4);
    let input = Buffer::of(&x);
    let seen = twins("misaligned", &x[..128], |launch, output| launch.buffer(&input).buffer(output));
    is_reported("misaligned", &seen, &["address is not a multiple of the size of the access (planted.cu:"]);
}

#[test]
fn a_requirement_that_does_not_hold() {
    let seen = twins("required", &[1.0; 32], |launch, output| launch.buffer(output).u32(32));
    is_reported("required", &seen, &["does not hold: ", " (planted.cu:"]);
}

#[test]
fn launches_that_do_not_fit_their_kernel() {
    let output = Buffer::poisoned::<f32>(64);
    let refused = |launch: Launch| launch.run().unwrap_err();
    assert_eq!(refused(Launch::new("no_such_kernel")), "no kernel is called no_such_kernel");
    let launch = || Launch::new("right_required");
    assert_eq!(
        refused(launch().threads(64).buffer(&output).u32(64)),
        "kernel right_required launched with 64 threads, at most 32 are allowed"
    );
    assert_eq!(refused(launch().buffer(&output)), "kernel right_required takes 2 parameters, 1 were given");
    assert_eq!(refused(launch().buffer(&output).u64(5)), "kernel right_required parameter 1 has 4 bytes, 8 were given");
    assert_eq!(
        refused(launch().shared(227 * 1024 + 1).buffer(&output).u32(1)),
        "kernel right_required launched with more than 227 KiB of shared memory"
    );
    // Half a warp has no lanes to shuffle with.
    let input = Buffer::of(&numbers(64));
    let text = refused(Launch::new("right_divergent").threads(48).buffer(&input).buffer(&output).u32(48));
    assert!(text.contains("deadlock: ") && text.contains(" for 32 lanes, but its warp has only 16"), "{text}");
}
