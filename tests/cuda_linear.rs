//! Products with weights of every kind on a GPU, the emulated one included, against plain sums in float64; rows of
//! tables and their gradient.

mod common;

use common::gpu::devices;
use half::{bf16, f16};
use tetrad::backend::cpu::reference::{self, Planes};
use tetrad::backend::cuda::embedding::{embedding, embedding_grad};
use tetrad::backend::cuda::linear::{linear, linear_grad_input};
use tetrad::backend::cuda::linear_grad_weight::linear_grad_weight;
use tetrad::backend::cuda::{Gpu, SOURCES};
use tetrad::backend::{Store, Weight, WeightKind};
use tetrad::config::Scheme;
use tetrad::memory::{Category, Lifetime, Plan, Span};
use tetrad::nibble::{GROUPS, Geometry};
use zerocopy::IntoBytes;

const KINDS: [(WeightKind, Scheme); 7] = [
    (WeightKind::F32, Scheme::Symmetric),
    (WeightKind::Bf16, Scheme::Symmetric),
    (WeightKind::Int8, Scheme::Symmetric),
    (WeightKind::Int4, Scheme::Symmetric),
    (WeightKind::Int4, Scheme::Asymmetric),
    (WeightKind::Int4Simulated, Scheme::Symmetric),
    (WeightKind::Int4Simulated, Scheme::Asymmetric),
];

/// A repeatable source of numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    fn halves(&mut self, n: usize) -> Vec<u16> {
        (0..n).map(|_| bf16::from_f32(self.float()).to_bits()).collect()
    }

    /// A weight with values of about one and garbage in its padding, which nothing may read.
    fn planes(&mut self, geometry: Geometry, kind: WeightKind, scheme: Scheme) -> Planes {
        let data = match kind {
            WeightKind::F32 | WeightKind::Int4Simulated => self.floats(geometry.len()).as_bytes().to_vec(),
            WeightKind::Bf16 => self.halves(geometry.len()).as_bytes().to_vec(),
            WeightKind::Int8 => (0..geometry.padded_len()).map(|_| self.bits() as u8).collect(),
            WeightKind::Int4 => (0..geometry.nibble_bytes()).map(|_| self.bits() as u8).collect(),
        };
        let step = if kind == WeightKind::Int8 { 0.01 } else { 0.15 };
        let mut per_group = |least: f32, spread: f32| -> Vec<u16> {
            (0..geometry.groups()).map(|_| f16::from_f32(least + spread * self.float()).to_bits()).collect()
        };
        let packed = matches!(kind, WeightKind::Int8 | WeightKind::Int4);
        let scales = if packed { per_group(step, step / 2.0) } else { Vec::new() };
        let offset = kind == WeightKind::Int4 && scheme == Scheme::Asymmetric;
        let offsets = if offset { per_group(-1.0, 0.5) } else { Vec::new() };
        Planes { geometry, kind, scheme, data, scales, offsets }
    }
}

fn wide(halves: &[u16]) -> Vec<f64> {
    halves.iter().map(|&bits| bf16::from_bits(bits).to_f64()).collect()
}

fn magnitudes(x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| x.abs()).collect()
}

/// Memory of one test: what lies where, and the bytes it starts with.
#[derive(Default)]
struct Rig {
    plan: Plan,
    uploads: Vec<(Span, Vec<u8>)>,
}

impl Rig {
    fn add(&mut self, bytes: &[u8]) -> Span {
        let span = self.plan.add("", Category::Scratch, bytes.len(), Lifetime::ALWAYS);
        self.uploads.push((span, bytes.to_vec()));
        span
    }

    /// Room that holds NaN.
    fn room(&mut self, bytes: usize) -> Span {
        self.add(&vec![0xff; bytes])
    }

    fn weight(&mut self, planes: &Planes) -> Weight {
        Weight {
            geometry: planes.geometry,
            kind: planes.kind,
            scheme: planes.scheme,
            data: self.add(&planes.data),
            scales: self.add(planes.scales.as_bytes()),
            offsets: self.add(planes.offsets.as_bytes()),
            residue: Span::NONE,
        }
    }

    /// Puts everything on a device, with scratch that holds NaN.
    fn prepare(&self, gpu: &mut Gpu, scratch_bytes: usize) {
        let mut plan = self.plan.clone();
        let scratch = plan.add("", Category::Scratch, scratch_bytes, Lifetime::ALWAYS);
        gpu.allocate(plan.total(), scratch).unwrap();
        gpu.upload(&vec![0xff; scratch.bytes], scratch);
        self.uploads.iter().filter(|(span, _)| !span.is_none()).for_each(|(span, bytes)| gpu.upload(bytes, *span));
    }
}

