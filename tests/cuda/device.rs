//! What lies between the CUDA backend and a device: memory, copies, launches, products. On the emulated device, and on
//! a real one where there is one.

use crate::harness::gpu::{CHECKS, allocate, devices, emulated, emulator, launch, required, set_eager};
use crate::harness::operands::Random;
use half::bf16;
use tetrad::backend::cuda::{Args, Form, Gpu, Matrix, Output, Product, Strided};
use tetrad::error::BackendError;
use tetrad::memory::{HostMemory, Place, Span};
use tetrad::store::WorkFile;
use zerocopy::IntoBytes;

fn span(offset: usize, bytes: usize) -> Span {
    Span { place: Place::Arena, offset, bytes }
}

/// Bytes that repeat with a period that divides no power of two.
fn pattern(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|i| (i % 251) as u8 ^ seed).collect()
}

fn downloaded(gpu: &Gpu, from: Span) -> Vec<u8> {
    let mut bytes = vec![0xa5; from.bytes];
    gpu.download(from, &mut bytes);
    bytes
}

/// Both devices with `bytes` bytes of memory.
fn ready(bytes: usize) -> Vec<(String, Gpu)> {
    let mut devices = devices(&[CHECKS]);
    for (name, gpu) in &mut devices {
        allocate(gpu, bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    devices
}

#[test]
fn memory_is_zero_at_first_and_holds_what_was_uploaded() {
    const PIECE: usize = 1 << 20;
    // Around the sizes of the pieces that copies are made in, and more of them than are under way at once.
    let sizes = [1, 3, PIECE - 1, PIECE, PIECE + 1, 4 * PIECE, 4 * PIECE + 3, 9 * PIECE + 7];
    for (name, mut gpu) in ready(12 * PIECE) {
        assert!(downloaded(&gpu, span(0, 12 * PIECE)).iter().all(|&byte| byte == 0), "{name}");
        for (i, size) in sizes.into_iter().enumerate() {
            let (to, wanted) = (span(64 * i, size), pattern(size, i as u8));
            let mut source = wanted.clone();
            gpu.upload(&source, to);
            // An upload may still be under way when it returns, but no longer reads what it was given.
            source.fill(0xee);
            assert!(downloaded(&gpu, to) == wanted, "{name}: {size} bytes");
        }
        gpu.upload(&[], Span::NONE);
        gpu.download(Span::NONE, &mut []);
        gpu.status().unwrap();
    }
}

#[test]
fn copies_and_zeros_reach_their_span_and_nothing_beside_it() {
    for (name, mut gpu) in ready(4096) {
        let whole = span(0, 4096);
        let mut wanted = pattern(4096, 9);
        gpu.upload(&wanted, whole);
        gpu.copy(span(64, 1001), span(2048, 1001));
        wanted.copy_within(64..64 + 1001, 2048);
        gpu.zero(span(100, 17));
        wanted[100..117].fill(0);
        gpu.zero(Span::NONE);
        gpu.copy(Span::NONE, Span::NONE);
        assert_eq!(downloaded(&gpu, whole), wanted, "{name}");
        // The backend's own words lie in what it was given for itself.
        assert!(gpu.words().offset >= 4096 && downloaded(&gpu, gpu.words()).iter().all(|&byte| byte == 0), "{name}");
        gpu.status().unwrap();
    }
}

#[test]
fn a_kernel_gets_its_arguments_in_order_and_runs_on_every_block() {
    for (name, mut gpu) in ready(1 << 16) {
        let count = 1000;
        let x: Vec<f32> = (0..count).map(|i| i as f32).collect();
        let (from, to) = (span(0, count * 4), span(8192, count * 4));
        gpu.upload(x.as_bytes(), from);
        let args = Args::new().span(&gpu, from).span(&gpu, to).u32(count as u32 - 1).f32(-0.5);
        launch(&mut gpu, "check_scale", [8, 1, 1], 128, 0, &args);
        let mut y = vec![1f32; count];
        gpu.download(to, y.as_mut_bytes());
        let mut wanted: Vec<f32> = x.iter().map(|x| x * -0.5).collect();
        wanted[count - 1] = 0.0;
        assert_eq!(y, wanted, "{name}");
        gpu.status().unwrap();
    }
}

#[test]
fn a_kernel_may_have_all_shared_memory_of_a_block() {
    for (name, mut gpu) in ready(1 << 16) {
        // check_copies stages 2 * 128 vectors of 16 bytes and has no static array; the rest is only asked for.
        let shared = gpu.shared_bytes() as usize;
        assert!(shared > 48 << 10, "{name}");
        let x = pattern(256 * 16, 3);
        gpu.upload(&x, span(0, x.len()));
        let (from, to, thirds) = (span(0, 4096), span(8192, 4096), span(16384, 64));
        let args = Args::new().span(&gpu, from).span(&gpu, to).u32(256).span(&gpu, thirds);
        launch(&mut gpu, "check_copies", [1, 1, 1], 128, shared, &args);
        assert_eq!(downloaded(&gpu, to), x, "{name}");
        gpu.status().unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn a_device_may_go_from_thread_to_thread() {
    for (name, mut gpu) in ready(1 << 16) {
        gpu.upload(&pattern(100, 1), span(0, 100));
        let gpu = std::thread::spawn(move || {
            gpu.copy(span(0, 100), span(200, 100));
            gpu.status().unwrap();
            gpu
        });
        let gpu = gpu.join().unwrap();
        assert_eq!(downloaded(&gpu, span(200, 100)), pattern(100, 1), "{name}");
    }
}

#[test]
fn time_on_the_device_is_measured() {
    for (name, mut gpu) in ready(1 << 24) {
        let seconds = gpu.time(|gpu| gpu.zero(span(0, 1 << 24))).unwrap();
        assert!(seconds > 0.0 && seconds < 60.0, "{name}: {seconds}");
    }
}

#[test]
fn a_new_allocation_takes_the_place_of_the_old_one() {
    for (name, mut gpu) in ready(1 << 16) {
        gpu.upload(&[7; 256], span(0, 256));
        gpu.allocate(Gpu::OWN_BYTES + (1 << 17), span(64, Gpu::OWN_BYTES + 128)).unwrap();
        assert_eq!((gpu.allocations(), gpu.workspace()), (2, span(64 + Gpu::OWN_BYTES, 128)), "{name}");
        assert_eq!(downloaded(&gpu, span(0, 256)), [0; 256], "{name}");
    }
}

/// Matrices of small integers: every product and every sum is exact in float32, so the result does not depend on the
/// order of a sum, and bf16 results are roundings of exact sums.
fn integers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104729) % 17) as f32 - 8.0).collect()
}

