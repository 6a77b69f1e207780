//! Each instruction that `gpu.h` offers, as the emulator computes it, against what PTX ISA and IEEE 754 say.
//!
//! The kernels are in `tests/emulator/kernels/checks.cu`.

use half::{bf16, f16};
use tetrad_emulator::{Buffer, Launch};

const ORDERS: u32 = 8;

/// Results of each input in `check_arithmetic`.
const RESULTS: usize = 40;

/// Zeros, subnormals, ties of every rounding, limits of formats and of integers, infinities, NaN, and a sweep.
fn floats() -> Vec<f32> {
    let mut all: Vec<u32> = vec![
        0,
        1,
        0x007f_ffff,
        0x0080_0000,
        0x3380_0000, // 2^-24, half of the smallest f16
        0x3380_0001,
        0x33c0_0000, // a tie between subnormal f16
        0x387f_c000, // the largest subnormal f16
        0x387f_e000,
        0x3880_0000, // the smallest normal f16
        0x3f80_8000, // a tie of bf16 that goes down, and its neighbours
        0x3f80_7fff,
        0x3f80_8001,
        0x3f81_8000, // a tie that goes up
        0x3f80_1000, // a tie of f16 that goes down
        0x3f80_3000, // up
        0x477f_e000, // the largest f16
        0x477f_efff, // the last that rounds to it
        0x477f_f000, // the first that rounds to infinity
        0x7f7f_7fff, // the last that rounds to the largest bf16
        0x7f7f_ffff,
        0x7f80_0000,
        0x7f80_0001,
        0x7fc0_0000,
        0x7fff_ffff,
    ];
    let plain =
        [0.5f32, 1.5, 2.5, 0.499_999_97, 1.0, 3.0, 0.1, 126.5, 8_388_608.5, 2_147_483_500.0, 2_147_483_648.0, 3e9];
    all.extend(plain.iter().map(|x| x.to_bits()));
    all.extend((0..2000u32).map(|i| i.wrapping_mul(2_654_435_769)));
    let negative: Vec<u32> = all.iter().map(|bits| bits ^ 0x8000_0000).collect();
    all.extend(negative);
    all.into_iter().map(f32::from_bits).collect()
}

/// The bits that a GPU gives for a NaN where any NaN is right here.
fn same(got: u32, want: f32) -> bool {
    got == want.to_bits() || (f32::from_bits(got).is_nan() && want.is_nan())
}

fn to_bf16(x: f32) -> u32 {
    if x.is_nan() { 0x7fff } else { u32::from(bf16::from_f32(x).to_bits()) }
}

fn to_f16(x: f32) -> u32 {
    if x.is_nan() { 0x7fff } else { u32::from(f16::from_f32(x).to_bits()) }
}

/// maximumNumber of IEEE 754-2019: a NaN loses, +0 is above -0.
fn larger(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ => {
            if a.total_cmp(&b).is_gt() {
                a
            } else {
                b
            }
        }
    }
}

fn smaller(a: f32, b: f32) -> f32 {
    -larger(-a, -b)
}

fn permute(low: u32, high: u32, selector: u32) -> u32 {
    let bytes = (u64::from(high) << 32 | u64::from(low)).to_le_bytes();
    u32::from_le_bytes(std::array::from_fn(|i| bytes[(selector >> (4 * i) & 7) as usize]))
}

