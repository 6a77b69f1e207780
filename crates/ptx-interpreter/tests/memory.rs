//! Loads, stores, atomics and asynchronous copies, and accesses that are wrong.

mod support;

use ptx_interpreter::{Heap, Launch, LaunchError, Manner, Module};
use support::{fault, words};

const SHARED: &str = ".shared .align 16 .b8 room[256];\n.extern .shared .align 128 .b8 more[];";

#[test]
fn vectors_and_the_offsets_of_addresses() {
    let body = "
        mul.wide.u32 %rd5, %tid, 16; mov.u64 %rd6, room; add.s64 %rd7, %rd6, %rd5;
        add.s32 %r0, %tid, 100; add.s32 %r1, %tid, 200; add.s32 %r2, %tid, 300; add.s32 %r3, %tid, 400;
        st.shared.v4.u32 [%rd7], {%r0, %r1, %r2, %r3};
        ld.shared.v2.u32 {%r4, %r5}, [%rd7+8];
        ld.shared.u8 %h0, [%rd7+4]; cvt.u32.u16 %r6, %h0;
        add.s32 %r7, %r4, %r5; add.s32 %r8, %r7, %r6;
        st.global.u32 [%at], %r8;";
    let found = words(SHARED, body, 16, 16, Manner::default()).unwrap();
    for (i, found) in found.into_iter().enumerate() {
        assert_eq!(found, (300 + i + 400 + i + ((200 + i) & 255)) as u32);
    }
}

#[test]
fn parameters_lie_where_a_struct_has_them() {
    let text = "
.visible .entry k(.param .u32 first, .param .align 8 .b8 second[24], .param .f32 third, .param .u64 out) {
    .reg .b32 %r<5>; .reg .b64 %rd<4>;
    ld.param.u32 %r0, [first]; ld.param.v2.u32 {%r1, %r2}, [second+8]; ld.param.u64 %rd0, [second+16];
    ld.param.f32 %r3, [third]; ld.param.u64 %rd1, [out];
    st.global.v4.u32 [%rd1], {%r0, %r1, %r2, %r3}; st.global.u64 [%rd1+16], %rd0;
    ret;
}";
    let (module, heap) = (Module::parse(text).unwrap(), Heap::default());
    let out = heap.filled(&[0; 24]);
    let second: Vec<u8> = (0..24).collect();
    let launch = Launch::new(&module, "k").unwrap().u32(7).bytes(&second).bytes(&1.5f32.to_le_bytes()).u64(out);
    launch.threads(1).run(&heap, Manner::default()).unwrap();
    let wanted = [&7u32.to_le_bytes()[..], &second[8..16], &1.5f32.to_le_bytes(), &second[16..]].concat();
    assert_eq!(heap.read(out), wanted);
    let wrong = Launch::new(&module, "k").unwrap().u32(7).u64(out).run(&heap, Manner::default());
    assert!(matches!(wrong, Err(LaunchError::Parameters { .. })));
}

/// Each thread reads its own entry of a table; beyond the last parameter is nothing.
#[test]
fn parameters_by_an_address_that_is_computed() {
    let text = "
.visible .entry k(.param .u64 out, .param .align 8 .b8 table[24]) {
    .reg .b32 %r<4>; .reg .b64 %rd<6>;
    ld.param.u64 %rd0, [out]; mov.u32 %r0, %tid.x;
    mov.b64 %rd1, table; mul.wide.u32 %rd2, %r0, 8; add.s64 %rd3, %rd1, %rd2;
    ld.param.v2.u32 {%r1, %r2}, [%rd3+8]; add.s32 %r3, %r1, %r2;
    mul.wide.u32 %rd4, %r0, 4; add.s64 %rd5, %rd0, %rd4; st.global.u32 [%rd5], %r3;
    ret;
}";
    let (module, heap) = (Module::parse(text).unwrap(), Heap::default());
    let (out, table) = (heap.filled(&[0; 12]), [1u32, 2, 3, 4, 5, 6].map(u32::to_le_bytes).concat());
    let run = |threads| {
        let launch = Launch::new(&module, "k").unwrap().u64(out).bytes(&table);
        launch.threads(threads).run(&heap, Manner::default())
    };
    run(2).unwrap();
    assert_eq!(heap.read(out)[..8], [7u32, 11].map(u32::to_le_bytes).concat());
    let said = run(3).unwrap_err().to_string();
    assert!(said.contains("8 bytes at 32 of 32 bytes of parameters"), "{said}");
}