/// A row-major matrix with `pitch` elements from row to row; what lies between is 99.
fn pitched(values: &[f32], columns: usize, pitch: usize) -> Vec<f32> {
    let mut all = vec![99.0; values.len() / columns * pitch];
    for (row, values) in all.chunks_mut(pitch).zip(values.chunks(columns)) {
        row[..columns].copy_from_slice(values);
    }
    all
}

fn to_bf16(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()
}

struct Case {
    form: Form,
    m: usize,
    n: usize,
    k: usize,
    output: Output,
    accumulate: bool,
    /// Elements that each row is longer than it need be.
    gap: usize,
}

/// Runs a product; everything in the output's buffer, gaps included, must be what a plain loop gives.
fn check_product(name: &str, gpu: &mut Gpu, case: &Case) {
    let &Case { form, m, n, k, output, accumulate, gap } = case;
    let ((a_rows, a_columns), (b_rows, b_columns)) = match form {
        Form::Nt => ((m, k), (n, k)),
        Form::Nn => ((m, k), (k, n)),
        Form::Tn => ((k, m), (k, n)),
    };
    let (a, b, old) = (integers(m * k, 1), integers(k * n, 2), integers(m * n, 3));
    let mut wanted = vec![0f32; m * n];
    for i in 0..m {
        for j in 0..n {
            let left = |l: usize| if form == Form::Tn { a[l * m + i] } else { a[i * k + l] };
            let right = |l: usize| if form == Form::Nt { b[j * k + l] } else { b[l * n + j] };
            let sum: f32 = (0..k).map(|l| left(l) * right(l)).sum();
            wanted[i * n + j] = if accumulate { sum + old[i * n + j] } else { sum };
        }
    }
    let bytes = |values: &[f32]| match output {
        Output::Bf16 => to_bf16(values),
        Output::F32 => values.as_bytes().to_vec(),
    };
    let a = to_bf16(&pitched(&a, a_columns, a_columns + gap));
    let b = to_bf16(&pitched(&b, b_columns, b_columns + gap));
    let (old, wanted) = (bytes(&pitched(&old, n, n + gap)), bytes(&pitched(&wanted, n, n + gap)));
    let at_a = span(0, a.len());
    let at_b = span(at_a.bytes.next_multiple_of(64), b.len());
    let at_out = span((at_b.offset + at_b.bytes).next_multiple_of(64), old.len());
    assert_eq!((a_rows * (a_columns + gap) * 2, b_rows * (b_columns + gap) * 2), (a.len(), b.len()));
    for (bytes, span) in [(&a, at_a), (&b, at_b), (&old, at_out)] {
        gpu.upload(bytes, span);
    }
    let matrix = |span, columns| Matrix { span, pitch: columns + gap };
    let (a, b, out) = (matrix(at_a, a_columns), matrix(at_b, b_columns), matrix(at_out, n));
    gpu.multiply(&Product {
        form,
        m,
        n,
        k,
        a,
        b,
        out,
        output,
        addend: accumulate.then_some(out),
        strided: Strided::ONE,
    });
    let found = downloaded(gpu, at_out);
    gpu.status().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(found == wanted, "{name}: {form:?} m {m} n {n} k {k} {output:?} accumulate {accumulate} gap {gap}");
}

