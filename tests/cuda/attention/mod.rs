//! Attention and its gradient on the emulated device, under four orders of its threads, and on a real one if there is
//! one. Memory that an operation does not own holds no numbers, neither do padding and keys that nobody may see.

mod expected;

use self::expected::{Expected, Problem};
use crate::harness::gpu::{open_all, set_order};
use crate::harness::interpreted;
use half::bf16;
use tetrad::backend::cuda::{Cuda, Gpu, Info};
use tetrad::backend::ops::reference;
use tetrad::backend::prelude::*;
use tetrad::backend::{AttentionArgs, AttentionGradArgs, AttentionShape, Compute, MaxShapes, Rotation};
use tetrad::memory::{Place, Span};
use zerocopy::IntoBytes;

/// Rows of activations start at multiples of this many elements.
const ROW_MULTIPLE: usize = 8;
const ALIGN: usize = 256;

/// Which keys before its own position a query sees.
#[derive(Clone, Copy, Debug)]
enum Visible {
    /// All; the operation is not told anything.
    All,
    /// Those of its document.
    Documents,
    /// The last few.
    Window(usize),
}

/// Which version of the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Out {
    /// Given the output.
    Given,
    /// Given the output, in two passes even where one is possible.
    Twice,
    /// Without it.
    Formed,
}

fn training(batch: usize, queries: usize, heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    AttentionShape { batch, queries, start: 0, capacity: queries, heads, kv_heads, head_dim }
}

fn sampling(
    queries: usize,
    start: usize,
    capacity: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
) -> AttentionShape {
    AttentionShape { batch: 2, queries, start, capacity, heads, kv_heads, head_dim }
}

/// Repeatable numbers between -`most` and `most`, a bfloat16 each.
fn numbers(seed: u64, count: usize, most: f64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    (0..count).map(|_| bf16::from_f64(next() * most).to_f64()).collect()
}

impl Problem {
    fn new(shape: AttentionShape, visible: Visible, magnitude: f64) -> Self {
        let AttentionShape { batch, queries, start, capacity, heads, kv_heads, head_dim } = shape;
        let (wide, narrow) = (batch * queries * heads * head_dim, batch * capacity * kv_heads * head_dim);
        let first = (0..batch * queries).map(|i| {
            let (sequence, position) = (i / queries, start + i % queries);
            match visible {
                Visible::All => 0,
                // Documents of growing lengths, cut at other places in each sequence.
                Visible::Documents => {
                    let cuts = (0..).map(|cut| cut * (cut + 5 + sequence)).take_while(|&at| at <= position);
                    cuts.last().expect("a document that begins at zero") as u32
                }
                Visible::Window(keys) => (position + 1).saturating_sub(keys) as u32,
            }
        });
        Self {
            shape,
            q: numbers(1, wide, magnitude),
            k: numbers(2, narrow, 1.0),
            v: numbers(3, narrow, 1.0),
            dout: numbers(4, wide, 1.0),
            first: first.collect(),
        }
    }
}

/// Devices by their names.
struct Devices(Vec<(String, Cuda)>);

impl Devices {
    fn open() -> Self {
        Self(open_all())
    }
}

/// Spans one after another.
#[derive(Default)]
struct Layout {
    used: usize,
    contents: Vec<(Span, Vec<u8>)>,
}

impl Layout {
    fn add(&mut self, bytes: Vec<u8>) -> Span {
        let span = Span { place: Place::Arena, offset: self.used, bytes: bytes.len() };
        self.used += bytes.len().next_multiple_of(ALIGN);
        self.contents.push((span, bytes));
        span
    }

    /// Bytes that are no number in any type.
    fn room(&mut self, bytes: usize) -> Span {
        self.add(vec![0xff; bytes])
    }