#[test]
fn a_threads_own_memory_and_arrays_of_the_module() {
    let before =
        ".const .align 4 .b8 thirds[12] = {1, 0, 0, 0, 2, 0, 0, 0, 3, 1, 0, 0};\n.global .align 4 .u32 one = 17;";
    let body = "
        .local .align 4 .b8 own[8];
        mov.u64 %rd5, own; cvta.local.u64 %rd6, %rd5; cvta.to.local.u64 %rd7, %rd6;
        st.local.u32 [%rd7+4], %tid;
        mov.u64 %rd8, thirds; ld.const.u32 %r0, [%rd8+8]; mov.u64 %rd9, one; ld.global.u32 %r1, [%rd9];
        ld.local.u32 %r2, [%rd5+4]; ld.local.u32 %r5, [%rd5];
        add.s32 %r3, %r0, %r1; add.s32 %r4, %r3, %r2; sub.s32 %r4, %r4, %r5;
        st.global.u32 [%at], %r4;";
    let found = words(before, body, 64, 64, Manner::default()).unwrap();
    // What was not written is poison: -1.
    assert_eq!(found, (0..64).map(|i| 259 + 17 + i + 1).collect::<Vec<u32>>());
}

#[test]
fn atomics_give_what_was_before() {
    let body = "
        atom.global.add.u32 %r0, [%rd0], 2; mov.u32 %r1, 1;
        @%p0 bra $end;
        atom.global.max.u32 %r2, [%rd0+4], %tid;
        atom.global.add.f32 %f0, [%rd0+8], 0f3F000000;
        $end: st.global.u32 [%at+64], %r0;";
    let found = words("", body, 32, 48, Manner::default()).unwrap();
    assert_eq!(found[..3], [64, 31, 16f32.to_bits()]);
    let mut before = found[16..].to_vec();
    before.sort_unstable();
    assert_eq!(before, (0..32).map(|i| 2 * i).collect::<Vec<u32>>());
}

/// The start of copies: 16 bytes a thread from `out` to `room`, and the thread's word of shared memory at `%rd7`.
const COPY: &str = "
    mov.u64 %rd6, room; mul.wide.u32 %rd5, %tid, 16; add.s64 %rd7, %rd6, %rd5; add.s64 %rd8, %rd0, %rd5;
    st.global.u32 [%rd8], %tid; cvt.u32.u64 %r0, %rd7; mov.u32 %r1, 16;
    cp.async.cg.shared.global [%r0], [%rd8], 16, %r1; cp.async.commit_group;";

#[test]
fn copies_are_there_when_they_were_waited_for() {
    let read = "bar.sync 0; ld.shared.u32 %r2, [%rd7]; bar.sync 0; st.global.u32 [%rd8+4], %r2;";
    let of = |wait: &str| {
        let found = words(SHARED, &format!("{COPY}{wait}{read}"), 16, 64, Manner::default()).unwrap();
        found.chunks_exact(4).map(|words| words[1]).collect::<Vec<_>>()
    };
    let (there, undefined): (Vec<u32>, _) = ((0..16).collect(), vec![u32::MAX; 16]);
    assert_eq!(of("cp.async.wait_group 0;"), there);
    assert_eq!(of("cp.async.wait_all;"), there);
    assert_eq!(of(""), undefined);
    assert_eq!(of("cp.async.wait_group 1;"), undefined);
    // An empty group is the youngest.
    assert_eq!(of("cp.async.commit_group; cp.async.wait_group 1;"), there);
    // The content is that of the time of the wait.
    assert_eq!(of("mov.u32 %r3, 77; st.global.u32 [%rd8], %r3; cp.async.wait_group 0;"), vec![77; 16]);
}