#[test]
fn products_in_all_forms_equal_a_plain_loop_to_the_last_bit() {
    // One, odd sizes, sizes around tiles of 16, 64 and 128, and sums so long that bf16 could not hold them.
    let sizes = [(1, 1, 1), (5, 7, 3), (1, 129, 64), (33, 17, 127), (128, 64, 256), (65, 130, 1000)];
    for (name, mut gpu) in ready(4 << 20) {
        for form in [Form::Nt, Form::Nn, Form::Tn] {
            for (m, n, k) in sizes {
                for output in [Output::Bf16, Output::F32] {
                    for accumulate in [false, true] {
                        for gap in [0, 3, 8] {
                            check_product(&name, &mut gpu, &Case { form, m, n, k, output, accumulate, gap });
                        }
                    }
                }
            }
        }
    }
}

/// Three products at equal distances, added to matrices that stay: the right operand shared or one for each.
fn check_strided(name: &str, gpu: &mut Gpu, form: Form, output: Output, shared: bool) {
    let (m, n, k, count) = (33usize, 17usize, 24usize, 3usize);
    let (a_columns, b_columns) = (if form == Form::Tn { m } else { k }, if form == Form::Nt { k } else { n });
    // Distances longer than a matrix.
    let strides = [m * k + 8, if shared { 0 } else { k * n + 16 }, m * n + 40];
    let size = |stride: usize, one: usize| (count - 1) * stride + one;
    let a = integers(size(strides[0], m * k), 1);
    let b = integers(size(strides[1], k * n), 2);
    let [addend, before] = [3, 4].map(|seed| integers(size(strides[2], m * n), seed));
    let mut wanted = before.clone();
    for product in 0..count {
        let [a, b] = [&a[product * strides[0]..], &b[product * strides[1]..]];
        for at in 0..m * n {
            let (i, j) = (at / n, at % n);
            let left = |l: usize| if form == Form::Tn { a[l * m + i] } else { a[i * k + l] };
            let right = |l: usize| if form == Form::Nt { b[j * k + l] } else { b[l * n + j] };
            let sum: f32 = (0..k).map(|l| left(l) * right(l)).sum();
            wanted[product * strides[2] + at] = sum + addend[product * strides[2] + at];
        }
    }
    let bytes = |values: &[f32]| match output {
        Output::Bf16 => to_bf16(values),
        Output::F32 => values.as_bytes().to_vec(),
    };
    let operands = [to_bf16(&a), to_bf16(&b), bytes(&before), bytes(&addend)];
    let mut end = 0;
    let spans = operands.each_ref().map(|bytes| {
        let at = span(end, bytes.len());
        end = (end + bytes.len()).next_multiple_of(64);
        gpu.upload(bytes, at);
        at
    });
    let matrix = |i: usize, pitch| Matrix { span: spans[i], pitch };
    let (a, b, out, addend) = (matrix(0, a_columns), matrix(1, b_columns), matrix(2, n), Some(matrix(3, n)));
    gpu.multiply(&Product { form, m, n, k, a, b, out, output, addend, strided: Strided { count, strides } });
    let found = [spans[2], spans[3]].map(|span| downloaded(gpu, span));
    gpu.status().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(found[0] == bytes(&wanted), "{name}: {form:?} {output:?}, shared {shared}");
    assert!(found[1] == operands[3], "{name}: what is added to stays, {form:?} {output:?}");
}

#[test]
fn products_at_equal_distances_are_added_to_matrices_that_stay() {
    for (name, mut gpu) in ready(1 << 20) {
        for form in [Form::Nt, Form::Nn, Form::Tn] {
            for output in [Output::Bf16, Output::F32] {
                for shared in [false, true] {
                    check_strided(&name, &mut gpu, form, output, shared);
                }
            }
        }
    }
}

