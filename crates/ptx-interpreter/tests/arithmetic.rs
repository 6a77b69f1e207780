//! What computes in registers, against Rust's own arithmetic.

mod support;

use support::{float_rows, narrow, rows, wide, wide_rows};

/// An instruction of 32-bit integers beside what it should give.
fn check(body: &str, wanted: impl Fn(u32, u32, u32) -> u32) {
    let inputs = rows();
    for (found, &[a, b, c]) in narrow(body, &inputs).into_iter().zip(&inputs) {
        assert_eq!(found, wanted(a, b, c), "{body} of {a:#x}, {b:#x}, {c:#x}");
    }
}

fn check_wide(body: &str, wanted: impl Fn(u64, u64, u64) -> u64) {
    let inputs = wide_rows();
    for (found, &[a, b, c]) in wide(body, &inputs).into_iter().zip(&inputs) {
        assert_eq!(found, wanted(a, b, c), "{body} of {a:#x}, {b:#x}, {c:#x}");
    }
}

/// The same of floats; what is no number must be the hardware's.
fn check_floats(body: &str, wanted: impl Fn(f32, f32, f32) -> f32) {
    let inputs = float_rows();
    let bits: Vec<[u32; 3]> = inputs.iter().map(|row| row.map(f32::to_bits)).collect();
    for (found, &[a, b, c]) in narrow(body, &bits).into_iter().zip(&inputs) {
        let wanted = wanted(a, b, c);
        let wanted = if wanted.is_nan() { 0x7fff_ffff } else { wanted.to_bits() };
        assert_eq!(found, wanted, "{body} of {a:e}, {b:e}, {c:e}: {:e}", f32::from_bits(found));
    }
}

