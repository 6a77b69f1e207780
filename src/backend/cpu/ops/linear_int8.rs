//! Forward products in integers: inputs rounded to eight bits, weights as the codes that they are.
//!
//! A slab of inputs is rounded into scratch that all threads share, panels of the weight are laid beside it as bytes, a
//! quarter of what float32 takes, and each thread multiplies blocks of the slab with them. A small batch is dot products
//! with rows of codes where they lie.

use super::linear::{SMALL_BATCH, SMALL_OUTPUTS, tokens_of};
use super::weights::Rows;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::gemm;
use crate::backend::cpu::simd::int8::{
    COLS, Dots, Groups, LeftRow, Panel, ROWS, Range, WORD, dots, lay_by_quads, quantize_row, tile,
};
use crate::backend::cpu::simd::isa::{Isa, vectorized};
use crate::backend::cpu::simd::tasks::{Areas, Need};
use crate::backend::cpu::simd::tile::TileMut;
use crate::backend::ops::Linear;
use crate::backend::{Accumulate, Compute, MaxShapes, Weight};
use crate::memory::Span;
use crate::quant::{GROUPS, Integers};

/// Words of panels that are packed at once (1 MiB).
const PANELS: usize = 1 << 18;
/// Words of inputs that are rounded at once (4 MiB).
const SLAB: usize = 1 << 20;
/// Inputs that a task rounds, about.
const ROUNDED: usize = 1 << 13;
/// Rows of a task: a few strips, so that two threads and sixteen find enough of them.
pub(super) const BLOCK: usize = 8 * ROWS;
/// Integers of a row that are multiplied before the next panel's: a panel this deep stays in the first cache.
const DEPTH: usize = 512;
const _: () = assert!(DEPTH.is_multiple_of(GROUPS[GROUPS.len() - 1]) && COLS == gemm::COLS);

/// Scratch for all of this file.
pub(crate) fn need(max: &MaxShapes) -> Need {
    if max.compute != Compute::Int8 {
        return Need::default();
    }
    // The smallest groups have the longest rows; padding adds less than the largest group to a row.
    let widest = max.inputs + GROUPS[GROUPS.len() - 1];
    let groups = Groups { count: widest.div_ceil(GROUPS[0]), words: GROUPS[0] / WORD, offsets: true };
    let (row, panel) = (LeftRow::of(groups).len(), Panel::of(groups).len());
    let slab = SLAB.max(ROWS * row).min(max.tokens.next_multiple_of(ROWS) * row);
    let panels = PANELS.max(panel).min(max.features.div_ceil(COLS) * panel);
    Need { shared: slab + panels, private: private(groups) }
}

/// Words of a thread: rows of a panel as bytes before they are laid side by side, or the numbers of a row's groups.
fn private(groups: Groups) -> usize {
    (COLS * DEPTH / WORD).max(groups.dots_room())
}

/// Tasks of a small batch for each thread, about: enough to share out what one that is held up leaves.
const TASKS: usize = 8;

/// How many rows of inputs are rounded at once, and how many panels are packed.
struct Cut {
    slab: usize,
    panels: usize,
}

impl Cut {
    fn new(groups: Groups, tokens: usize, outputs: usize) -> Self {
        let slab = (SLAB / LeftRow::of(groups).len() / ROWS).max(1) * ROWS;
        let panels = (PANELS / Panel::of(groups).len()).max(1);
        Self { slab: slab.min(tokens.next_multiple_of(ROWS)), panels: panels.min(outputs.div_ceil(COLS)) }
    }
}

/// How an input is rounded for a weight: its groups, and the integer of the weight's zero.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Rounded {
    groups: Groups,
    zero: u8,
}

impl Rounded {
    /// For a weight that is integers.
    fn of(w: &Weight) -> Option<Self> {
        let Integers { zero, offsets, .. } = w.format.codec().integers()?;
        let groups = Groups { count: w.shape.groups_per_row(), words: w.shape.group / WORD, offsets };
        Some(Self { groups, zero })
    }
}

