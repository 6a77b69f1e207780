//! Products whose operands are bytes: in integers the bits that the contract says, in small floats what it allows.

use crate::harness::gpu::{self, orders, set_order};
use crate::harness::operands::{BF16, Harness, Random, bf16_floats, read_rows};
use half::bf16;
use tetrad::backend::ops::reference::{self, Planes};
use tetrad::backend::prelude::*;
use tetrad::backend::{Accumulate, Compute, MaxShapes};
use tetrad::quant::{GroupedShape, RowDecoder, WeightCodec, WeightFormat, WeightPlane};

const CODES: [WeightFormat; 4] = [
    WeightFormat::of(WeightCodec::Int4),
    WeightFormat::of(WeightCodec::Int4Offset),
    WeightFormat::FP4.with_residue(false),
    WeightFormat::INT8,
];

/// Tokens, outputs, inputs and group: around the sizes of tiles, groups and chunks.
const SHAPES: [(usize, usize, usize, usize); 6] =
    [(1, 1, 1, 32), (5, 17, 95, 32), (3, 9, 256, 64), (8, 40, 33, 128), (17, 33, 300, 256), (20, 70, 448, 64)];

fn largest(tokens: usize, width: usize, compute: Compute) -> MaxShapes {
    MaxShapes { tokens, features: width, inputs: width, keys: 8, parameter: 1 << 12, head_dim: 16, prefix: 0, compute }
}

/// A product of one case, overwritten and added to.
struct Case {
    shape: GroupedShape,
    planes: Planes,
    x: Vec<f32>,
    old: Vec<f32>,
}

impl Case {
    /// A group of zeros, one of a large number and small ones, and of numbers below any normal one.
    fn new((tokens, outputs, inputs, group): (usize, usize, usize, usize), format: WeightFormat) -> Self {
        let shape = GroupedShape::new(outputs, inputs, group);
        let planes = Random(inputs as u64).planes(shape, format);
        let (mut x, old) = (bf16_floats(1, tokens * inputs), bf16_floats(2, tokens * outputs));
        x[..group.min(inputs)].fill(0.0);
        x[inputs * tokens - 1] = 300.0;
        if tokens > 2 {
            x[inputs..inputs + group.min(inputs)].fill(bf16::from_bits(3).to_f32());
        }
        Self { shape, planes, x, old }
    }

    /// Rows of the two outputs, as bits.
    fn run(&self, compute: Compute, max: MaxShapes) -> [Vec<u16>; 2] {
        let (mut harness, tokens) = (Harness::default(), self.x.len() / self.shape.cols);
        let (w, x) = (harness.weight(&self.planes), harness.activations(&self.x, self.shape.cols));
        let (y, added) = (harness.rows(tokens, self.shape.rows), harness.activations(&self.old, self.shape.rows));
        let mut cuda = gpu::open();
        harness.start(&mut cuda, &max);
        for (y, accumulate) in [(y, Accumulate::No), (added, Accumulate::Yes)] {
            cuda.linear_in(compute, x, &[(&w, y)], accumulate);
        }
        [y, added].map(|y| read_rows(&cuda, y, self.shape.rows))
    }

    fn decoder(&self) -> RowDecoder<'_> {
        RowDecoder::new(self.planes.format, self.shape, |plane| match plane {
            WeightPlane::Data => &self.planes.data,
            WeightPlane::Scales => &self.planes.scales,
            WeightPlane::Offsets => &self.planes.offsets,
            WeightPlane::Residue => &[],
        })
    }

    /// Groups in their order, each one fused multiplication and addition, and another for the offset, beginning with `old`.
    fn integers(&self, old: impl Fn(usize) -> f32) -> Vec<u16> {
        let (GroupedShape { rows, cols, group }, decoder) = (self.shape, self.decoder());
        let (zero, count) = (i32::from(decoder.integers().zero), self.shape.groups_per_row());
        let weights: Vec<_> = (0..rows)
            .map(|row| {
                let (mut integers, mut scales) = (vec![0; self.shape.padded_cols()], vec![0.0; count]);
                let mut offsets = vec![0.0; if decoder.integers().offsets { count } else { 0 }];
                decoder.read_integers(row, 0, &mut integers);
                decoder.integer_scales(row, &mut scales, &mut offsets);
                (integers, scales, offsets)
            })
            .collect();
        let mut out = Vec::new();
        for x in self.x.chunks(cols) {
            let groups: Vec<_> = x.chunks(group).map(codes).collect();
            for (integers, scales, offsets) in &weights {
                let mut sum = old(out.len());
                for (g, (scale, x)) in groups.iter().enumerate() {
                    let products = x.iter().zip(&integers[g * group..]).map(|(x, &w)| x * (i32::from(w) - zero));
                    sum = (products.sum::<i32>() as f32).mul_add(scales[g] * scale, sum);
                    if let Some(offset) = offsets.get(g) {
                        sum = offset.mul_add(scale * x.iter().sum::<i32>() as f32, sum);
                    }
                }
                out.push(bf16::from_f32(sum).to_bits());
            }
        }
        out
    }
}