    /// Rows of bfloat16, padded with what is not a number.
    fn rows(&mut self, values: &[f64], width: usize) -> Span {
        let mut rows = vec![0xffffu16; values.len() / width * pitch(width)];
        for (row, values) in rows.chunks_exact_mut(pitch(width)).zip(values.chunks_exact(width)) {
            row.iter_mut().zip(values).for_each(|(to, &x)| *to = bf16::from_f64(x).to_bits());
        }
        self.add(rows.as_bytes().to_vec())
    }
}

fn pitch(width: usize) -> usize {
    width.next_multiple_of(ROW_MULTIPLE)
}

fn download(cuda: &Cuda, span: Span) -> Vec<u8> {
    let mut bytes = vec![0; span.bytes];
    cuda.download(span, &mut bytes);
    cuda.status().unwrap_or_else(|error| panic!("{error}"));
    bytes
}

/// The numbers of padded rows, whose padding was not touched.
fn numbers_of_rows(bytes: &[u8], width: usize) -> Vec<f64> {
    let bits: Vec<u16> = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
    let rows = bits.chunks_exact(pitch(width));
    assert!(rows.clone().all(|row| row[width..].iter().all(|&bits| bits == 0xffff)), "padding was written");
    rows.flat_map(|row| row[..width].iter().map(|&bits| bf16::from_bits(bits).to_f64())).collect()
}

fn floats(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
}

/// Operands and results on a device.
struct Spans {
    q: Span,
    k: Span,
    v: Span,
    dout: Span,
    first: Option<Span>,
    /// Cosines and sines for all positions.
    table: Span,
    out: Span,
    lse: Span,
    dq: Span,
    dk: Span,
    dv: Span,
}

impl Spans {
    /// Puts the operands on the device, and no numbers where results and scratch are.
    fn new(cuda: &mut Cuda, problem: &Problem, visible: Visible) -> Self {
        let AttentionShape { batch, queries, heads, kv_heads, head_dim, .. } = problem.shape;
        let (wide, narrow) = (heads * head_dim, kv_heads * head_dim);
        let mut layout = Layout::default();
        let q = layout.rows(&problem.q, wide);
        let [k, v] = [&problem.k, &problem.v].map(|x| layout.rows(x, narrow));
        let dout = layout.rows(&problem.dout, wide);
        let first = match visible {
            Visible::All => None,
            _ => Some(layout.add(problem.first.as_bytes().to_vec())),
        };
        let angle = |i: usize| if i.is_multiple_of(2) { (i as f32).cos() } else { (i as f32 - 1.0).sin() };
        let table: Vec<f32> = (0..queries * head_dim).map(angle).collect();
        let table = layout.add(table.as_bytes().to_vec());
        let [out, dq, dk, dv] = [q, q, k, v].map(|like| layout.room(like.bytes));
        let lse = layout.room(4 * batch * heads * queries);
        let largest = MaxShapes {
            tokens: batch * queries,
            features: wide,
            inputs: wide,
            keys: problem.shape.capacity,
            parameter: 1,
            head_dim,
            prefix: 0,
            compute: Compute::F32,
        };
        let bytes = Info.workspace_bytes(&largest);
        let workspace = Span { place: Place::Arena, offset: layout.used, bytes };
        cuda.allocate(layout.used + bytes, None, workspace).expect("memory");
        // What an earlier operation may have left.
        let scratch = workspace.part(Gpu::OWN_BYTES, bytes - Gpu::OWN_BYTES);
        cuda.upload(&vec![0xff; scratch.bytes], scratch);
        for (span, bytes) in &layout.contents {
            cuda.upload(bytes, *span);
        }
        Self { q, k, v, dout, first, table, out, lse, dq, dk, dv }
    }

    fn attention(&self, cuda: &mut Cuda, shape: AttentionShape) {
        let Self { q, k, v, out, lse, first: segment_start, .. } = *self;
        cuda.attention(&AttentionArgs { q, k, v, out, lse, segment_start, shape });
    }

