//! What threads do together, and threads that part.

mod support;

use half::bf16;
use ptx_interpreter::{Heap, Launch, Manner};
use support::{fault, module, words};

fn run(body: &str, threads: u32) -> Vec<u32> {
    words("", body, threads, threads as usize, Manner::default()).unwrap()
}

#[test]
fn threads_that_part_come_together_again() {
    // Thread i adds i + 1 down to 1, and every odd one a hundred; then all vote.
    let body = "
        and.b32 %r0, %tid, 1; setp.eq.s32 %p0, %r0, 0; mov.u32 %r1, 0; add.s32 %r2, %tid, 1;
        $loop: add.s32 %r1, %r1, %r2; sub.s32 %r2, %r2, 1; setp.ne.s32 %p1, %r2, 0; @%p1 bra $loop;
        @%p0 bra $even; add.s32 %r1, %r1, 100;
        $even: vote.sync.ballot.b32 %r3, %p0, -1;
        add.s32 %r1, %r1, %r3;
        st.global.u32 [%at], %r1;";
    let wanted = |i: u32| ((i + 1) * (i + 2) / 2 + i % 2 * 100).wrapping_add(0x5555_5555);
    assert_eq!(run(body, 32), (0..32).map(wanted).collect::<Vec<_>>());
}

#[test]
fn threads_that_have_returned_write_nothing() {
    let body = "setp.gt.u32 %p0, %tid, 20; @%p0 ret; mov.u32 %r0, 9; st.global.u32 [%at], %r0;";
    let found = run(body, 40);
    assert_eq!(found, (0..40).map(|i| if i > 20 { 0 } else { 9 }).collect::<Vec<u32>>());
}

#[test]
fn shuffles() {
    let shuffled = |mode: &str, by: u32, clamp: u32| {
        let body = format!(
            "mul.lo.s32 %r0, %tid, 10; shfl.sync.{mode}.b32 %r1|%p0, %r0, {by}, {clamp}, -1;
             selp.b32 %r2, 1000, 0, %p0; add.s32 %r3, %r1, %r2; st.global.u32 [%at], %r3;"
        );
        run(&body, 32)
    };
    // The lane that is received from, if there is one.
    let wanted = |from: fn(u32) -> Option<u32>| {
        (0..32).map(|i| from(i).map_or(10 * i, |from| 10 * from + 1000)).collect::<Vec<_>>()
    };
    assert_eq!(shuffled("bfly", 5, 31), wanted(|i| Some(i ^ 5)));
    assert_eq!(shuffled("down", 3, 31), wanted(|i| Some(i + 3).filter(|&from| from < 32)));
    assert_eq!(shuffled("up", 3, 0), wanted(|i| i.checked_sub(3)));
    assert_eq!(shuffled("idx", 7, 31), wanted(|_| Some(7)));
    // Segments of eight lanes.
    assert_eq!(shuffled("idx", 2, 0x181f), wanted(|i| Some(i & 24 | 2)));
    assert_eq!(shuffled("down", 3, 0x181f), wanted(|i| Some(i + 3).filter(|from| from / 8 == i / 8)));
    assert_eq!(shuffled("bfly", 9, 0x181f), wanted(|i| Some(i ^ 9).filter(|&from| from <= i | 7)));
}

const SHARED: &str = ".shared .align 16 .b8 room[512];";

#[test]
fn barriers_order_the_warps_of_a_block_in_any_order() {
    let body = "
        mov.u64 %rd5, room; mul.wide.u32 %rd6, %tid, 4; add.s64 %rd7, %rd5, %rd6; st.shared.u32 [%rd7], %tid;
        bar.sync 0;
        xor.b32 %r0, %tid, 127; mul.wide.u32 %rd8, %r0, 4; add.s64 %rd9, %rd5, %rd8; ld.shared.u32 %r1, [%rd9];
        st.global.u32 [%at], %r1;";
    let undefined = |order| {
        let manner = Manner { order, disturbed: None };
        let found = words(SHARED, body, 128, 128, manner).unwrap();
        assert_eq!(found, (0..128).rev().collect::<Vec<u32>>(), "order {order}");
        let without = words(SHARED, &body.replace("bar.sync 0;", ""), 128, 128, manner).unwrap();
        without.iter().filter(|&&x| x == u32::MAX).count()
    };
    for order in 0..5 {
        assert!(undefined(order) > 0, "without the barrier some read before others write, in order {order}");
    }
}