#[test]
fn conversions_and_arithmetic() {
    let x = floats();
    let (input, output) = (Buffer::of(&x), Buffer::poisoned::<u32>(x.len() * RESULTS));
    let blocks = x.len().div_ceil(256) as u32;
    let launch = Launch::new("check_arithmetic").grid([blocks, 1, 1]).threads(256);
    launch.buffer(&input).buffer(&output).u32(x.len() as u32).run().unwrap();
    let results = output.read::<u32>();
    for (i, got) in results.chunks(RESULTS).enumerate() {
        let (a, b) = (x[i], x[(i + 1) % x.len()]);
        let (bits, other) = (a.to_bits(), b.to_bits());
        let exact = [
            to_bf16(a),
            to_bf16(a) | to_bf16(b) << 16,
            to_f16(a),
            0, // below: a NaN may differ
            bits & 0xffff_0000,
        ];
        for (n, want) in exact.iter().enumerate().filter(|(n, _)| *n != 3) {
            assert_eq!(got[n], *want, "result {n} of {a:e} ({bits:#x}) and {b:e}");
        }
        let floats = [
            (3, f16::from_bits((bits >> 16) as u16).to_f32()),
            (5, a.abs()),
            (6, larger(a, b)),
            (7, smaller(a, b)),
            (8, a.round_ties_even()),
            (9, a.floor()),
            (10, a.ceil()),
            (11, a.trunc()),
            (12, a.copysign(b)),
            (14, a.sqrt()),
            (15, a / b),
            (16, a / b),
            (17, a.mul_add(b, a)),
            (18, a * b + a),
            (24, f32::from_bits(bits & 0xffff_0000)),
            (25, f64::from(a).sqrt() as f32),
            (26, (f64::from(a) / f64::from(b)) as f32),
        ];
        for (n, want) in floats {
            assert!(same(got[n], want), "result {n} of {a:e} ({bits:#x}) and {b:e}: {:#x}, not {want:e}", got[n]);
        }
        let rounded = if a.is_nan() { 0 } else { a.round_ties_even() as i32 as u32 };
        let high = ((u64::from(bits) * u64::from(other)) >> 32) as u32;
        let truth = u32::from(!f32::from_bits(bits << 16).is_nan());
        let integers = [
            (13, rounded),
            (19, high),
            (20, bits.count_ones()),
            (21, bits.leading_zeros()),
            (22, permute(bits, other, bits & 0x7777)),
            (23, truth),
        ];
        for (n, want) in integers {
            assert_eq!(got[n], want, "result {n} of {a:e} ({bits:#x}) and {b:e}");
        }
        approximations(a, &got[27..]);
    }
}

/// Within a few units in the last place of the double that is meant; subnormals count as zero in the first four.
fn approximations(x: f32, got: &[u32]) {
    let flush = |x: f32| if x.is_subnormal() { 0.0f32.copysign(x) } else { x };
    let flushed = f64::from(flush(x));
    let meant = [
        flushed.exp2(),
        flushed.log2(),
        1.0 / flushed.sqrt(),
        1.0 / flushed,
        f64::from(x).exp(),
        f64::from(x).ln(),
        f64::from(x).sin(),
        f64::from(x).cos(),
        f64::from(x).tanh(),
    ];
    for (n, meant) in meant.into_iter().enumerate() {
        let want = if n < 4 { flush(meant as f32) } else { meant as f32 };
        let got = f32::from_bits(got[n]);
        let close = (got - want).abs() <= 4.0 * f32::EPSILON * want.abs() + 2.0 * f32::from_bits(1);
        let fine = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()) || close;
        assert!(fine, "approximation {n} of {x:e}: {got:e}, not {want:e}");
    }
}

#[test]
fn shuffles_votes_and_sums_of_a_warp() {
    let x: Vec<u32> = (0..32).map(|i| i * 37 % 101).collect();
    let input = Buffer::of(&x);
    for order in 0..ORDERS {
        let (output, sums) = (Buffer::poisoned::<u32>(32 * 16), Buffer::poisoned::<f64>(32));
        Launch::new("check_warp").order(order).buffer(&input).buffer(&output).buffer(&sums).run().unwrap();
        let got = output.read::<u32>();
        let votes = (0..32).map(|i| u32::from(x[i].is_multiple_of(3)) << i).sum::<u32>();
        // All are small integers, whose sums are exact in any order.
        let (total, most) = (x.iter().sum::<u32>(), *x.iter().max().unwrap());
        for lane in 0..32 {
            let own = x[lane];
            let want = [
                x[lane ^ 5],
                *x.get(lane + 3).unwrap_or(&own),
                if lane < 3 { own } else { x[lane - 3] },
                x[7],
                x[own as usize % 64 % 32],
                votes,
                (x[lane ^ 1] as f32).to_bits(),
                x[lane ^ 2],
                31 - lane as u32,
                x[31 - lane],
                (total as f32).to_bits(),
                (most as f32).to_bits(),
                total,
                own.min(9),
                own.max(9),
                own.div_ceil(4),
            ];
            assert_eq!(got[lane * 16..][..16], want, "lane {lane}, order {order}");
        }
        let sums = sums.read::<f64>();
        let mut butterfly: Vec<f64> = x.iter().map(|&x| f64::from(x) * 1e-3).collect();
        for distance in [16, 8, 4, 2, 1] {
            butterfly = (0..32).map(|i| butterfly[i] + butterfly[i ^ distance]).collect();
        }
        assert_eq!(sums, butterfly, "order {order}");
    }
}