#[test]
fn a_plan_is_found_again_by_its_shape_and_store() {
    for (name, mut gpu) in ready(1 << 20) {
        for _ in 0..2 {
            for (m, accumulate) in [(8, false), (8, true), (16, false)] {
                let case = Case { form: Form::Nt, m, n: 8, k: 8, output: Output::F32, accumulate, gap: 0 };
                check_product(&name, &mut gpu, &case);
            }
        }
    }
}

/// On the emulated device only: a real one does not tell.
#[test]
fn a_kernel_is_loaded_once_before_its_first_launch() {
    if required() {
        return eprintln!("SKIPPED: on the emulated device only");
    }
    let mut gpu = Gpu::open_with(0, &emulated(), &[CHECKS]).unwrap();
    allocate(&mut gpu, 1 << 16).unwrap();
    let before = emulator().loaded();
    for _ in 0..3 {
        let args = Args::new().span(&gpu, span(0, 64)).span(&gpu, span(64, 64)).u32(16).f32(1.0);
        launch(&mut gpu, "check_scale", [1, 1, 1], 32, 0, &args);
    }
    gpu.status().unwrap();
    assert_eq!(emulator().loaded() - before, 1);
}

/// Regions of host memory go through two slots of the device, are changed there and go back, in any order, beside a model
/// that does one thing after the other. Regions overlap, and so do the slots of neighbours. The host's memory is pinned, or a
/// file's, which a thread reads.
#[test]
fn copies_in_both_directions_change_and_read_what_they_would_one_by_one() {
    const BYTES: usize = 1000;
    let regions = [0usize, 600, 2000, 3100].map(|offset| Span { place: Place::Host, offset, bytes: BYTES });
    // Each region has its slot; the last two slots have bytes in common.
    let slots = [0usize, 1024, 2048, 2548].map(|offset| span(offset, BYTES));
    let folder = tempfile::tempdir().unwrap();
    for (seed, eager) in (1..=20).flat_map(|seed| [(seed, false), (seed, true)]) {
        set_eager(eager);
        let mut random = Random(seed);
        for (name, mut gpu) in ready(1 << 14) {
            let file = || HostMemory::File(Box::new(WorkFile::create(folder.path(), 8192).unwrap()));
            gpu.attach(if seed % 2 == 0 { HostMemory::Bytes(8192) } else { file() }).unwrap();
            let (mut host, mut held) = (pattern(8192, seed as u8), None);
            gpu.upload(&host, Span { place: Place::Host, offset: 0, bytes: 8192 });
            for _ in 0..40 {
                let i = random.below(4);
                let (region, slot) = (regions[i], slots[i]);
                // What a slot holds is no longer the region's after a neighbour wrote there; only a whole turn is a promise.
                if held != Some(i) {
                    let none = Span { place: Place::Host, offset: 7000, bytes: BYTES };
                    gpu.prefetch(none, slot);
                }
                gpu.wait(region, slot);
                held = Some(i);
                if random.below(2) == 0 {
                    let (at, count) = (random.below(500), 1 + random.below(500));
                    gpu.zero(span(slot.offset + at, count));
                    gpu.write_back(slot, region, true);
                    host[region.offset + at..][..count].fill(0);
                    if random.below(2) == 0 {
                        // Of the next turn already, while the copy may be under way.
                        gpu.prefetch(Span { place: Place::Host, offset: 7000, bytes: BYTES }, slot);
                        held = None;
                    }
                }
            }
            let mut found = vec![0; 8192];
            gpu.download(Span { place: Place::Host, offset: 0, bytes: 8192 }, &mut found);
            gpu.status().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(found == host, "{name}, seed {seed}, eager {eager}");
        }
    }
    set_eager(false);
}