#[test]
fn waits_that_never_end_are_faults() {
    let some = "setp.gt.u32 %p0, %tid, 40; @%p0 ret; bar.sync 0;";
    let wrong = fault("", some, 96).message;
    assert!(wrong.contains("waits at a barrier, which warp 2 never reaches"), "{wrong}");
    let elsewhere =
        "setp.gt.u32 %p0, %tid, 3; @%p0 bra $other; bar.warp.sync -1; bra $end; $other: bar.warp.sync -1; $end:";
    let wrong = fault("", elsewhere, 32).message;
    assert!(wrong.contains("waits for threads of its warp that wait elsewhere"), "{wrong}");
    let returned = "setp.gt.u32 %p0, %tid, 3; @%p0 ret; shfl.sync.bfly.b32 %r0, %tid, 1, 31, -1;";
    let wrong = fault("", returned, 32).message;
    assert!(wrong.contains("waits for threads of its warp that have returned"), "{wrong}");
    let unnamed = "shfl.sync.bfly.b32 %r0, %tid, 1, 31, 15;";
    assert!(fault("", unnamed, 32).message.contains("is not among the threads that it names"));
    let missing = "setp.gt.u32 %p0, %tid, 3; @%p0 bra $end; shfl.sync.idx.b32 %r0, %tid, 9, 31, 15; $end:";
    assert!(fault("", missing, 32).message.contains("receives from lane 9, which is not there"));
}

/// 16-bit elements of matrices: row * 16 + column, of matrix m plus 256 m.
#[test]
fn matrices_from_shared_memory() {
    let body = |trans: &str| {
        format!(
            "mov.u64 %rd5, room; shl.b32 %r0, %tid, 4; cvt.u64.u32 %rd6, %r0; add.s64 %rd7, %rd5, %rd6;
             and.b32 %r1, %tid, 7; shl.b32 %r2, %r1, 4; shr.u32 %r3, %tid, 3; shl.b32 %r4, %r3, 8; add.s32 %r5, %r2, %r4;
             mul.lo.s32 %r6, %r5, 65537; add.s32 %r7, %r6, 65536;
             add.s32 %r8, %r7, 131074; add.s32 %r9, %r8, 131074; add.s32 %r10, %r9, 131074;
             st.shared.v4.u32 [%rd7], {{%r7, %r8, %r9, %r10}};
             bar.sync 0; cvt.u32.u64 %r11, %rd7;
             ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r12, %r13, %r14, %r15}}, [%r11];
             mul.wide.u32 %rd8, %tid, 16; add.s64 %rd9, %rd0, %rd8; st.global.v4.u32 [%rd9], {{%r12, %r13, %r14, %r15}};"
        )
    };
    for transposed in [false, true] {
        let found = words(SHARED, &body(if transposed { ".trans" } else { "" }), 32, 128, Manner::default()).unwrap();
        for (lane, registers) in found.chunks_exact(4).enumerate() {
            let (g, t) = (lane as u32 / 4, lane as u32 % 4 * 2);
            let element = |row: u32, column: u32| if transposed { column * 16 + row } else { row * 16 + column };
            for (matrix, &register) in registers.iter().enumerate() {
                let wanted = [element(g, t), element(g, t + 1)].map(|x| x + 256 * matrix as u32);
                assert_eq!([register & 0xffff, register >> 16], wanted, "lane {lane}, matrix {matrix}, {transposed}");
            }
        }
    }
}