    fn gradient(&self, cuda: &mut Cuda, shape: AttentionShape, out: Out, rotated_by: Option<Span>) {
        let twice = out == Out::Twice;
        let (out, delta) = ((out != Out::Formed).then_some(self.out), None);
        let Self { q, k, v, dout, first: segment_start, lse, dq, dk, dv, .. } = *self;
        let args = AttentionGradArgs { q, k, v, out, lse, dout, dq, dk, dv, delta, rotated_by, segment_start, shape };
        if twice { cuda.attention_grad_in_two_passes(&args) } else { cuda.attention_grad(&args) }
    }

    fn gradients(&self, cuda: &Cuda) -> [Vec<u8>; 3] {
        [self.dq, self.dk, self.dv].map(|span| download(cuda, span))
    }
}

fn check(found: &[f64], expected: &Expected, what: &str) {
    assert_eq!(found.len(), expected.value.len(), "{what}: length");
    for (i, &x) in found.iter().enumerate() {
        let (y, allowed) = (expected.value[i], expected.allowed[i]);
        assert!((x - y).abs() <= allowed, "{what}[{i}]: {x} where {y} is expected, give or take {allowed}");
    }
}

/// Runs a problem on every device in every order: results are near what is expected and the same bits in any order.
fn run(Devices(devices): &mut Devices, shape: AttentionShape, visible: Visible, magnitude: f64, gradients: &[Out]) {
    let problem = Problem::new(shape, visible, magnitude);
    let mut unseen = Problem::new(shape, visible, magnitude);
    let (wide, narrow) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    for cache in [&mut unseen.k, &mut unseen.v] {
        for rows in cache.chunks_mut(shape.capacity * narrow) {
            rows[(shape.start + shape.queries) * narrow..].fill(f64::NAN);
        }
    }
    let forward = problem.attention();
    let backward: Vec<_> = gradients.iter().map(|&out| problem.gradient(out != Out::Formed)).collect();
    for (name, cuda) in devices {
        let mut seen: Option<Vec<Vec<u8>>> = None;
        for order in 0..4 {
            set_order(order);
            let what = format!("{name}, order {order}, {shape:?} {visible:?} {magnitude}");
            let spans = Spans::new(cuda, &unseen, visible);
            spans.attention(cuda, shape);
            let mut results = vec![download(cuda, spans.out), download(cuda, spans.lse)];
            check(&numbers_of_rows(&results[0], wide), &forward[0], &format!("out of {what}"));
            check(&floats(&results[1]), &forward[1], &format!("lse of {what}"));
            for (&out, [dq, dk, dv]) in gradients.iter().zip(&backward) {
                spans.gradient(cuda, shape, out, None);
                let found = spans.gradients(cuda);
                check(&numbers_of_rows(&found[0], wide), dq, &format!("dq, {out:?}, of {what}"));
                check(&numbers_of_rows(&found[1], narrow), dk, &format!("dk, {out:?}, of {what}"));
                check(&numbers_of_rows(&found[2], narrow), dv, &format!("dv, {out:?}, of {what}"));
                results.extend(found);
            }
            let first = seen.get_or_insert_with(|| results.clone());
            assert!(*first == results, "other bits in another order: {what}");
        }
    }
}

const BOTH: [Out; 2] = [Out::Given, Out::Formed];

#[test]
fn the_expectation_is_the_reference() {
    let problem = Problem::new(sampling(5, 3, 9, 4, 2, 6), Visible::All, 1.0);
    let [out, lse] = problem.attention();
    let (wanted_out, wanted_lse) = reference::attention(&problem.q, &problem.k, &problem.v, None, problem.shape);
    let near = |x: &[f64], y: &[f64]| x.len() == y.len() && x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-12);
    assert!(near(&out.value, &wanted_out) && near(&lse.value, &wanted_lse));
    let problem = Problem::new(training(2, 7, 4, 2, 6), Visible::All, 1.0);
    let wanted = reference::attention_grad(&problem.q, &problem.k, &problem.v, &problem.dout, None, problem.shape);
    let found = problem.gradient(true);
    assert!(found.iter().zip(&wanted).all(|(found, wanted)| near(&found.value, wanted)));
}

