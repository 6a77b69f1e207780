//! What the emulator of CUDA finds: kernels with a planted bug, each beside the same kernel without it.
//!
//! The kernels are in `tests/kernels/planted.cu`. The right one passes under eight orders of threads. The wrong
//! one is run twice under three: without the check of its accesses, where it must fail or give other values under one
//! of them at least, and with the check, which reports most bugs under every order.

mod support;

use cuda_emulator::{Buffer, Launch};
use half::bf16;
use support::emulator;

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

/// What the wrong twin showed under each of the first orders.
struct Wrong {
    name: &'static str,
    unchecked: Vec<Seen>,
    checked: Vec<Seen>,
}

/// Runs a kernel once; its output was poisoned before.
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

/// Sees that the right kernel passes, and what the wrong one shows.
fn twins(name: &'static str, expected: &[f32], launch: impl Fn(Launch, &Buffer) -> Launch) -> Wrong {
    let run = |kernel: String, order: u32, checked: bool| {
        let output = emulator().poisoned::<f32>(expected.len());
        see(launch(emulator().launch(&kernel).order(order).checked(checked), &output), &output, expected)
    };
    for order in 0..MANY {
        for checked in [true, false] {
            assert_eq!(run(format!("right_{name}"), order, checked), Seen::Right, "right_{name} under order {order}");
        }
    }
    let wrong = |checked| (0..FEW).map(|order| run(format!("wrong_{name}"), order, checked)).collect();
    Wrong { name, unchecked: wrong(false), checked: wrong(true) }
}

impl Wrong {
    /// Without checks, some order gives other values.
    fn shows_in_values(self) -> Self {
        assert!(self.unchecked.contains(&Seen::OtherValues), "wrong_{}: {:?}", self.name, self.unchecked);
        self
    }

    /// With checks, every order gives a report that holds all of `parts`.
    fn reports(self, parts: &[&str]) {
        reports(self.name, &self.checked, parts);
    }

    /// The same without checks.
    fn always_reports(self, parts: &[&str]) {
        reports(self.name, &self.unchecked, parts);
        reports(self.name, &self.checked, parts);
    }

    /// The bug is in the arithmetic: with checks or without, every order gives other values.
    fn shows_in_values_alone(self) {
        let all: Vec<_> = self.unchecked.iter().chain(&self.checked).collect();
        assert!(all.iter().all(|seen| **seen == Seen::OtherValues), "wrong_{}: {all:?}", self.name);
    }
}

fn reports(name: &str, seen: &[Seen], parts: &[&str]) {
    for (order, seen) in seen.iter().enumerate() {
        let Seen::Failure(text) = seen else { panic!("wrong_{name} under order {order}: {seen:?}") };
        assert!(text.starts_with(&format!("kernel wrong_{name}, block ")), "{text}");
        for part in parts {
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        }
    }
}

/// What unordered accesses are reported with.
const UNORDERED: &str = " with nothing between to order them";

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
    let input = emulator().buffer(&x);
    let wrong = twins("barrier", &backwards(&x, 256), |launch, output| {
        launch.grid([3, 1, 1]).threads(256).buffer(&input).buffer(output)
    });
    wrong.shows_in_values().reports(&[" shared memory that is ", " by thread ", UNORDERED]);
}

#[test]
fn a_missing_barrier_within_a_warp() {
    let x = numbers(256);
    let input = emulator().buffer(&x);
    let wrong =
        twins("warp_barrier", &backwards(&x, 32), |launch, output| launch.threads(256).buffer(&input).buffer(output));
    wrong.shows_in_values().reports(&[" shared memory that is ", " by thread ", UNORDERED]);
}

#[test]
fn a_missing_barrier_before_shared_memory_is_written_again() {
    let x = numbers(5 * 128);
    let input = emulator().buffer(&x);
    let sums: Vec<f32> = (0..128).map(|i| (0..5).map(|round| x[round * 128 + (i + 37) % 128]).sum()).collect();
    let wrong = twins("refill", &sums, |launch, output| launch.threads(128).buffer(&input).buffer(output).u32(5));
    wrong.shows_in_values().reports(&[" shared memory that is ", " by thread ", UNORDERED]);
}

#[test]
fn a_missing_wait_for_an_asynchronous_copy() {
    let x = numbers(64 * 4);
    let input = emulator().buffer(&x);
    let wrong = twins("wait", &groups_backwards(&x, 64), |launch, output| {
        launch.threads(64).shared(64 * 16).buffer(&input).buffer(output)
    });
    wrong.shows_in_values().reports(&["reads shared memory that thread ", " copies to and has not waited for"]);
}