fn downloaded(gpu: &Gpu, span: Span) -> Vec<u8> {
    let mut bytes = vec![0; span.bytes];
    gpu.download(span, &mut bytes);
    gpu.status().unwrap();
    bytes
}

fn halves_at(gpu: &Gpu, span: Span) -> Vec<f64> {
    let bits = |b: &[u8]| bf16::from_le_bytes([b[0], b[1]]).to_f64();
    downloaded(gpu, span).chunks_exact(2).map(bits).collect()
}

fn floats_at(gpu: &Gpu, span: Span) -> Vec<f32> {
    downloaded(gpu, span).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Half a unit in the last place of a bfloat16, relative.
const HALF_BF16: f64 = 1.0 / 256.0;

/// Fails where a sum of `terms` products is further from `wanted` than its roundings explain: each of at most `terms`
/// float32 additions by 2^-24 of the sum of magnitudes, twice that for sums in pieces; weights that were rounded to
/// bfloat16 (`weights`: 2^-8, else 0) by that share of the magnitudes; and the result by half its last place.
fn check(found: &[f64], wanted: &[f64], magnitudes: &[f64], terms: usize, weights: f64, result: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (i, &found) in found.iter().enumerate() {
        let exact = magnitudes[i] * (weights + (2 * terms + 2) as f64 * 2f64.powi(-24));
        let tolerance = exact + result * (wanted[i].abs() + exact) + 1e-30;
        assert!((found - wanted[i]).abs() <= tolerance, "{what}: {i} is {found}, not {} +- {tolerance}", wanted[i]);
    }
}

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// Forward, both gradients, replaced and added to. `tight`: scratch that holds no more than the narrowest panels.
fn all_three(devices: &mut [(String, Gpu)], tokens: usize, g: Geometry, kind: (WeightKind, Scheme), tight: bool) {
    let (mut random, mut rig) = (Random(tokens as u64), Rig::default());
    let (rows, cols) = (g.rows, g.cols);
    let planes = random.planes(g, kind.0, kind.1);
    let w = rig.weight(&planes);
    let (x, dy) = (random.halves(tokens * cols), random.halves(tokens * rows));
    let (old_y, old_dx) = (random.halves(tokens * rows), random.halves(tokens * cols));
    let old_grad = random.floats(rows * cols);
    let [x_at, dy_at, y2, dx2] = [&x, &dy, &old_y, &old_dx].map(|halves| rig.add(halves.as_bytes()));
    let grad2 = rig.add(old_grad.as_bytes());
    let [y, dx, grad] = [2 * tokens * rows, 2 * tokens * cols, 4 * rows * cols].map(|bytes| rig.room(bytes));
    let pitch = cols.next_multiple_of(8);
    let scratch = if tight { (2 * 128 * pitch).max(512 * rows) } else { 2 * rows * pitch };

    let (values, x, dy, old_y, old_dx) = (planes.values(), wide(&x), wide(&dy), wide(&old_y), wide(&old_dx));
    let old_grad: Vec<f64> = old_grad.into_iter().map(f64::from).collect();
    // Sums, and the sums of the magnitudes of their terms.
    let three = |x: &[f64], dy: &[f64], values: &[f64]| {
        let dx = reference::linear_grad_input(dy, values, cols);
        [reference::linear(x, values, cols), dx, reference::linear_grad_weight(dy, x, rows)]
    };
    let sums = three(&x, &dy, &values);
    let sizes = three(&magnitudes(&x), &magnitudes(&dy), &magnitudes(&values));
    let rounded = if kind.0 == WeightKind::Bf16 { 0.0 } else { HALF_BF16 };
    for (name, gpu) in devices {
        rig.prepare(gpu, scratch);
        for (y, dx, grad, store) in [(y, dx, grad, Store::Overwrite), (y2, dx2, grad2, Store::Accumulate)] {
            linear(gpu, x_at, &w, y, store);
            linear_grad_input(gpu, dy_at, &w, dx, store);
            linear_grad_weight(gpu, dy_at, x_at, grad, (rows, cols), store);
            let what = |of: &str| format!("{name}: {of} of {tokens} tokens, {g:?} {kind:?}, {store:?}");
            let old = |old: &[f64], sums: &[f64]| {
                if store == Store::Accumulate { add(old, sums) } else { sums.to_vec() }
            };
            let in_y = if tokens <= 8 { 0.0 } else { rounded };
            let old_size = |old_values: &[f64], size: &[f64]| old(&magnitudes(old_values), size);
            let found = halves_at(gpu, y);
            check(&found, &old(&old_y, &sums[0]), &old_size(&old_y, &sizes[0]), cols, in_y, HALF_BF16, &what("y"));
            let found = halves_at(gpu, dx);
            let sizes_dx = old_size(&old_dx, &sizes[1]);
            check(&found, &old(&old_dx, &sums[1]), &sizes_dx, rows, rounded, HALF_BF16, &what("dx"));
            let found: Vec<f64> = floats_at(gpu, grad).into_iter().map(f64::from).collect();
            let sizes_grad = old_size(&old_grad, &sizes[2]);
            check(&found, &old(&old_grad, &sums[2]), &sizes_grad, tokens, 0.0, 0.0, &what("grad"));
        }
    }
}

#[test]
fn every_kind_and_group_at_the_edges_of_runs_and_tiles() {
    let mut devices = devices(SOURCES);
    let shapes = [(1, 1, 1), (9, 33, 65), (65, 31, 257), (13, 172, 64), (50, 7, 300), (8, 64, 1), (3, 9, 1100)];
    for (k, kind) in KINDS.into_iter().enumerate() {
        for (i, &(tokens, rows, cols)) in shapes.iter().enumerate() {
            tetrad_emulator::set_order(((i + k) % 5) as i32);
            all_three(&mut devices, tokens, Geometry::new(rows, cols, GROUPS[(i + k) % 4]), kind, false);
            all_three(&mut devices, tokens, Geometry::new(rows, cols, GROUPS[(i + k + 1) % 4]), kind, false);
        }
    }
}

#[test]
fn panels_that_do_not_hold_the_whole_weight() {
    let mut devices = devices(SOURCES);
    for (i, kind) in KINDS.into_iter().enumerate() {
        tetrad_emulator::set_order([0, 1, 6][i % 3]);
        all_three(&mut devices, 9, Geometry::new(300, 700, GROUPS[i % 4]), kind, true);
        all_three(&mut devices, 12, Geometry::new(129, 546, GROUPS[(i + 2) % 4]), kind, true);
        all_three(&mut devices, 10, Geometry::new(140, 513, GROUPS[(i + 1) % 4]), kind, true);
    }
}

#[test]
fn few_tokens_of_every_number_are_summed_with_exact_weights() {
    let mut devices = devices(SOURCES);
    for tokens in 1..=8 {
        for (i, kind) in KINDS.into_iter().enumerate() {
            tetrad_emulator::set_order((tokens % 3) as i32);
            all_three(&mut devices, tokens, Geometry::new(6, 1300 + tokens, GROUPS[(i + tokens) % 4]), kind, false);
        }
    }
}

#[test]
fn rows_of_every_kind_and_the_sum_of_their_gradients() {
    let mut devices = devices(SOURCES);
    for (k, (kind, scheme)) in KINDS.into_iter().enumerate() {
        for (i, (vocab, width, count)) in
            [(1, 1, 1), (5, 33, 70), (257, 64, 200), (100, 1100, 129), (7, 40, 5000)].into_iter().enumerate()
        {
            tetrad_emulator::set_order([0, 1, 6][(i + k) % 3]);
            let (mut random, mut rig) = (Random(count as u64), Rig::default());
            let planes = random.planes(Geometry::new(vocab, width, GROUPS[(i + k) % 4]), kind, scheme);
            let tokens: Vec<u32> = (0..count).map(|_| (random.bits() % vocab as u64) as u32).collect();
            let (dout, old) = (random.halves(count * width), random.floats(vocab * width));
            let (tokens_at, table) = (rig.add(tokens.as_bytes()), rig.weight(&planes));
            let (out, dout_at, grad) = (rig.room(2 * count * width), rig.add(dout.as_bytes()), rig.add(old.as_bytes()));
            let values = planes.values();
            let rows: Vec<f64> = tokens.iter().flat_map(|&t| values[t as usize * width..][..width].to_vec()).collect();
            // In the order of t, in float32: the very same sums.
            let mut sums = old;
            for (i, &d) in dout.iter().enumerate() {
                sums[tokens[i / width] as usize * width + i % width] += bf16::from_bits(d).to_f32();
            }
            for (name, gpu) in &mut devices {
                rig.prepare(gpu, 4 * vocab);
                embedding(gpu, tokens_at, &table, out);
                embedding_grad(gpu, tokens_at, dout_at, grad, width);
                let what = format!("{name}: {vocab} x {width} {kind:?} {scheme:?}");
                check(&halves_at(gpu, out), &rows, &magnitudes(&rows), 1, 0.0, HALF_BF16, &what);
                assert!(floats_at(gpu, grad) == sums, "{what}: the gradient");
            }
        }
    }
}