/// `y = x w^T` for weights that share the input, by integers as far as they are stored as such.
pub(super) fn linear_int8(cpu: &mut Cpu, x: Span, products: &[(&Weight, Span)], accumulate: Accumulate) {
    for run in products.chunk_by(|a, b| Rounded::of(a.0) == Rounded::of(b.0)) {
        match Rounded::of(run[0].0) {
            None => run.iter().for_each(|&(w, y)| cpu.linear(x, w, y, accumulate)),
            Some(rounded) => alike(cpu, x, run, rounded, accumulate),
        }
    }
}

/// Products with weights that the input is rounded once for.
fn alike(cpu: &mut Cpu, x: Span, products: &[(&Weight, Span)], rounded: Rounded, accumulate: Accumulate) {
    let (isa, mut scratch, mut slices) = cpu.begin();
    let (x, inputs) = (slices.read::<f32>(x), products[0].0.shape.cols);
    let (Rounded { groups, zero }, tokens) = (rounded, x.len() / inputs);
    let outputs = products.iter().map(|(w, _)| w.shape.rows).max().unwrap_or_default();
    let (cut, row, panel) = (Cut::new(groups, tokens, outputs), LeftRow::of(groups).len(), Panel::of(groups).len());
    let shared = cut.slab * row + cut.panels * panel;
    let (shared, mut areas) = scratch.split(Need { shared, private: private(groups) });
    let (left, panels) = shared.split_at_mut(cut.slab * row);
    // Not by the rows of a slab: how a batch is cut must not show.
    let few = tokens <= SMALL_BATCH;
    let round = |areas: &mut Areas<'_>, left: &mut [f32], x: &[f32]| {
        let at_once = (ROUNDED / inputs).max(1);
        let tasks = left.chunks_mut(row * at_once).zip(x.chunks(inputs * at_once));
        areas.run(tasks, |(left, x), _| {
            for (left, x) in left.chunks_exact_mut(row).zip(x.chunks_exact(inputs)) {
                quantize_row(isa, x, groups, zero, left);
                if few {
                    lay_by_quads(isa, groups, left);
                }
            }
        });
    };
    if few {
        round(&mut areas, left, x);
        let products = products.iter().map(|&(w, y)| {
            let (w, y) = (Rows::claim(&mut slices, w), slices.write::<f32>(y));
            tokens_of(x, inputs, y, w.rows());
            (w, y)
        });
        return small_batch(isa, &mut areas, groups, (left, tokens), products, accumulate);
    }
    for (i, &(w, y)) in products.iter().enumerate() {
        let (w, y) = (Rows::claim(&mut slices, w), slices.write::<f32>(y));
        let outputs = w.rows();
        tokens_of(x, inputs, y, outputs);
        for (x, y) in x.chunks(cut.slab * inputs).zip(y.chunks_mut(cut.slab * outputs)) {
            // One slab stays for all products.
            if i == 0 || tokens > cut.slab {
                round(&mut areas, left, x);
            }
            let rows = x.len() / inputs;
            for col in (0..outputs).step_by(cut.panels * COLS) {
                let width = (cut.panels * COLS).min(outputs - col);
                let tasks = panels.chunks_exact_mut(panel).zip((col..col + width).step_by(COLS));
                areas.run(tasks, |(panel, col), area| pack(isa, &w, groups, col, panel, area));
                let (left, panels) = (&*left, &*panels);
                let mut whole = TileMut::new(&mut *y, rows, outputs, outputs);
                let blocks = whole.part(0, col, rows, width).grid(BLOCK, width);
                areas.run(blocks, |(first, _, out), _| {
                    block(isa, groups, &left[first * row..], panels, out, accumulate);
                });
            }
        }
    }
}