/// On the emulated device only: a real one would be lost to the tests after this one.
#[test]
fn the_first_failure_stays_and_nothing_is_done_after_it() {
    if required() {
        return eprintln!("SKIPPED: on the emulated device only");
    }
    let mut gpu = Gpu::open_with(0, &emulated(), &[CHECKS]).unwrap();
    allocate(&mut gpu, 1 << 16).unwrap();
    gpu.upload(&[1; 64], span(0, 64));
    gpu.status().unwrap();
    // Address 16 belongs to nobody.
    let args = Args::new().span(&gpu, span(0, 64)).address(16).u32(16).f32(1.0);
    launch(&mut gpu, "check_scale", [1, 1, 1], 32, 0, &args);
    let mut bytes = [9; 64];
    gpu.download(span(0, 64), &mut bytes);
    assert_eq!(bytes, [0; 64], "downloads give zeros after a failure");
    let error = gpu.status().unwrap_err();
    let BackendError::Failed { device, what, code } = &error else { panic!("{error}") };
    assert_eq!(device, "Emulated GPU");
    assert!(what.starts_with("download (after check_scale; "), "{what}");
    assert_eq!(code, "CUDA_ERROR_ILLEGAL_ADDRESS (700): an illegal memory access was encountered");

    let wrong = Matrix { span: span(0, 64), pitch: 4 };
    let (form, output) = (Form::Nt, Output::F32);
    gpu.multiply(&Product {
        form,
        m: 1,
        n: 1,
        k: 1,
        a: wrong,
        b: wrong,
        out: wrong,
        output,
        addend: None,
        strided: Strided::ONE,
    });
    launch(&mut gpu, "check_scale", [1, 1, 1], 32, 0, &args);
    gpu.zero(span(0, 64));
    assert_eq!(gpu.status().unwrap_err(), error);
    assert_eq!(gpu.time(|_| ()).unwrap_err(), error);
}

#[test]
fn a_launch_that_the_device_refuses_names_the_kernel() {
    for (name, mut gpu) in ready(1 << 16) {
        let args = Args::new().span(&gpu, span(0, 64)).span(&gpu, span(64, 64)).u32(0).f32(1.0);
        launch(&mut gpu, "check_scale", [1, 1, 1], 2048, 0, &args);
        let said = gpu.status().unwrap_err().to_string();
        let start = format!("{name}: check_scale (after ");
        assert!(said.starts_with(&start) && said.contains("CUDA_ERROR_INVALID_VALUE (1)"), "{said}");
    }
}

/// What a device with some memory says to a programmer's error.
fn panics(work: impl FnOnce(&mut Gpu) + std::panic::UnwindSafe) -> String {
    let payload = std::panic::catch_unwind(|| {
        let (_, mut gpu) = devices(&[CHECKS]).swap_remove(0);
        allocate(&mut gpu, 4096).unwrap();
        work(&mut gpu);
    });
    let payload = payload.expect_err("a panic");
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| payload.downcast_ref::<&str>().unwrap().to_string())
}

#[test]
fn programmers_errors_panic() {
    let mapped = Span { place: Place::Mapped, offset: 0, bytes: 4 };
    assert!(panics(|gpu| gpu.zero(mapped)).contains("only the arena's spans have addresses"));
    assert!(panics(|gpu| gpu.zero(span(1 << 40, 1))).contains("outside an arena"));
    assert!(panics(|gpu| gpu.copy(span(0, 4), span(8, 5))).contains("different lengths"));
    assert!(panics(|gpu| gpu.upload(&[0; 4], span(0, 5))).contains("another length"));
    assert!(panics(|gpu| launch(gpu, "no_such", [1; 3], 32, 0, &Args::new())).contains("no kernel named no_such"));
    assert!(panics(|gpu| launch(gpu, "check_scale", [0, 1, 1], 32, 0, &Args::new())).contains("an empty launch"));
    let short = |gpu: &mut Gpu| {
        let x = Matrix { span: span(0, 64), pitch: 3 };
        let (form, output) = (Form::Nt, Output::F32);
        gpu.multiply(&Product {
            form,
            m: 1,
            n: 1,
            k: 4,
            a: x,
            b: x,
            out: x,
            output,
            addend: None,
            strided: Strided::ONE,
        });
    };
    assert!(panics(short).contains("a pitch of 3 for rows of 4"));
    let long = |gpu: &mut Gpu| {
        let x = Matrix { span: span(0, 64), pitch: 8 };
        let (form, output) = (Form::Nt, Output::F32);
        gpu.multiply(&Product {
            form,
            m: 5,
            n: 1,
            k: 8,
            a: x,
            b: x,
            out: x,
            output,
            addend: None,
            strided: Strided::ONE,
        });
    };
    assert!(panics(long).contains("5 rows in Span"));
    assert!(panics(|gpu| gpu.allocate(4096, span(0, Gpu::OWN_BYTES)).unwrap()).contains("outside an arena"));
    let host = |bytes| Span { place: Place::Host, offset: 0, bytes };
    assert!(panics(|gpu| gpu.prefetch(host(8), span(0, 4))).contains("a copy of another length"));
    assert!(panics(|gpu| gpu.write_back(span(0, 4), span(8, 4), true)).contains("is not in host memory"));
    let beyond = |gpu: &mut Gpu| {
        gpu.attach(HostMemory::Bytes(64)).unwrap();
        gpu.prefetch(host(65), span(0, 65));
    };
    assert!(panics(beyond).contains("outside host memory of 64 bytes"));
}