#[test]
fn blocks_barriers_wide_accesses_and_atomics() {
    let grid = [3u32, 2, 2];
    let (blocks, threads) = (12usize, 96usize);
    let x: Vec<f32> = (0..blocks * threads * 4).map(|i| (i % 1000) as f32).collect();
    let backwards: Vec<f32> =
        x.chunks(4 * threads).flat_map(|block| block.chunks(4).rev().flatten().copied().collect::<Vec<_>>()).collect();
    let input = Buffer::of(&x);
    for order in 0..ORDERS {
        let output = Buffer::poisoned::<f32>(x.len());
        let (counters, total, sum) = (Buffer::of(&[0u32; 4]), Buffer::of(&[0u64]), Buffer::of(&[0f32]));
        let launch = Launch::new("check_block").grid(grid).threads(96).shared(96 * 16).order(order);
        launch.buffer(&input).buffer(&output).buffer(&counters).buffer(&total).buffer(&sum).run().unwrap();
        assert_eq!(output.read::<f32>(), backwards, "order {order}");
        assert_eq!(counters.read::<u32>(), [96, (blocks * threads) as u32, 12, 12], "order {order}");
        assert_eq!(total.read::<u64>(), [12 << 33], "order {order}");
        assert_eq!(sum.read::<f32>(), [x.iter().step_by(4).sum::<f32>()], "order {order}");
    }
}

/// Matrix of 16 x 16 whose elements tell their places.
fn places() -> Vec<u16> {
    (0..256).collect()
}

/// `ldmatrix`, from its description in PTX ISA: of an 8x8 matrix, lane `l` receives the elements 2 (l % 4) and
/// 2 (l % 4) + 1 of row l / 4, the first in the low half.
fn fragment(matrix: impl Fn(usize, usize) -> u16, lane: usize) -> u32 {
    let (row, column) = (lane / 4, 2 * (lane % 4));
    u32::from(matrix(row, column)) | u32::from(matrix(row, column + 1)) << 16
}

#[test]
fn matrices_from_shared_memory() {
    let x = places();
    let input = Buffer::of(&x);
    // Rows and columns where matrices 0 to 3 begin.
    let corners = [(0, 0), (8, 0), (0, 8), (8, 8)];
    for order in 0..ORDERS {
        let output = Buffer::poisoned::<u32>(32 * 12);
        Launch::new("check_load_matrix").order(order).buffer(&input).buffer(&output).run().unwrap();
        for (lane, got) in output.read::<u32>().chunks(12).enumerate() {
            let plain = |i: usize| fragment(|r, c| x[(corners[i].0 + r) * 16 + corners[i].1 + c], lane);
            let transposed = |i: usize| fragment(|r, c| x[(corners[i].0 + c) * 16 + corners[i].1 + r], lane);
            let mut want: Vec<u32> = (0..4).map(plain).collect();
            want.extend((0..4).map(transposed));
            want.extend((0..2).map(plain));
            want.extend((0..2).map(transposed));
            assert_eq!(got, want, "lane {lane}, order {order}");
        }
    }
}

