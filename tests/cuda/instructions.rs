//! Each instruction that `gpu.h` offers against what PTX ISA and IEEE 754 say, as the emulator computes it and as a real
//! device does where there is one.
//!
//! The kernels are in `tests/cuda/kernels/checks.cu`.

use crate::harness::gpu::{CHECKS, allocate, devices, launch, set_order};
use half::{bf16, f16};
use tetrad::backend::cuda::{Args, Capability, Gpu};
use tetrad::memory::{ALIGN, Place, Span};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Operands of one launch, one behind the other.
struct Bench {
    gpu: Gpu,
    used: usize,
}

impl Bench {
    fn put<T: IntoBytes + Immutable>(&mut self, values: &[T]) -> Span {
        let bytes = values.as_bytes();
        let span = Span { place: Place::Arena, offset: self.used, bytes: bytes.len() };
        self.used = (self.used + bytes.len()).next_multiple_of(ALIGN);
        self.gpu.upload(bytes, span);
        span
    }

    /// Room for `count` values, filled with what is not a number.
    fn room<T>(&mut self, count: usize) -> Span {
        self.put(&vec![0xffu8; count * size_of::<T>()])
    }

    fn get<T: FromBytes + IntoBytes + Clone>(&self, span: Span) -> Vec<T> {
        let mut values = vec![T::new_zeroed(); span.bytes / size_of::<T>()];
        self.gpu.download(span, values.as_mut_bytes());
        values
    }

    fn launch(&mut self, kernel: &'static str, grid: [u32; 3], threads: u32, shared: usize, arguments: &[Span]) {
        let args = arguments.iter().fold(Args::new(), |args, &span| args.span(&self.gpu, span));
        launch(&mut self.gpu, kernel, grid, threads, shared, &args);
    }
}

/// On every device, the emulated one under eight orders of its threads.
fn on_devices(work: impl Fn(&mut Bench, &str)) {
    for (name, mut gpu) in devices(&[CHECKS]) {
        allocate(&mut gpu, 4 << 20).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut bench = Bench { gpu, used: 0 };
        for order in 0..8 {
            set_order(order);
            bench.used = 0;
            work(&mut bench, &format!("{name}, order {order}"));
            bench.gpu.status().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

const ONE: [u32; 3] = [1, 1, 1];

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
    on_devices(|bench, device| {
        let (input, output) = (bench.put(&x), bench.room::<u32>(x.len() * RESULTS));
        let args = Args::new().span(&bench.gpu, input).span(&bench.gpu, output).u32(x.len() as u32);
        launch(&mut bench.gpu, "check_arithmetic", [x.len().div_ceil(256) as u32, 1, 1], 256, 0, &args);
        check_arithmetic(&x, &bench.get(output), device);
    });
}

fn check_arithmetic(x: &[f32], results: &[u32], device: &str) {
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
            assert_eq!(got[n], *want, "{device}: result {n} of {a:e} ({bits:#x}) and {b:e}");
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
            assert!(
                same(got[n], want),
                "{device}: result {n} of {a:e} ({bits:#x}) and {b:e}: {:#x}, not {want:e}",
                got[n]
            );
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
            assert_eq!(got[n], want, "{device}: result {n} of {a:e} ({bits:#x}) and {b:e}");
        }
        approximations(a, &got[27..], device);
    }
}

/// Within a few units in the last place of the double that is meant; subnormals count as zero in the first four.
fn approximations(x: f32, got: &[u32], device: &str) {
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
        // Of a logarithm near zero the error is bounded as it stands, 2^-22.
        let floor = if n == 1 { 2.0 * f32::EPSILON } else { 2.0 * f32::from_bits(1) };
        let close = (got - want).abs() <= 4.0 * f32::EPSILON * want.abs() + floor;
        let fine = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()) || close;
        assert!(fine, "{device}: approximation {n} of {x:e}: {got:e}, not {want:e}");
    }
}

#[test]
fn shuffles_votes_and_sums_of_a_warp() {
    let x: Vec<u32> = (0..32).map(|i| i * 37 % 101).collect();
    on_devices(|bench, device| {
        let (input, output, sums) = (bench.put(&x), bench.room::<u32>(32 * 16), bench.room::<f64>(32));
        bench.launch("check_warp", ONE, 32, 0, &[input, output, sums]);
        let got: Vec<u32> = bench.get(output);
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
            assert_eq!(got[lane * 16..][..16], want, "{device}: lane {lane}");
        }
        let sums: Vec<f64> = bench.get(sums);
        let mut butterfly: Vec<f64> = x.iter().map(|&x| f64::from(x) * 1e-3).collect();
        for distance in [16, 8, 4, 2, 1] {
            butterfly = (0..32).map(|i| butterfly[i] + butterfly[i ^ distance]).collect();
        }
        assert_eq!(sums, butterfly, "{device}");
    });
}

