//! Small kernels around a few instructions.
#![allow(dead_code)]

use ptx_interpreter::{Fault, Heap, Launch, LaunchError, Manner, Module};

/// Registers for all kernels: `%a`, `%b`, `%c` are inputs and `%d` the result of 32 bits, `%wa` and so on those of 64.
const REGISTERS: &str = "
    .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<40>; .reg .f32 %f<8>; .reg .b64 %rd<16>; .reg .f64 %fd<4>;
    .reg .b32 %a; .reg .b32 %b; .reg .b32 %c; .reg .b32 %d; .reg .b64 %wa; .reg .b64 %wb; .reg .b64 %wc; .reg .b64 %wd;
    .reg .b32 %tid; .reg .b64 %at;";

/// A module with one kernel `k` of these parameters and this body, and declarations before it.
pub fn module(before: &str, parameters: &str, body: &str) -> Module {
    let text = format!(
        ".version 9.0\n.target sm_90a\n{before}\n.visible .entry k({parameters})\n{{{REGISTERS}\n{body}\nret;\n}}\n"
    );
    Module::parse(&text).unwrap()
}

/// The results of `body` for every row of inputs, up to 1024 of them, in registers of 32 bits.
pub fn narrow(body: &str, inputs: &[[u32; 3]]) -> Vec<u32> {
    let load = "
        ld.param.u64 %rd0, [rows]; mov.u32 %tid, %tid.x; mul.wide.u32 %rd1, %tid, 12; add.s64 %rd2, %rd0, %rd1;
        ld.global.u32 %a, [%rd2]; ld.global.u32 %b, [%rd2+4]; ld.global.u32 %c, [%rd2+8];
        ld.param.u64 %rd3, [out]; mul.wide.u32 %rd4, %tid, 4; add.s64 %at, %rd3, %rd4;";
    let module = module("", ".param .u64 rows, .param .u64 out", &format!("{load}\n{body}\nst.global.u32 [%at], %d;"));
    let heap = Heap::default();
    let bytes: Vec<u8> = inputs.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    let (rows, out) = (heap.filled(&bytes), heap.filled(&vec![0; 4 * inputs.len()]));
    let launch = Launch::new(&module, "k").unwrap().threads(inputs.len() as u32).u64(rows).u64(out);
    launch.run(&heap, Manner::default()).unwrap();
    heap.read(out).chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The same in registers of 64 bits.
pub fn wide(body: &str, inputs: &[[u64; 3]]) -> Vec<u64> {
    let load = "
        ld.param.u64 %rd0, [rows]; mov.u32 %tid, %tid.x; mul.wide.u32 %rd1, %tid, 24; add.s64 %rd2, %rd0, %rd1;
        ld.global.u64 %wa, [%rd2]; ld.global.u64 %wb, [%rd2+8]; ld.global.u64 %wc, [%rd2+16];
        ld.param.u64 %rd3, [out]; mul.wide.u32 %rd4, %tid, 8; add.s64 %at, %rd3, %rd4;";
    let module = module("", ".param .u64 rows, .param .u64 out", &format!("{load}\n{body}\nst.global.u64 [%at], %wd;"));
    let heap = Heap::default();
    let bytes: Vec<u8> = inputs.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    let (rows, out) = (heap.filled(&bytes), heap.filled(&vec![0; 8 * inputs.len()]));
    let launch = Launch::new(&module, "k").unwrap().threads(inputs.len() as u32).u64(rows).u64(out);
    launch.run(&heap, Manner::default()).unwrap();
    heap.read(out).chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Runs a body that writes words to `out`, which is `%rd0`; thread `i`'s word is at `%at`.
pub fn words(before: &str, body: &str, threads: u32, count: usize, manner: Manner) -> Result<Vec<u32>, Fault> {
    let start = "
        ld.param.u64 %rd0, [out]; mov.u32 %tid, %tid.x; mul.wide.u32 %rd4, %tid, 4; add.s64 %at, %rd0, %rd4;";
    let module = module(before, ".param .u64 out", &format!("{start}\n{body}"));
    let heap = Heap::default();
    let out = heap.filled(&vec![0; 4 * count]);
    match Launch::new(&module, "k").unwrap().threads(threads).u64(out).run(&heap, manner) {
        Ok(()) => Ok(heap.read(out).chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()),
        Err(LaunchError::Fault(fault)) => Err(fault),
        Err(other) => panic!("{other}"),
    }
}

/// The fault of a body that must fail.
pub fn fault(before: &str, body: &str, threads: u32) -> Fault {
    words(before, body, threads, 64, Manner::default()).expect_err("it fails")
}

/// Repeatable numbers, edges among them.
pub fn numbers(count: usize, seed: u64) -> Vec<u64> {
    const EDGES: [u64; 12] =
        [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, 1 << 63, u64::MAX, 31, 32, 0xffff, 0x8000];
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state ^ state >> 29
    };
    (0..count)
        .map(|_| {
            let x = next();
            match x % 4 {
                0 => EDGES[(x >> 8) as usize % EDGES.len()],
                1 => x >> 32 & 0xff,
                _ => x,
            }
        })
        .collect()
}

/// 512 rows of three.
pub fn rows() -> Vec<[u32; 3]> {
    numbers(1536, 7).chunks_exact(3).map(|row| [row[0] as u32, row[1] as u32, row[2] as u32]).collect()
}

pub fn wide_rows() -> Vec<[u64; 3]> {
    numbers(1536, 11).chunks_exact(3).map(|row| [row[0], row[1], row[2]]).collect()
}

/// 512 rows of floats of all sizes, infinities and NaN among them.
pub fn float_rows() -> Vec<[f32; 3]> {
    const EDGES: [f32; 10] =
        [0.0, -0.0, 1.0, -1.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, 1e-40, f32::MIN_POSITIVE];
    let float = |x: &u64| match x % 5 {
        0 => EDGES[(x >> 8) as usize % EDGES.len()],
        1 => (x >> 40) as f32 / 65_536.0 - 128.0,
        2 => ((x >> 60) as f32).exp2() - 3.0,
        _ => f32::from_bits(((x >> 17) as u32 % 0x7f80_0000) | (((x >> 3) as u32) << 31)),
    };
    numbers(1536, 13)
        .iter()
        .map(|x| float(&x.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect::<Vec<_>>()
        .chunks_exact(3)
        .map(|row| [row[0], row[1], row[2]])
        .collect()
}