/// The scale of a group and its integers.
fn codes(x: &[f32]) -> (f32, Vec<i32>) {
    let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let steps = if (127.0 / most).is_finite() { 127.0 / most } else { 0.0 };
    (most / 127.0, x.iter().map(|x| (x * steps).round_ties_even() as i32).collect())
}

fn in_integers(case: &Case, max: MaxShapes, note: &str) {
    let what = format!("{:?}, {:?}, {note}", case.shape, case.planes.format);
    let [y, added] = case.run(Compute::Int8, max);
    assert!(y == case.integers(|_| 0.0), "{what}: other bits");
    assert!(added == case.integers(|i| case.old[i]), "{what}: other bits where it is added");
}

#[test]
fn products_in_integers_have_the_bits_of_their_contract() {
    for order in orders() {
        set_order(order);
        for format in CODES {
            for shape in SHAPES {
                let case = Case::new(shape, format);
                in_integers(&case, largest(20, 448, Compute::Int8), &format!("order {order}"));
            }
        }
    }
}

/// More than a tile of tokens and of outputs.
#[test]
fn products_of_several_tiles() {
    set_order(0);
    for (shape, format) in [((130, 131, 160, 32), CODES[1]), ((257, 129, 200, 128), CODES[0])] {
        in_integers(&Case::new(shape, format), largest(300, 300, Compute::Int8), "several tiles");
    }
}

/// Workspace for a tile of either operand.
#[test]
fn products_in_little_workspace() {
    set_order(1);
    let case = Case::new((140, 270, 1000, 32), CODES[0]);
    in_integers(&case, largest(128, 900, Compute::Int8), "in parts");
}

#[test]
fn what_is_not_finite_makes_its_row_so() {
    let mut case = Case::new((4, 9, 100, 32), CODES[0]);
    case.x[130] = f32::INFINITY;
    case.x[399] = f32::NAN;
    for compute in [Compute::Int8, Compute::Fp8] {
        if gpu::open().check_compute(compute).is_err() {
            continue;
        }
        let [y, _] = case.run(compute, largest(20, 100, compute));
        for (i, row) in y.chunks(9).enumerate() {
            let finite = row.iter().all(|&bits| bf16::from_bits(bits).is_finite());
            assert!(if i % 2 == 0 { finite } else { row.iter().all(|&x| bf16::from_bits(x).is_nan()) }, "row {i}");
        }
    }
}

#[test]
fn products_in_small_floats_are_as_near_as_their_contract_says() {
    if gpu::open().check_compute(Compute::Fp8).is_err() {
        return;
    }
    for order in orders() {
        set_order(order);
        for format in CODES.into_iter().take(3) {
            for shape in SHAPES.into_iter().chain((order == 0).then_some((130, 131, 160, 32))) {
                let case = Case::new(shape, format);
                let [y, added] = case.run(Compute::Fp8, largest(shape.0.max(20), 448, Compute::Fp8));
                let what = format!("{shape:?}, {format:?}, order {order}");
                in_small_floats(&case, &y, |_| 0.0, &what);
                in_small_floats(&case, &added, |i| case.old[i], &format!("{what}, added"));
            }
        }
    }
}

fn in_small_floats(case: &Case, found: &[u16], old: impl Fn(usize) -> f32, what: &str) {
    let GroupedShape { cols, group, .. } = case.shape;
    let rounded = reference::round_fp8(&case.x, cols, group);
    let expected = reference::linear(&rounded, &case.planes.values(), cols);
    // What tensor cores add: products with codes under their scales, without offsets.
    let codes = Planes { offsets: vec![0; case.planes.offsets.len()], ..case.planes.clone() };
    let magnitudes = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
    let dropped = reference::linear(&magnitudes(&rounded), &magnitudes(&codes.values()), cols);
    let sizes = reference::linear(&magnitudes(&rounded), &magnitudes(&case.planes.values()), cols);
    for (i, &bits) in found.iter().enumerate() {
        let (found, expected) = (bf16::from_bits(bits).to_f64(), expected[i] + f64::from(old(i)));
        let kept = (group / 32) as f64 * 33.0 / 8192.0;
        let allowed = BF16 * expected.abs() + kept * dropped[i] + 1e-5 * (sizes[i] + dropped[i]) + 1e-30;
        assert!((found - expected).abs() <= allowed, "{what}[{i}]: {found}, not {expected} +- {allowed}");
    }
}