/// Sets a block of the output, or adds to it.
pub(super) fn block(
    isa: Isa,
    groups: Groups,
    left: &[f32],
    panels: &[f32],
    mut out: TileMut<'_>,
    accumulate: Accumulate,
) {
    let (row, panel) = (LeftRow::of(groups).len(), Panel::of(groups).len());
    let deep = DEPTH / WORD / groups.words;
    for first in (0..groups.count).step_by(deep) {
        let goes_on = first > 0 || accumulate == Accumulate::Yes;
        let range = Range { first, count: deep.min(groups.count - first), goes_on };
        for (col, panel) in (0..out.cols()).step_by(COLS).zip(panels.chunks_exact(panel)) {
            for i in (0..out.rows()).step_by(ROWS) {
                let (rows, cols) = (ROWS.min(out.rows() - i), COLS.min(out.cols() - col));
                tile(isa, groups, &left[i * row..], panel, range, out.part(i, col, rows, cols));
            }
        }
    }
}

/// Lays [`COLS`] rows of the weight from `first` on side by side; those that do not exist are left as they are, and what they
/// give is not stored.
fn pack(isa: Isa, w: &Rows<'_>, groups: Groups, first: usize, panel: &mut [f32], area: &mut [f32]) {
    let (count, wide) = (COLS.min(w.rows() - first), Panel::of(groups));
    let (codes, numbers) = panel.split_at_mut(wide.codes());
    let padded = groups.count * groups.words * WORD;
    for from in (0..padded).step_by(DEPTH) {
        let words = DEPTH.min(padded - from) / WORD;
        for (j, row) in area.chunks_exact_mut(DEPTH / WORD).take(count).enumerate() {
            read(isa, w, first + j, from, &mut row[..words]);
        }
        gemm::columns_to_panels(isa, area, DEPTH / WORD, count, words, 0, &mut codes[from / WORD * COLS..]);
    }
    let (scales, offsets) = numbers.split_at_mut(groups.count * COLS);
    for j in 0..count {
        let (own_scales, own_offsets) = numbers_of(isa, w, groups, first + j, area);
        for (to, own) in [(&mut *scales, own_scales), (&mut *offsets, own_offsets)] {
            own.iter().enumerate().for_each(|(g, &number)| to[g * COLS + j] = number);
        }
    }
}

vectorized! {
    /// Integers of a row from column `from` on, as the bytes of words.
    fn read(w: &Rows<'_>, row: usize, from: usize, out: &mut [f32]) {
        w.decoder().read_integers(row, from, zerocopy::IntoBytes::as_mut_bytes(out));
    }
}

/// Scales and offsets of a row's groups.
fn numbers_of<'a>(isa: Isa, w: &Rows<'_>, groups: Groups, row: usize, area: &'a mut [f32]) -> (&'a [f32], &'a [f32]) {
    let (scales, offsets) = area.split_at_mut(groups.count);
    let offsets = &mut offsets[..if groups.offsets { groups.count } else { 0 }];
    read_scales(isa, w, row, scales, offsets);
    (scales, offsets)
}

vectorized! {
    fn read_scales(w: &Rows<'_>, row: usize, scales: &mut [f32], offsets: &mut [f32]) {
        w.decoder().integer_scales(row, scales, offsets);
    }
}

/// Dot products of each row of inputs with rows of the weights as they lie: all of them are tasks at once.
fn small_batch<'a>(
    isa: Isa,
    areas: &mut Areas<'_>,
    groups: Groups,
    (left, tokens): (&[f32], usize),
    products: impl Iterator<Item = (Rows<'a>, &'a mut [f32])> + Send,
    accumulate: Accumulate,
) {
    let workers = TASKS * areas.count();
    let tasks = products.flat_map(|(w, y)| {
        let outputs = w.rows();
        // A task takes as long as handing out a few others.
        let at_once = (outputs / workers).next_multiple_of(4).max(SMALL_OUTPUTS);
        TileMut::new(y, tokens, outputs, outputs).grid(tokens.max(1), at_once).map(move |(_, col, out)| (w, col, out))
    });
    areas.run(tasks, |(w, col, out), area| {
        let goes_on = accumulate == Accumulate::Yes;
        let numbers = &mut area[..groups.dots_room()];
        dots(isa, Dots { groups, left, w: w.decoder(), first: col, numbers, out, goes_on });
    });
}