#[test]
fn copies_of_nothing_are_zeros_and_touch_nothing() {
    let body = "
        mov.u64 %rd6, room; cvt.u32.u64 %r0, %rd6; mov.u64 %rd8, 4096; mov.u32 %r1, 0;
        cp.async.cg.shared.global [%r0], [%rd8], 16, %r1; cp.async.commit_group; cp.async.wait_group 0;
        ld.shared.u32 %r2, [%rd6+12]; st.global.u32 [%at], %r2;";
    assert_eq!(words(SHARED, body, 1, 1, Manner::default()).unwrap(), [0]);
    let wrong = fault(SHARED, &body.replace("%r1, 0", "%r1, 16"), 1);
    assert!(wrong.is_access && wrong.message.contains("are in no allocation"), "{wrong}");
}

#[test]
fn what_is_not_written_is_poison() {
    let body = "ld.shared.u32 %r0, [room+4]; st.global.u32 [%at], %r0; st.global.u32 [%at+4], %r5;";
    assert_eq!(words(SHARED, body, 1, 2, Manner::default()).unwrap(), [u32::MAX, u32::MAX]);
}

#[test]
fn wrong_accesses_are_told_with_their_place() {
    let message = |body: &str| {
        let wrong = fault(SHARED, body, 48);
        assert!(wrong.is_access, "{wrong}");
        wrong.message
    };
    // 64 words are there.
    let past = message("st.global.u32 [%at+72], %tid;");
    assert!(past.contains("kernel k, block (0, 0, 0), thread 46: 4 bytes at"), "{past}");
    assert!(past.contains("PTX line") && past.contains("st.global.u32 [%at+72], %tid"), "{past}");
    let across =
        message("st.global.v4.u32 [%rd0+240], {%tid, %tid, %tid, %tid}; ld.global.v2.u32 {%r0, %r1}, [%rd0+252];");
    assert!(across.contains("is not a multiple of the access's 8 bytes"), "{across}");
    assert!(message("ld.global.u32 %r0, [%rd0+2];").contains("is not a multiple of the access's 4 bytes"));
    assert!(
        message("mov.u64 %rd5, 4096; ld.global.u32 %r0, [%rd5];").contains("4 bytes at 0x1000 are in no allocation")
    );
    assert!(message("ld.shared.u32 %r0, [room+256];").contains("4 bytes at 256 in shared memory of 256 bytes"));
    assert!(message("ld.shared.v2.u32 {%r0, %r1}, [room+4];").contains("is not a multiple of the access's 8 bytes"));
    assert!(message("mov.u64 %rd5, room; ld.const.u32 %r0, [%rd5];").contains("are not constant"));
    let matrix = "mov.u32 %r5, 8; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [%r5];";
    assert!(fault(SHARED, matrix, 32).message.contains("is not a multiple of the access's 16 bytes"));
}

#[test]
fn what_is_not_known_is_told_with_its_line() {
    let text = ".visible .entry k() {\n.reg .b32 %r<2>;\n\ntanh.approx.f32 %r0, %r1;\nret;\n}";
    let module = Module::parse(text).unwrap();
    assert_eq!(module.kernels(), ["k"]);
    let said = |text: &str| match Launch::new(&Module::parse(text).unwrap(), "k") {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it is understood"),
    };
    assert_eq!(said(text), "line 4 of the PTX: the instruction tanh.approx.f32 is not known");
    for (instruction, wanted) in [
        ("add.u32 %r0, %r1, %r7", "%r7 is not known"),
        ("bra $nowhere", "there is no label $nowhere"),
        ("bar.sync 1", "a barrier of another number than 0, or of a part of the block"),
        ("add.u64 %r0, %r1, %r1", "%r1 is not as wide as its type"),
        ("cvt.rz.f32.s32 %r0, %r1", "conversions by rz are not known"),
        ("add.rz.f32 %r0, %r1, %r1", "the instruction add.rz.f32 is not known"),
        ("prefetch.global.L2::evict_last [%r0]", "the instruction prefetch.global.L2::evict_last is not known"),
        ("rcp.approx.f32 %r0, %r1", "the instruction rcp.approx.f32 is not known"),
    ] {
        let found = said(&text.replace("tanh.approx.f32 %r0, %r1", instruction));
        assert_eq!(found, format!("line 4 of the PTX: {wanted}"), "{instruction}");
    }
}