#[test]
fn sequences_around_the_sizes_of_tiles() {
    let mut devices = Devices::open();
    for (i, queries) in [1, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 200].into_iter().enumerate() {
        let head_dim = [64, 128, 32, 96][i % 4];
        run(&mut devices, training(1, queries, 1, 1, head_dim), Visible::All, 1.0, &BOTH);
    }
}

#[test]
fn sequences_of_many_tiles() {
    let mut devices = Devices::open();
    let all = [(1, 261, 1, 1, 64), (1, 513, 2, 1, 64), (1, 600, 1, 1, 128), (2, 390, 2, 2, 32), (1, 450, 1, 1, 96)];
    // Long ones where they take less time than on the emulator.
    let count = if interpreted::wanted() { all.len() } else { 1 };
    for (batch, queries, heads, kv_heads, head_dim) in all.into_iter().take(count) {
        for visible in [Visible::All, Visible::Documents, Visible::Window(256)] {
            run(&mut devices, training(batch, queries, heads, kv_heads, head_dim), visible, 1.0, &BOTH);
        }
    }
}

#[test]
fn heads_of_all_widths() {
    let mut devices = Devices::open();
    for head_dim in [2, 6, 8, 16, 24, 32, 40, 64, 72, 80, 96, 100, 104, 128] {
        run(&mut devices, training(1, 35, 2, 1, head_dim), Visible::All, 1.0, &[Out::Given, Out::Twice, Out::Formed]);
    }
}

#[test]
fn batches_and_heads_that_share_keys() {
    let mut devices = Devices::open();
    for (batch, queries, heads, kv_heads, head_dim) in [
        (3, 33, 2, 2, 64),
        (2, 65, 3, 1, 32),
        (2, 40, 8, 1, 64),
        (1, 130, 4, 2, 128),
        (3, 5, 6, 3, 32),
        (2, 70, 3, 3, 6),
    ] {
        run(&mut devices, training(batch, queries, heads, kv_heads, head_dim), Visible::All, 1.0, &BOTH);
    }
}

/// Their gradient takes one pass: all that 1 to 8 warps take, with heads that are narrower than their tiles or share keys, and
/// documents that end within tiles or leave some of them unseen.
#[test]
fn sequences_that_one_block_takes_whole() {
    let mut devices = Devices::open();
    let all = [
        (1, 96, 4, 2, 64, Visible::Window(40)),
        (2, 161, 2, 1, 32, Visible::Documents),
        (1, 193, 2, 2, 24, Visible::Window(33)),
        (1, 224, 1, 1, 64, Visible::All),
        (1, 255, 1, 1, 64, Visible::Documents),
        (1, 256, 2, 1, 64, Visible::Window(32)),
        (2, 256, 3, 1, 32, Visible::All),
    ];
    for (batch, queries, heads, kv_heads, head_dim, visible) in all {
        run(&mut devices, training(batch, queries, heads, kv_heads, head_dim), visible, 1.0, &[Out::Given, Out::Twice]);
    }
}

/// In one pass and by kernels of their own after two passes.
#[test]
fn gradients_that_are_rotated_back_are_what_rope_makes_of_them() {
    let mut devices = Devices::open();
    for (batch, queries, heads, kv_heads, head_dim, visible) in [
        (2, 70, 4, 2, 64, Visible::All),
        (1, 129, 2, 2, 32, Visible::Documents),
        (1, 40, 2, 1, 48, Visible::All),
        (2, 20, 2, 1, 128, Visible::Documents),
        (1, 9, 2, 2, 6, Visible::All),
    ] {
        let shape = training(batch, queries, heads, kv_heads, head_dim);
        let problem = Problem::new(shape, visible, 1.0);
        for (name, cuda) in &mut devices.0 {
            set_order(1);
            let spans = Spans::new(cuda, &problem, visible);
            spans.attention(cuda, shape);
            spans.gradient(cuda, shape, Out::Given, None);
            for (x, heads) in [(spans.dq, heads), (spans.dk, kv_heads)] {
                let rotation = Rotation { heads, head_dim, queries, start: 0, inverse: true };
                cuda.rope(x, spans.table, rotation, None);
            }
            let wanted = spans.gradients(cuda);
            [spans.dq, spans.dk, spans.dv].iter().for_each(|&span| cuda.upload(&vec![0xff; span.bytes], span));
            spans.gradient(cuda, shape, Out::Given, Some(spans.table));
            assert!(spans.gradients(cuda) == wanted, "{name}: other bits than rope's, {shape:?}");
        }
    }
}