#[test]
fn blocks_barriers_wide_accesses_and_atomics() {
    let grid = [3u32, 2, 2];
    let (blocks, threads) = (12usize, 96usize);
    let x: Vec<f32> = (0..blocks * threads * 4).map(|i| (i % 1000) as f32).collect();
    let backwards: Vec<f32> =
        x.chunks(4 * threads).flat_map(|block| block.chunks(4).rev().flatten().copied().collect::<Vec<_>>()).collect();
    on_devices(|bench, device| {
        let (input, output) = (bench.put(&x), bench.room::<f32>(x.len()));
        let (counters, total, sum) = (bench.put(&[0u32; 4]), bench.put(&[0u64]), bench.put(&[0f32]));
        bench.launch("check_block", grid, 96, 96 * 16, &[input, output, counters, total, sum]);
        assert_eq!(bench.get::<f32>(output), backwards, "{device}");
        assert_eq!(bench.get::<u32>(counters), [96, (blocks * threads) as u32, 12, 12], "{device}");
        assert_eq!(bench.get::<u64>(total), [12 << 33], "{device}");
        assert_eq!(bench.get::<f32>(sum), [x.iter().step_by(4).sum::<f32>()], "{device}");
    });
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
    // Rows and columns where matrices 0 to 3 begin.
    let corners = [(0, 0), (8, 0), (0, 8), (8, 8)];
    on_devices(|bench, device| {
        let (input, output) = (bench.put(&x), bench.room::<u32>(32 * 12));
        bench.launch("check_load_matrix", ONE, 32, 0, &[input, output]);
        for (lane, got) in bench.get::<u32>(output).chunks(12).enumerate() {
            let plain = |i: usize| fragment(|r, c| x[(corners[i].0 + r) * 16 + corners[i].1 + c], lane);
            let transposed = |i: usize| fragment(|r, c| x[(corners[i].0 + c) * 16 + corners[i].1 + r], lane);
            let mut want: Vec<u32> = (0..4).map(plain).collect();
            want.extend((0..4).map(transposed));
            want.extend((0..2).map(plain));
            want.extend((0..2).map(transposed));
            assert_eq!(got, want, "{device}: lane {lane}");
        }
    });
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
    let left = registers(4, |lane, i| a(place_in_a(lane, i).0, place_in_a(lane, i).1));
    let right = registers(2, |lane, i| b(place_in_b(lane, i).0, place_in_b(lane, i).1));
    let place = |n: usize| place_in_d(n / 4, n % 4);
    let before: Vec<f32> = (0..128).map(|n| c(place(n).0, place(n).1)).collect();
    let after: Vec<f32> = (0..128)
        .map(|n| {
            let (row, column) = place(n);
            c(row, column) + (0..16).map(|k| a(row, k) * b(k, column)).sum::<f32>()
        })
        .collect();
    on_devices(|bench, device| {
        let (left, right, sums) = (bench.put(&left), bench.put(&right), bench.put(&before));
        bench.launch("check_mma", ONE, 32, 0, &[left, right, sums]);
        assert_eq!(bench.get::<f32>(sums), after, "{device}");
    });
}

/// Row and column of byte `i` of a lane's fragment of A, by PTX ISA's "Matrix Fragments for mma.m16n8k32".
fn byte_in_a(lane: usize, i: usize) -> (usize, usize) {
    let (group, member) = (lane >> 2, lane % 4);
    let row = if i < 4 || (8..12).contains(&i) { group } else { group + 8 };
    let column = member * 4 + (i & 3);
    (row, if i < 8 { column } else { column + 16 })
}

fn byte_in_b(lane: usize, i: usize) -> (usize, usize) {
    let row = lane % 4 * 4 + (i & 3);
    (if i < 4 { row } else { row + 16 }, lane >> 2)
}

/// Registers of all lanes for two matrices of bytes: four each, the first in the lowest.
fn registers_of_bytes(a: impl Fn(usize, usize) -> u8, b: impl Fn(usize, usize) -> u8) -> [Vec<u32>; 2] {
    let of = |count, element: &dyn Fn(usize, usize) -> u8| {
        let register = |n: usize| std::array::from_fn(|byte| element(n / count, n % count * 4 + byte));
        (0..32 * count).map(|n| u32::from_le_bytes(register(n))).collect()
    };
    let left = |lane, i| a(byte_in_a(lane, i).0, byte_in_a(lane, i).1);
    [of(4, &left), of(2, &|lane, i| b(byte_in_b(lane, i).0, byte_in_b(lane, i).1))]
}

#[test]
fn products_of_fragments_of_bytes() {
    // All bytes, the extreme ones beside each other too.
    let a = |row: usize, column: usize| ((row * 37 + column * 101) % 256) as u8 as i8;
    let b = |row: usize, column: usize| if row == 0 { -128 } else { ((row * 53 + column * 29) % 256) as u8 as i8 };
    // Sums that begin at the ends of the range.
    let c = |row: usize, column: usize| if column == 0 { i32::MAX } else { (row * 8 + column) as i32 - 64 };
    let [left, right] = registers_of_bytes(|m, k| a(m, k).cast_unsigned(), |k, n| b(k, n).cast_unsigned());
    let places: Vec<(usize, usize)> = (0..128).map(|n| place_in_d(n / 4, n % 4)).collect();
    let before: Vec<i32> = places.iter().map(|&(m, n)| c(m, n)).collect();
    let sum = |row: usize, column: usize| (0..32).map(|k| i32::from(a(row, k)) * i32::from(b(k, column))).sum::<i32>();
    let after: Vec<i32> = places.iter().map(|&(row, column)| c(row, column).wrapping_add(sum(row, column))).collect();
    on_devices(|bench, device| {
        let (left, right, sums) = (bench.put(&left), bench.put(&right), bench.put(&before));
        bench.launch("check_mma_s8", ONE, 32, 0, &[left, right, sums]);
        assert_eq!(bench.get::<i32>(sums), after, "{device}");
    });
}