/// The product of whole matrices, laid out as PTX's manual says.
#[test]
fn products_of_fragments() {
    let a: Vec<f32> = (0..256).map(|i| (i * 7 % 31) as f32 - 15.0).collect();
    let b: Vec<f32> = (0..128).map(|i| (i * 5 % 17) as f32 * 0.25 - 2.0).collect();
    let c: Vec<f32> = (0..128).map(|i| i as f32 - 64.0).collect();
    let pair = |low: f32, high: f32| {
        u32::from(bf16::from_f32(high).to_bits()) << 16 | u32::from(bf16::from_f32(low).to_bits())
    };
    let mut input = Vec::new();
    for lane in 0..32 {
        let (g, t) = (lane / 4, 2 * (lane % 4));
        for (row, column) in [(g, t), (g + 8, t), (g, t + 8), (g + 8, t + 8)] {
            input.push(pair(a[16 * row + column], a[16 * row + column + 1]));
        }
        for row in [t, t + 8] {
            input.push(pair(b[8 * row + g], b[8 * row + 8 + g]));
        }
        for (row, column) in [(g, t), (g, t + 1), (g + 8, t), (g + 8, t + 1)] {
            input.push(c[8 * row + column].to_bits());
        }
    }
    let body = "
        ld.param.u64 %rd0, [in]; ld.param.u64 %rd1, [out]; mov.u32 %tid, %tid.x; mul.wide.u32 %rd2, %tid, 40;
        add.s64 %rd3, %rd0, %rd2; mul.wide.u32 %rd4, %tid, 16; add.s64 %rd5, %rd1, %rd4;
        ld.global.u32 %r0, [%rd3]; ld.global.u32 %r1, [%rd3+4]; ld.global.u32 %r2, [%rd3+8]; ld.global.u32 %r3, [%rd3+12];
        ld.global.u32 %r4, [%rd3+16]; ld.global.u32 %r5, [%rd3+20]; ld.global.f32 %f0, [%rd3+24];
        ld.global.f32 %f1, [%rd3+28]; ld.global.f32 %f2, [%rd3+32]; ld.global.f32 %f3, [%rd3+36];
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0, %f1, %f2, %f3}, {%r0, %r1, %r2, %r3}, {%r4, %r5},
            {%f0, %f1, %f2, %f3};
        st.global.v4.f32 [%rd5], {%f0, %f1, %f2, %f3};";
    let module = module("", ".param .u64 in, .param .u64 out", body);
    let heap = Heap::default();
    let bytes: Vec<u8> = input.iter().flat_map(|x| x.to_le_bytes()).collect();
    let (from, to) = (heap.filled(&bytes), heap.filled(&[0; 512]));
    Launch::new(&module, "k").unwrap().u64(from).u64(to).run(&heap, Manner::default()).unwrap();
    let found: Vec<f32> = heap.read(to).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    for (lane, found) in found.chunks_exact(4).enumerate() {
        let (g, t) = (lane / 4, 2 * (lane % 4));
        for ((row, column), &found) in [(g, t), (g, t + 1), (g + 8, t), (g + 8, t + 1)].into_iter().zip(found) {
            // Small integers and quarters: every sum is exact.
            let sum: f32 = (0..16).map(|k| a[16 * row + k] * b[8 * k + column]).sum();
            assert_eq!(found, c[8 * row + column] + sum, "row {row}, column {column}");
        }
    }
}

#[test]
fn blocks_know_where_they_are() {
    let body = "
        ld.param.u64 %rd0, [out]; mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ctaid.y; mov.u32 %r2, %ctaid.z;
        mov.u32 %r3, %nctaid.x; mov.u32 %r4, %nctaid.y; mov.u32 %r5, %ntid.x; mov.u32 %r6, %tid.x;
        mad.lo.s32 %r7, %r2, %r4, %r1; mad.lo.s32 %r8, %r7, %r3, %r0; mad.lo.s32 %r9, %r8, %r5, %r6;
        mul.wide.u32 %rd1, %r9, 4; add.s64 %rd2, %rd0, %rd1; st.global.u32 [%rd2], %r9;";
    let module = module("", ".param .u64 out", body);
    for order in 0..4 {
        let heap = Heap::default();
        let out = heap.filled(&[0; 4 * 3 * 2 * 4 * 5]);
        let launch = Launch::new(&module, "k").unwrap().grid([3, 2, 4]).threads(5).u64(out);
        launch.run(&heap, Manner { order, disturbed: None }).unwrap();
        let found: Vec<u32> =
            heap.read(out).chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(found, (0..120).collect::<Vec<_>>());
    }
}

#[test]
fn approximations_are_disturbed_where_it_is_asked_for() {
    let body = "cvt.rn.f32.u32 %f0, %tid; add.rn.f32 %f1, %f0, 0f3F800000; rcp.approx.ftz.f32 %f2, %f1; st.global.f32 [%at], %f2;";
    let of = |disturbed| words("", body, 256, 256, Manner { order: 0, disturbed }).unwrap();
    let exact: Vec<u32> = (0..256).map(|i| (1.0 / (i as f32 + 1.0)).to_bits()).collect();
    assert_eq!(of(None), exact);
    assert_eq!(of(Some(3)), of(Some(3)));
    assert_ne!(of(Some(3)), of(Some(4)));
    let off: Vec<i64> = of(Some(3)).iter().zip(&exact).map(|(a, b)| i64::from(*a) - i64::from(*b)).collect();
    assert!(off.iter().all(|by| (-1..=1).contains(by)), "a reciprocal is off by one at most");
    assert!([-1, 0, 1].iter().all(|by| off.iter().filter(|off| *off == by).count() > 50), "{off:?}");
}