/// Row and column of element `i` of a lane's fragment of A, by PTX ISA's "Matrix Fragments for mma.m16n8k16 with
/// floating point type".
fn place_in_a(lane: usize, i: usize) -> (usize, usize) {
    let (group, member) = (lane >> 2, lane % 4);
    let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
    let column = member * 2 + (i & 1);
    (row, if i < 4 { column } else { column + 8 })
}

fn place_in_b(lane: usize, i: usize) -> (usize, usize) {
    let row = lane % 4 * 2 + (i & 1);
    (if i < 2 { row } else { row + 8 }, lane >> 2)
}

fn place_in_d(lane: usize, i: usize) -> (usize, usize) {
    let group = lane >> 2;
    (if i < 2 { group } else { group + 8 }, lane % 4 * 2 + (i & 1))
}

/// Registers of all lanes: two bf16 each, the first in the low half.
fn registers(count: usize, element: impl Fn(usize, usize) -> f32) -> Vec<u32> {
    let half = |lane, i| u32::from(bf16::from_f32(element(lane, i)).to_bits());
    (0..32)
        .flat_map(|lane| (0..count).map(move |r| (lane, 2 * r)))
        .map(|(lane, i)| half(lane, i) | half(lane, i + 1) << 16)
        .collect()
}

#[test]
fn products_of_fragments() {
    // Small integers, exact in bf16 and in every partial sum.
    let a = |row: usize, column: usize| ((row * 5 + column * 3) % 17) as f32 - 8.0;
    let b = |row: usize, column: usize| ((row * 7 + column * 11) % 13) as f32 - 6.0;
    let c = |row: usize, column: usize| (row * 8 + column) as f32 * 4.0;
    let left = Buffer::of(&registers(4, |lane, i| a(place_in_a(lane, i).0, place_in_a(lane, i).1)));
    let right = Buffer::of(&registers(2, |lane, i| b(place_in_b(lane, i).0, place_in_b(lane, i).1)));
    let place = |n: usize| place_in_d(n / 4, n % 4);
    let before: Vec<f32> = (0..128).map(|n| c(place(n).0, place(n).1)).collect();
    let after: Vec<f32> = (0..128)
        .map(|n| {
            let (row, column) = place(n);
            c(row, column) + (0..16).map(|k| a(row, k) * b(k, column)).sum::<f32>()
        })
        .collect();
    for order in 0..ORDERS {
        let sums = Buffer::of(&before);
        Launch::new("check_mma").order(order).buffer(&left).buffer(&right).buffer(&sums).run().unwrap();
        assert_eq!(sums.read::<f32>(), after, "order {order}");
    }
}

#[test]
fn asynchronous_copies_fill_with_zeros_beyond_the_range() {
    let (threads, count) = (128usize, 201usize);
    // Nothing lies behind the last element that is in range.
    let x: Vec<u32> = (1..=4 * count as u32).collect();
    let input = Buffer::of(&x);
    let mut want = x.clone();
    want.resize(2 * threads * 4, 0);
    for order in 0..ORDERS {
        let (output, thirds) = (Buffer::poisoned::<u32>(want.len()), Buffer::poisoned::<f32>(6));
        let launch = Launch::new("check_copies").threads(128).shared(2 * 128 * 16).order(order);
        launch.buffer(&input).buffer(&output).u32(count as u32).buffer(&thirds).run().unwrap();
        assert_eq!(output.read::<u32>(), want, "order {order}");
        assert_eq!(thirds.read::<f32>()[..3], [0.0, 0.25, 0.5]);
        assert_eq!(thirds.read::<u32>()[4..], x[..2]);
    }
}

#[test]
fn allocations_are_counted_and_given_back() {
    let before = tetrad_emulator::allocations();
    let buffer = Buffer::poisoned::<u8>(1000);
    assert!(tetrad_emulator::allocations() > before && tetrad_emulator::live_bytes() >= 1000);
    assert_eq!(buffer.address() % 256, 0, "the driver's alignment");
    assert!(buffer.read::<u8>().iter().all(|&byte| byte == 0xff));
}