#[test]
fn integers_of_32_bits() {
    let s = |x: u32| x as i32;
    check("add.s32 %d, %a, %b;", |a, b, _| a.wrapping_add(b));
    check("sub.s32 %d, %a, %b;", |a, b, _| a.wrapping_sub(b));
    check("mul.lo.s32 %d, %a, %b;", |a, b, _| a.wrapping_mul(b));
    check("mul.hi.u32 %d, %a, %b;", |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32);
    check("mul.hi.s32 %d, %a, %b;", |a, b, _| ((i64::from(s(a)) * i64::from(s(b))) >> 32) as u32);
    check("mad.lo.s32 %d, %a, %b, %c;", |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    check("and.b32 %r0, %a, %b; or.b32 %r1, %r0, %c; xor.b32 %d, %r1, %a;", |a, b, c| (a & b | c) ^ a);
    check("not.b32 %r0, %a; neg.s32 %d, %r0;", |a, _, _| (!a).wrapping_neg());
    check("abs.s32 %d, %a;", |a, _, _| s(a).wrapping_abs() as u32);
    check("min.u32 %d, %a, %b;", |a, b, _| a.min(b));
    check("max.s32 %d, %a, %b;", |a, b, _| s(a).max(s(b)) as u32);
    check("min.s32 %r0, %a, %b; max.u32 %d, %r0, %c;", |a, b, c| (s(a).min(s(b)) as u32).max(c));
    // The divisor is never zero.
    check("or.b32 %r0, %b, 1; div.u32 %r1, %a, %r0; rem.u32 %r2, %c, %r0; add.s32 %d, %r1, %r2;", |a, b, c| {
        (a / (b | 1)).wrapping_add(c % (b | 1))
    });
    check("or.b32 %r0, %b, 1; div.s32 %d, %a, %r0;", |a, b, _| s(a).wrapping_div(s(b | 1)) as u32);
    check("popc.b32 %r0, %a; clz.b32 %r1, %b; add.s32 %d, %r0, %r1;", |a, b, _| a.count_ones() + b.leading_zeros());
}

#[test]
fn shifts_beyond_the_width() {
    check("shl.b32 %d, %a, %b;", |a, b, _| a.checked_shl(b).unwrap_or(0));
    check("shr.u32 %d, %a, %b;", |a, b, _| a.checked_shr(b).unwrap_or(0));
    check("shr.s32 %d, %a, %b;", |a, b, _| (a as i32 >> b.min(31)) as u32);
    check_wide("cvt.u32.u64 %r0, %wb; shl.b64 %wd, %wa, %r0;", |a, b, _| a.checked_shl(b as u32).unwrap_or(0));
    check_wide("cvt.u32.u64 %r0, %wb; shr.u64 %wd, %wa, %r0;", |a, b, _| a.checked_shr(b as u32).unwrap_or(0));
    check_wide("cvt.u32.u64 %r0, %wb; shr.s64 %wd, %wa, %r0;", |a, b, _| (a as i64 >> (b as u32).min(63)) as u64);
}

#[test]
fn integers_of_16_bits() {
    let halves = "cvt.u16.u32 %h0, %a; cvt.u16.u32 %h1, %b;";
    check(&format!("{halves} mul.lo.s16 %h2, %h0, %h1; cvt.u32.u16 %d, %h2;"), |a, b, _| a.wrapping_mul(b) & 0xffff);
    check(&format!("{halves} sub.s16 %h2, %h0, %h1; cvt.s32.s16 %d, %h2;"), |a, b, _| a.wrapping_sub(b) as i16 as u32);
    check(&format!("{halves} mul.wide.u16 %d, %h0, %h1;"), |a, b, _| (a & 0xffff) * (b & 0xffff));
    check(&format!("{halves} shr.s16 %h2, %h0, 3; cvt.u32.u16 %d, %h2;"), |a, _, _| (a as i16 >> 3) as u16 as u32);
    check("cvt.u16.u32 %h0, %a; cvt.s16.s8 %h1, %h0; cvt.s32.s16 %d, %h1;", |a, _, _| a as i8 as u32);
    check("cvt.u16.u32 %h0, %a; cvt.u16.u32 %h1, %b; mov.b32 %d, {%h0, %h1};", |a, b, _| b << 16 | a & 0xffff);
    check("mov.b32 {%h0, %h1}, %a; cvt.u32.u16 %r0, %h0; cvt.u32.u16 %r1, %h1; sub.s32 %d, %r0, %r1;", |a, _, _| {
        (a & 0xffff).wrapping_sub(a >> 16)
    });
}

#[test]
fn integers_of_64_bits() {
    let s = |x: u64| x as i64;
    check_wide("add.s64 %rd5, %wa, %wb; sub.s64 %wd, %rd5, %wc;", |a, b, c| a.wrapping_add(b).wrapping_sub(c));
    check_wide("mul.lo.s64 %wd, %wa, %wb;", |a, b, _| a.wrapping_mul(b));
    check_wide("and.b64 %rd5, %wa, %wb; or.b64 %rd6, %rd5, %wc; not.b64 %wd, %rd6;", |a, b, c| !(a & b | c));
    check_wide("min.u64 %rd5, %wa, %wb; max.s64 %wd, %rd5, %wc;", |a, b, c| s(a.min(b)).max(s(c)) as u64);
    check_wide(
        "or.b64 %rd5, %wb, 1; div.u64 %rd6, %wa, %rd5; rem.u64 %rd7, %wa, %rd5; add.s64 %wd, %rd6, %rd7;",
        |a, b, _| (a / (b | 1)).wrapping_add(a % (b | 1)),
    );
    check_wide("mov.b64 {%r0, %r1}, %wa; mov.b64 %wd, {%r1, %r0};", |a, _, _| a.rotate_left(32));
    check_wide("bfi.b64 %wd, %wa, %wb, 32, 32;", |a, b, _| b & 0xffff_ffff | a << 32);
    check("bfi.b32 %d, %a, %b, 3, 29;", |a, b, _| b & 7 | a << 3);
    check("bfi.b32 %d, %a, %b, 4, 8;", |a, b, _| b & !0xff0 | (a & 0xff) << 4);
    check("mul.wide.u32 %rd5, %a, %b; shr.u64 %rd6, %rd5, 32; cvt.u32.u64 %d, %rd6;", |a, b, _| {
        ((u64::from(a) * u64::from(b)) >> 32) as u32
    });
    check("mul.wide.s32 %rd5, %a, %b; shr.u64 %rd6, %rd5, 32; cvt.u32.u64 %d, %rd6;", |a, b, _| {
        ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
    });
    check(
        "cvt.u64.u32 %rd5, %c; mad.wide.u32 %rd6, %a, %b, %rd5; shr.u64 %rd7, %rd6, 32; cvt.u32.u64 %d, %rd7;",
        |a, b, c| (u64::from(a) * u64::from(b)).wrapping_add(c.into()).wrapping_shr(32) as u32,
    );
}

#[test]
fn bytes_are_permuted_and_limited() {
    check("prmt.b32 %d, %a, %b, 0x7531;", |a, b, _| {
        let all = [a.to_le_bytes(), b.to_le_bytes()].concat();
        u32::from_le_bytes([all[1], all[3], all[5], all[7]])
    });
    check("prmt.b32 %d, %a, %b, %c;", |a, b, c| {
        let all = [a.to_le_bytes(), b.to_le_bytes()].concat();
        let byte = |k: u32| {
            let chosen = c >> (4 * k) & 15;
            let byte = all[chosen as usize & 7];
            if chosen < 8 {
                byte
            } else if byte > 127 {
                255
            } else {
                0
            }
        };
        u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
    });
    // PTX: the first operand is the higher byte of the low half.
    check("cvt.pack.sat.u8.s32.b32 %d, %a, %b, %c;", |a, b, c| {
        let limited = |x: u32| (x as i32).clamp(0, 255) as u32;
        c << 16 | limited(a) << 8 | limited(b)
    });
}

#[test]
fn conditions() {
    let chosen = "selp.b32 %d, %a, %b, %p0;";
    let s = |x: u32| x as i32;
    check(&format!("setp.lt.s32 %p0, %a, %b; {chosen}"), |a, b, _| if s(a) < s(b) { a } else { b });
    check(&format!("setp.ge.u32 %p0, %a, %b; {chosen}"), |a, b, _| if a >= b { a } else { b });
    check(&format!("setp.eq.s32 %p1, %a, 0; setp.ne.s32 %p2, %b, 1; or.pred %p0, %p1, %p2; {chosen}"), |a, b, _| {
        if a == 0 || b != 1 { a } else { b }
    });
    check(&format!("setp.gt.u32 %p1, %a, %b; not.pred %p2, %p1; and.pred %p0, %p2, %p2; {chosen}"), |a, b, _| {
        if a > b { b } else { a }
    });
    check("setp.gt.s32 %p0, %a, %b; mov.u32 %d, 5; @%p0 mov.u32 %d, 6; @!%p0 add.s32 %d, %d, %c;", |a, b, c| {
        if s(a) > s(b) { 6 } else { c.wrapping_add(5) }
    });
    check_wide("setp.lt.s64 %p0, %wa, %wb; selp.b64 %wd, %wa, %wb, %p0;", |a, b, _| (a as i64).min(b as i64) as u64);
    for (name, wanted) in [
        ("lt", (|a, b| a < b) as fn(f32, f32) -> bool),
        ("ltu", |a, b| a < b || a.is_nan() || b.is_nan()),
        ("gt", |a, b| a > b),
        ("geu", |a, b| a >= b || a.is_nan() || b.is_nan()),
        ("le", |a, b| a <= b),
        ("eq", |a, b| a == b),
        ("ne", |a, b| a != b && !a.is_nan() && !b.is_nan()),
        ("neu", |a, b| a != b),
        ("nan", |a, b| a.is_nan() || b.is_nan()),
        ("num", |a, b| !(a.is_nan() || b.is_nan())),
    ] {
        check_floats(&format!("setp.{name}.f32 %p0, %a, %b; selp.f32 %d, 0f3F800000, 0fC0000000, %p0;"), |a, b, _| {
            if wanted(a, b) { 1.0 } else { -2.0 }
        });
    }
}

#[test]
fn floats_are_those_of_ieee() {
    check_floats("add.rn.f32 %d, %a, %b;", |a, b, _| a + b);
    check_floats("sub.f32 %d, %a, %b;", |a, b, _| a - b);
    check_floats("mul.rn.f32 %d, %a, %b;", |a, b, _| a * b);
    check_floats("div.rn.f32 %d, %a, %b;", |a, b, _| a / b);
    check_floats("fma.rn.f32 %d, %a, %b, %c;", f32::mul_add);
    check_floats("sqrt.rn.f32 %d, %a;", |a, _, _| a.sqrt());
    check_floats("rcp.rn.f32 %d, %a;", |a, _, _| 1.0 / a);
    // Signs are bits, also of what is no number. The second operand is the magnitude.
    check("abs.f32 %r0, %a; copysign.f32 %d, %b, %r0;", |a, b, _| a & 0x7fff_ffff | b & 0x8000_0000);
    check("neg.f32 %d, %a;", |a, _, _| a ^ 0x8000_0000);
    check_floats("cvt.rni.f32.f32 %d, %a;", |a, _, _| a.round_ties_even());
    check_floats("cvt.rmi.f32.f32 %d, %a;", |a, _, _| a.floor());
    check_floats("cvt.sat.f32.f32 %d, %a;", |a, _, _| if a.is_nan() || a <= 0.0 { 0.0 } else { a.min(1.0) });
    check_floats("max.f32 %r0, %a, %b; min.f32 %d, %r0, %c;", |a, b, c| {
        let larger = if a == b { if a.is_sign_positive() { a } else { b } } else { a.max(b) };
        if larger == c { if c.is_sign_negative() { c } else { larger } } else { larger.min(c) }
    });
    let to_wide = "cvt.f64.f32 %fd0, %a; cvt.f64.f32 %fd1, %b;";
    check_floats(&format!("{to_wide} add.rn.f64 %fd2, %fd0, %fd1; cvt.rn.f32.f64 %d, %fd2;"), |a, b, _| {
        (f64::from(a) + f64::from(b)) as f32
    });
    check_floats(
        &format!("{to_wide} mul.rn.f64 %fd2, %fd0, %fd1; sqrt.rn.f64 %fd3, %fd2; cvt.rn.f32.f64 %d, %fd3;"),
        |a, b, _| (f64::from(a) * f64::from(b)).sqrt() as f32,
    );
}

/// The largest float that is not above: in exact arithmetic of integers, for numbers of like size.
#[test]
fn sums_towards_negative_infinity() {
    let inputs: Vec<[f32; 3]> =
        (0..512u32).map(|i| [1.0 + i as f32 * 2f32.powi(-23), (i as f32 - 256.0) * 2f32.powi(-30), 0.0]).collect();
    let bits: Vec<_> = inputs.iter().map(|row| row.map(f32::to_bits)).collect();
    for (found, [a, b, _]) in narrow("add.rm.f32 %d, %a, %b;", &bits).into_iter().zip(&inputs) {
        // Both are multiples of 2^-30 below 2^2.
        let exact = (f64::from(*a) * 2f64.powi(30)) as i64 + (f64::from(*b) * 2f64.powi(30)) as i64;
        let of = |x: f32| (f64::from(x) * 2f64.powi(30)) as i64;
        let found = f32::from_bits(found);
        assert!(of(found) <= exact && of(found.next_up()) > exact, "{a} + {b} = {found}");
    }
    let one = |a: f32, b: f32, c: f32| {
        f32::from_bits(narrow("fma.rm.f32 %d, %a, %b, %c;", &[[a, b, c].map(f32::to_bits); 32])[0])
    };
    assert_eq!(one(1.0, 1.0, -(2f32.powi(-60))), 1.0f32.next_down());
    assert_eq!(one(1.0, 1.0, 2f32.powi(-60)), 1.0);
    assert_eq!(one(3.0, 1.0 / 3.0, -1.0), (3.0 * f64::from(1.0f32 / 3.0) - 1.0) as f32);
    assert!(one(2.0, 0.5, -1.0).is_sign_negative());
}

#[test]
fn conversions_between_floats_and_integers() {
    check("cvt.rn.f32.s32 %d, %a;", |a, _, _| (a as i32 as f32).to_bits());
    check("cvt.rn.f32.u32 %d, %a;", |a, _, _| (a as f32).to_bits());
    check_wide("cvt.rn.f64.s64 %wd, %wa;", |a, _, _| (a as i64 as f64).to_bits());
    let inputs = float_rows();
    let bits: Vec<_> = inputs.iter().map(|row| row.map(f32::to_bits)).collect();
    for (how, wanted) in [
        ("cvt.rni.s32.f32", (|x| x.round_ties_even() as i32) as fn(f32) -> i32),
        ("cvt.rmi.s32.f32", |x| x.floor() as i32),
        ("cvt.rzi.s32.f32", |x| x as i32),
    ] {
        for (found, [a, ..]) in narrow(&format!("{how} %d, %a;"), &bits).into_iter().zip(&inputs) {
            assert_eq!(found as i32, wanted(*a), "{how} of {a}");
        }
    }
    // PTX: the first operand is the upper half.
    for (found, [a, b, _]) in narrow("cvt.rn.bf16x2.f32 %d, %a, %b;", &bits).into_iter().zip(&inputs) {
        let half = |x: f32| if x.is_nan() { 0x7fff } else { u32::from(half::bf16::from_f32(x).to_bits()) };
        assert_eq!(found, half(*a) << 16 | half(*b), "{a}, {b}");
    }
    for (found, [a, ..]) in narrow("cvt.rn.f16.f32 %h0, %a; cvt.f32.f16 %d, %h0;", &bits).into_iter().zip(&inputs) {
        let wanted = half::f16::from_f32(*a).to_f32();
        assert!(f32::from_bits(found) == wanted || wanted.is_nan() && found == 0x7fff_ffff, "{a}");
    }
}

#[test]
fn approximations_flush_and_are_near() {
    let near = |body: &str, x: f32| f32::from_bits(narrow(&format!("{body} %d, %a;"), &[[x.to_bits(), 0, 0]; 32])[0]);
    assert_eq!(near("rcp.approx.ftz.f32", 3.0), 1.0 / 3.0);
    assert_eq!(near("rcp.approx.ftz.f32", 1e-40), f32::INFINITY);
    assert_eq!(near("rcp.approx.ftz.f32", 3e38), 0.0);
    assert_eq!(near("rsqrt.approx.ftz.f32", 4.0), 0.5);
    assert!(near("rsqrt.approx.ftz.f32", -1.0).is_nan());
    assert_eq!(near("ex2.approx.ftz.f32", -3.0), 0.125);
    assert_eq!(near("ex2.approx.ftz.f32", -140.0), 0.0);
    assert_eq!(near("lg2.approx.ftz.f32", 0.0), f32::NEG_INFINITY);
}