#[test]
fn a_wait_for_one_group_too_few() {
    let x = numbers(6 * 64 * 4);
    let input = emulator().buffer(&x);
    let swapped: Vec<f32> = x.chunks(8).flat_map(|pair| [&pair[4..], &pair[..4]].concat()).collect();
    let wrong = twins("pipeline", &swapped, |launch, output| {
        launch.threads(64).shared(2 * 64 * 16).buffer(&input).buffer(output).u32(6)
    });
    wrong.shows_in_values().reports(&["reads shared memory that thread ", " copies to and has not waited for"]);
}

#[test]
fn a_copy_into_what_others_still_read() {
    let x = numbers(4 * 64 * 4);
    let input = emulator().buffer(&x);
    let wrong = twins("overwrite", &groups_backwards(&x, 64), |launch, output| {
        launch.threads(64).shared(64 * 16).buffer(&input).buffer(output).u32(4)
    });
    wrong.shows_in_values().reports(&[" shared memory that ", "thread "]);
}

#[test]
fn blocks_that_add_to_the_same_place_without_atomics() {
    let x = numbers(5 * 64);
    let input = emulator().buffer(&x);
    let sums: Vec<f32> = (0..64).map(|i| (0..5).map(|block| x[block * 64 + i]).sum()).collect();
    let wrong = twins("accumulate", &sums, |launch, output| {
        output.write(&[0f32; 64]);
        launch.grid([5, 1, 1]).threads(64).buffer(&input).buffer(output)
    });
    // In whatever order whole blocks run, the sums are right: only the check finds it. Which of a block's two accesses
    // meets that of another depends on the threads.
    wrong.reports(&["s device memory that is written by block (", UNORDERED]);
}

#[test]
fn a_block_that_reads_what_others_have_not_made_visible() {
    let (parts, finished) = (emulator().poisoned::<f32>(7 * 64), emulator().buffer(&[0u32]));
    let wrong = twins("last_block", &[21.0; 64], |launch, output| {
        finished.write(&[0u32]);
        launch.grid([7, 1, 1]).threads(64).buffer(output).buffer(&parts).buffer(&finished)
    });
    wrong.reports(&["reads device memory that is written by block (", UNORDERED]);
}

#[test]
fn halves_of_a_word_belong_to_different_blocks_or_not() {
    let wrong = twins("halves", &[1.0; 32], |launch, output| launch.grid([2, 1, 1]).threads(64).buffer(output));
    wrong.reports(&["writes device memory that is written by block (", UNORDERED]);
}

#[test]
fn a_wrong_fragment_index() {
    // Small integers: every product and sum is exact.
    let entry = |i: usize| ((i * 7 + 3) % 13) as f32 - 6.0;
    let (a, b): (Vec<f32>, Vec<f32>) = ((0..256).map(entry).collect(), (100..228).map(entry).collect());
    let bits = |values: &[f32]| values.iter().map(|&x| bf16::from_f32(x).to_bits()).collect::<Vec<_>>();
    let (left, right) = (emulator().buffer(&bits(&a)), emulator().buffer(&bits(&b)));
    let product: Vec<f32> = (0..128).map(|i| (0..16).map(|k| a[i / 8 * 16 + k] * b[k * 8 + i % 8]).sum()).collect();
    let wrong = twins("fragment", &product, |launch, output| launch.buffer(&left).buffer(&right).buffer(output));
    wrong.shows_in_values_alone();
}

/// Reads one element beyond `count`.
fn past_the_end(count: usize) -> Wrong {
    let x = numbers(count);
    let input = emulator().buffer(&x);
    let sums: Vec<f32> = (0..count).map(|i| x[i] + x.get(i + 1).unwrap_or(&0.0)).collect();
    twins("past_end", &sums, |launch, output| {
        launch.grid([3, 1, 1]).threads(64).buffer(&input).buffer(output).u32(count as u32)
    })
}

#[test]
fn a_read_one_past_the_end_of_an_allocation() {
    // A page that faults lies behind an allocation of a multiple of 256 bytes.
    let text = "block (1, 0, 0), thread 63: touches memory 0 bytes past the end of an allocation of 512 bytes";
    reports("past_end", &past_the_end(128).unchecked, &[text]);
    for count in [128, 97] {
        let text = format!(
            "block (1, 0, 0), thread {}: reads memory 0 bytes past the end of an allocation of {} bytes",
            count - 65,
            4 * count
        );
        past_the_end(count).reports(&[&text]);
    }
}

#[test]
fn a_read_between_two_pieces_of_one_allocation() {
    // The room behind 65 numbers belongs to nobody.
    let all = emulator().buffer(&numbers(128));
    emulator().forbid(all.address() + 65 * 4, 12);
    for (kernel, checked, fails) in
        [("right_past_end", true, false), ("wrong_past_end", false, false), ("wrong_past_end", true, true)]
    {
        let output = emulator().poisoned::<f32>(65);
        let launch = emulator().launch(kernel).grid([2, 1, 1]).threads(64).checked(checked);
        let result = launch.buffer(&all).buffer(&output).u32(65).run();
        assert_eq!(result.is_err(), fails, "{kernel}: {result:?}");
        let text =
            "block (1, 0, 0), thread 0: reads memory that is forbidden, at byte 260 of an allocation of 512 bytes";
        assert!(result.is_ok() || result.as_ref().unwrap_err().contains(text), "{result:?}");
    }
}