/// The value of a float of four exponent bits (bias 7) and three of mantissa.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = if exponent == 0 { mantissa / 512.0 } else { (8.0 + mantissa) * 2f32.powi(exponent - 10) };
    if byte >> 7 != 0 { -magnitude } else { magnitude }
}

/// A row of A has one element that is not zero, so that each sum is one product, and all bytes come up.
#[test]
fn products_of_fragments_of_small_floats() {
    for round in 0..16usize {
        let byte = |n: usize| (n * 16 + round) as u8;
        let a = |row: usize, column: usize| if column == (row * 3 + round) % 32 { byte(row) } else { 0 };
        // 0.5, 1, 1.5 and 2, of either sign.
        let b = |row: usize, column: usize| [0x30, 0x38, 0x3c, 0x40, 0xb0, 0xb8, 0xbc, 0xc0][(row * 5 + column) % 8];
        let [left, right] = registers_of_bytes(a, b);
        let after: Vec<f32> = (0..128)
            .map(|n| {
                let (row, column) = place_in_d(n / 4, n % 4);
                let k = (row * 3 + round) % 32;
                e4m3(a(row, k)) * e4m3(b(k, column))
            })
            .collect();
        with_small_floats([&left, &right], &[0.0; 128], |found, device| {
            for (n, (found, &wanted)) in found.iter().zip(&after).enumerate() {
                let is_number = byte(place_in_d(n / 4, n % 4).0) & 0x7f != 0x7f;
                assert!(if is_number { *found == wanted } else { found.is_nan() }, "{device}: {n}: {found}, {wanted}");
            }
        });
    }
}

/// Sums on devices that multiply floats of eight bits.
fn with_small_floats([left, right]: [&[u32]; 2], before: &[f32], check: impl Fn(&[f32], &str)) {
    on_devices(|bench, device| {
        if bench.gpu.capability() >= (Capability { major: 8, minor: 9 }) {
            let (left, right, sums) = (bench.put(left), bench.put(right), bench.put(before));
            bench.launch("check_mma_e4m3", ONE, 32, 0, &[left, right, sums]);
            check(&bench.get::<f32>(sums), device);
        }
    });
}

/// Sums of products that are small integers, which every device adds exactly.
#[test]
fn sums_of_products_of_small_floats() {
    // -8 to 7 as such floats.
    let codes: [u8; 16] = std::array::from_fn(|i| (0..=255).find(|&x| e4m3(x) == i as f32 - 8.0).unwrap());
    let (a, b) = (|row: usize, k: usize| (row * 5 + k * 3) % 16, |k: usize, column: usize| (k * 7 + column * 11) % 16);
    let [left, right] = registers_of_bytes(|m, k| codes[a(m, k)], |k, n| codes[b(k, n)]);
    let before: Vec<f32> = (0..128).map(|n| n as f32).collect();
    let after: Vec<f32> = (0..128)
        .map(|n| {
            let (row, column) = place_in_d(n / 4, n % 4);
            let products = (0..32).map(|k| (a(row, k) as f32 - 8.0) * (b(k, column) as f32 - 8.0));
            n as f32 + products.sum::<f32>()
        })
        .collect();
    with_small_floats([&left, &right], &before, |found, device| assert_eq!(found, after, "{device}"));
}

#[test]
fn asynchronous_copies_fill_with_zeros_beyond_the_range() {
    let (threads, count) = (128usize, 201usize);
    let x: Vec<u32> = (1..=4 * count as u32).collect();
    let mut want = x.clone();
    want.resize(2 * threads * 4, 0);
    on_devices(|bench, device| {
        // What lies behind the last group must not come along.
        let all = bench.put(&[x.as_slice(), &[7; 300]].concat());
        let (input, output, thirds) = (all.head(4 * x.len()), bench.room::<u32>(want.len()), bench.room::<f32>(6));
        let args = Args::new().span(&bench.gpu, input).span(&bench.gpu, output).u32(count as u32);
        let args = args.span(&bench.gpu, thirds);
        launch(&mut bench.gpu, "check_copies", ONE, 128, 2 * 128 * 16, &args);
        assert_eq!(bench.get::<u32>(output), want, "{device}");
        assert_eq!(bench.get::<f32>(thirds)[..3], [0.0, 0.25, 0.5], "{device}");
        assert_eq!(bench.get::<u32>(thirds)[4..], x[..2], "{device}");
    });
}
