//! The update's roots and quotients are corrected approximations. That the corrections give what IEEE 754 asks for depends on
//! the device's approximations, which the emulator does not have: on a real device this tries all roots there are and the
//! quotients that are hardest to round.

use crate::harness::gpu::{EXACT, allocate, checked, devices, launch};
use tetrad::backend::cuda::{Args, Gpu};
use tetrad::memory::{Place, Span};
use zerocopy::IntoBytes;

/// All floats of two binades; all odd divisors of 24 bits.
const ROOTS: u32 = 1 << 24;
const DIVISORS: u32 = 1 << 22;

/// Cases, wrong ones, and the sum of the bits of all results.
type Counts = [u64; 3];

fn counted(gpu: &mut Gpu, kernel: &'static str, count: u32) -> Counts {
    let to = Span { place: Place::Arena, offset: 0, bytes: size_of::<Counts>() };
    gpu.zero(to);
    let args = Args::new().u32(count).span(gpu, to);
    let mut counts = [0u64; 3];
    // A kernel that hardly touches memory.
    checked(false, || {
        launch(gpu, kernel, [1024, 1, 1], 256, 0, &args);
        gpu.download(to, counts.as_mut_bytes());
    });
    counts
}

/// Numerators and divisors nearest to a tie, as `exact_quotients` finds them.
fn hardest(b: u32) -> impl Iterator<Item = (f32, f32)> {
    let inverse = (0..4).fold(b, |inverse, _| inverse.wrapping_mul(2u32.wrapping_sub(b.wrapping_mul(inverse))));
    (24..=25).flat_map(move |s| (-6i32..=6).map(move |r| (s, r))).filter_map(move |(s, r)| {
        let low = (r.wrapping_neg() as u32).wrapping_mul(inverse) & ((1 << s) - 1);
        let m = low | 1 << 24;
        let a = (u64::from(m) * u64::from(b)).wrapping_add_signed(r.into()) >> s;
        let middle = m & 1 == 1 && (s == 24 || m == low);
        (middle && (1 << 23..1 << 24).contains(&a)).then_some((a as f32, b as f32))
    })
}

#[test]
fn roots_and_hardest_quotients_are_correctly_rounded() {
    let sum: u64 = (0..ROOTS).map(|i| u64::from(f32::from_bits(0x3f80_0000 + i).sqrt().to_bits())).sum();
    let roots = [ROOTS.into(), 0, sum];
    let quotients = (0..DIVISORS).flat_map(|i| hardest((1 << 23) + 1 + 2 * i));
    let (cases, sum) = quotients.fold((0, 0), |(n, sum), (a, b)| (n + 1, sum + u64::from((a / b).to_bits())));
    // As many as a program found that is not this one.
    assert_eq!(cases, 17_444_070, "hardest quotients");
    for (name, mut gpu) in devices(&[EXACT]) {
        allocate(&mut gpu, 4096).unwrap();
        assert_eq!(counted(&mut gpu, "exact_roots", ROOTS), roots, "{name}: roots");
        assert_eq!(counted(&mut gpu, "exact_quotients", DIVISORS), [cases, 0, sum], "{name}: quotients");
        println!("{name}: {ROOTS} roots and {cases} quotients are correctly rounded");
        gpu.status().unwrap();
    }
}

/// `quotient` with an approximation that is `ulp` units off.
fn quotient(a: f32, b: f32, ulp: i32) -> f32 {
    let near = f32::from_bits((1.0 / b).to_bits().wrapping_add_signed(ulp));
    let inverse = near.mul_add((-b).mul_add(near, 1.0), near);
    let q = a * inverse;
    inverse.mul_add((-b).mul_add(q, a), q)
}

/// `root_of` likewise.
fn root_of(v: f32, ulp: i32) -> f32 {
    let nearest = (1.0 / f64::from(v).sqrt()) as f32;
    let inverse = f32::from_bits(nearest.to_bits().wrapping_add_signed(ulp));
    let root = v * inverse;
    (-root).mul_add(root, v).mul_add(inverse * 0.5, root)
}

/// What a device would get wrong whose approximations were off by one unit in the last place there: the cases hold it.
#[test]
fn cases_tell_an_approximation_that_is_one_unit_off() {
    let roots = [(0x3ffc_114a, 1), (0x404d_142a, -1), (0x405a_e03b, -1), (0x406e_9372, -1), (0x406e_9372, 1)];
    for (bits, ulp) in roots {
        let v = f32::from_bits(bits);
        assert_eq!(root_of(v, 0), v.sqrt(), "{bits:#x}");
        assert_ne!(root_of(v, ulp), v.sqrt(), "{bits:#x}");
        assert!((0x3f80_0000..0x3f80_0000 + ROOTS).contains(&bits));
    }
    for (a, b, ulp) in [(13_981_011, 16_777_213, 1), (8_388_608, 16_777_215, -1), (8_388_608, 16_777_215, 1)] {
        let (x, y) = (a as f32, b as f32);
        assert_eq!(quotient(x, y, 0), x / y, "{a} / {b}");
        assert_ne!(quotient(x, y, ulp), x / y, "{a} / {b}");
        assert!(hardest(b).any(|case| case == (x, y)), "{a} / {b} is among the cases");
    }
}