#[test]
fn a_pointer_of_the_host() {
    let here = [1.0f32; 32];
    let output = emulator().poisoned::<f32>(32);
    let launch = emulator().launch("right_misaligned").address(here.as_ptr() as u64 / 16 * 16).buffer(&output);
    let text = launch.run().unwrap_err();
    assert!(text.contains("reads memory that is not the device's, at 0x"), "{text}");
}

#[test]
fn a_read_one_past_the_end_of_dynamic_shared_memory() {
    let y: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let wrong = twins("past_shared", &y, |launch, output| launch.threads(64).shared(256).buffer(output));
    wrong.always_reports(&["thread 63: ", " memory 0 bytes past the end of 256 bytes of dynamic shared memory"]);
}

#[test]
fn a_write_past_the_end_of_a_shared_array() {
    let y: Vec<f32> = (0..64).map(|i| (i % 63) as f32).collect();
    let wrong = twins("past_array", &y, |launch, output| launch.threads(64).buffer(output));
    reports("past_array", &wrong.unchecked, &["block 0: wrote beyond a shared array of 252 bytes"]);
    wrong.reports(&["thread 63: writes memory 0 bytes past the end of a shared array of 252 bytes"]);
}

#[test]
fn a_return_before_a_barrier() {
    let x = numbers(50);
    let input = emulator().buffer(&x);
    let wrong = twins("early_return", &backwards(&x, 50), |launch, output| {
        launch.threads(64).buffer(&input).buffer(output).u32(50)
    });
    let parts =
        ["deadlock: thread ", " waits at sync_threads (planted.cu:", " for all threads, but thread ", " has returned"];
    wrong.always_reports(&parts);
}

#[test]
fn a_shuffle_that_some_lanes_do_not_reach() {
    let x = numbers(64);
    let input = emulator().buffer(&x);
    let expected: Vec<f32> = (0..64).map(|i| x[i] + x[i ^ 1]).collect();
    let wrong =
        twins("divergent", &expected, |launch, output| launch.threads(64).buffer(&input).buffer(output).u32(40));
    let parts = ["deadlock: thread ", " waits at a shuffle (planted.cu:", " for all lanes of its warp, but thread "];
    wrong.always_reports(&parts);
}

#[test]
fn lanes_and_threads_that_meet_at_different_places() {
    let x = numbers(64);
    let input = emulator().buffer(&x);
    let expected: Vec<f32> = (0..64).map(|i| x[i] + x[i ^ 1]).collect();
    let wrong = twins("branches", &expected, |launch, output| launch.threads(64).buffer(&input).buffer(output));
    wrong.always_reports(&["lanes meet at different places: thread ", " waits at a shuffle (planted.cu:"]);
    let wrong = twins("barriers", &[1.0; 64], |launch, output| launch.threads(64).buffer(output));
    wrong.always_reports(&["threads meet at different places: thread ", " waits at sync_threads (planted.cu:"]);
}

#[test]
fn shared_memory_that_nobody_initialised() {
    let x = numbers(64);
    let input = emulator().buffer(&x);
    let wrong = twins("uninitialised", &[64.0 * 65.0 / 2.0; 64], |launch, output| {
        launch.threads(64).buffer(&input).buffer(output)
    });
    wrong.shows_in_values_alone();
}

#[test]
fn a_wide_load_from_an_address_that_is_not_aligned() {
    let x = numbers(33 * 4);
    let input = emulator().buffer(&x);
    let wrong = twins("misaligned", &x[..128], |launch, output| launch.buffer(&input).buffer(output));
    wrong.always_reports(&["address is not a multiple of the size of the access (planted.cu:"]);
}

#[test]
fn a_requirement_that_does_not_hold() {
    let wrong = twins("required", &[1.0; 32], |launch, output| launch.buffer(output).u32(32));
    wrong.always_reports(&["does not hold: ", " (planted.cu:"]);
}

#[test]
fn launches_that_do_not_fit_their_kernel() {
    let output = emulator().poisoned::<f32>(64);
    let refused = |launch: Launch| launch.run().unwrap_err();
    assert_eq!(refused(emulator().launch("no_such_kernel")), "no kernel is called no_such_kernel");
    let launch = || emulator().launch("right_required");
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
    let input = emulator().buffer(&numbers(64));
    let text = refused(emulator().launch("right_divergent").threads(48).buffer(&input).buffer(&output).u32(48));
    assert!(text.contains("deadlock: ") && text.contains(" for 32 lanes, but its warp has only 16"), "{text}");
}