#[test]
fn documents_and_windows_do_not_see_what_is_before_them() {
    let mut devices = Devices::open();
    // Windows that begin at the first, second and last key of tiles of 16 to 64.
    let windows = [1, 2, 20, 63, 95].map(Visible::Window);
    for (batch, queries, head_dim) in [(2, 9, 64), (1, 200, 64), (2, 150, 32), (1, 200, 128), (2, 70, 6)] {
        for visible in windows.into_iter().chain([Visible::Documents]) {
            run(&mut devices, training(batch, queries, 2, 1, head_dim), visible, 1.0, &BOTH);
        }
    }
}

#[test]
fn scores_that_leave_little_but_the_largest() {
    let mut devices = Devices::open();
    for (queries, head_dim) in [(16, 64), (100, 128), (90, 32)] {
        run(&mut devices, training(1, queries, 2, 2, head_dim), Visible::All, 30.0, &BOTH);
    }
}

#[test]
fn few_queries_and_a_cache_that_is_partly_filled() {
    let mut devices = Devices::open();
    for (queries, start, capacity) in [(1, 0, 9), (1, 63, 64), (1, 64, 70), (3, 5, 64), (16, 200, 300), (17, 300, 400)]
    {
        for (heads, kv_heads, head_dim) in [(4, 2, 64), (8, 1, 128), (3, 3, 32), (2, 1, 6), (2, 1, 80)] {
            run(&mut devices, sampling(queries, start, capacity, heads, kv_heads, head_dim), Visible::All, 1.0, &[]);
        }
    }
}

#[test]
fn keys_that_many_blocks_share() {
    let mut devices = Devices::open();
    let windows = [(1, 300), (9, 7), (9, 10), (9, 32)].map(|(queries, keys)| (queries, Visible::Window(keys)));
    for (queries, visible) in [(1, Visible::All), (5, Visible::All)].into_iter().chain(windows) {
        run(&mut devices, sampling(queries, 1000, 1100, 4, 2, 64), visible, 1.0, &[]);
        // The emulator would take a minute for the other widths.
        for head_dim in [32, 96, 128, 80].into_iter().filter(|_| interpreted::wanted()) {
            run(&mut devices, sampling(queries, 1000, 1100, 2, 1, head_dim), visible, 1.0, &[]);
        }
    }
    run(&mut devices, sampling(2, 1500, 1600, 2, 1, 10), Visible::All, 30.0, &[]);
}

#[test]
fn what_is_not_a_number_in_a_query_reaches_its_output_alone() {
    let mut devices = Devices::open();
    for queries in [10, 50] {
        let shape = training(1, queries, 1, 1, 8);
        let mut problem = Problem::new(shape, Visible::All, 1.0);
        problem.q[3 * 8] = f64::NAN;
        for (name, cuda) in &mut devices.0 {
            let spans = Spans::new(cuda, &problem, Visible::All);
            spans.attention(cuda, shape);
            let out = numbers_of_rows(&download(cuda, spans.out), 8);
            assert!(out.iter().enumerate().all(|(i, x)| x.is_nan() == (i / 8 == 3)), "{name}: {out:?}");
            let lse = floats(&download(cuda, spans.lse));
            assert!(lse.iter().enumerate().all(|(i, x)| x.is_nan() == (i == 3)), "{name}: {lse:?}");
        }
    }
}
