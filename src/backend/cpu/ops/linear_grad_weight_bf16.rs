//! The gradient of a weight from operands rounded to bfloat16.
//!
//! Sums are made of blocks of tokens that begin anew with every sequence, so a batch that is fed in parts of whole sequences
//! gives the bits of the whole. Operands of a square of the gradient are rounded into scratch that all threads share; each
//! thread then sums blocks of the square.

use super::linear_bf16::SLAB;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::bf16::{
    BLOCK, COLS, Operand, PANEL, ROWS, STRIP, WORDS, columns_to_strip, order_panel, order_strip, pair, pair_to_panels,
    product,
};
use crate::backend::cpu::simd::isa::Isa;
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::cpu::simd::tile::TileMut;
use crate::backend::{Accumulate, Compute, MaxShapes};
use crate::memory::Span;

/// Rows and columns of the gradient whose operands are rounded at once, at most.
const SQUARE: usize = 1024;
/// Columns of an operand that a task rounds.
const PIECE: usize = 256;
/// Blocks of tokens that a task rounds.
const BLOCKS: usize = 2;
/// Rows and columns of the gradient that a task sums.
const TASK: (usize, usize) = (2 * ROWS, 8 * COLS);
/// Rows of a strip and columns of a panel.
const WIDTH: usize = ROWS;
const _: () = assert!(ROWS == COLS);
/// Strips or panels that a task fills.
const AT_ONCE: usize = PIECE / WIDTH;
/// Words of a block of an operand's piece.
const PRIVATE: usize = WORDS * PIECE;

/// Scratch for all of this file.
pub(crate) fn need(max: &MaxShapes) -> Need {
    if max.compute != Compute::Bf16 {
        return Need::default();
    }
    // A sequence of one token is a block of its own.
    let widest = max.features.max(max.inputs);
    Cut::new(max.tokens, (widest, widest)).need()
}

/// How much of the operands there is at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    rows: usize,
    cols: usize,
    /// Of tokens.
    blocks: usize,
}

impl Cut {
    fn new(blocks: usize, (outputs, inputs): (usize, usize)) -> Self {
        let (rows, cols) = (outputs.next_multiple_of(ROWS).min(SQUARE), inputs.next_multiple_of(COLS).min(SQUARE));
        Self { rows, cols, blocks: blocks.min(SLAB / WORDS / (2 * SQUARE)) }
    }

    fn left(self) -> usize {
        self.rows * self.blocks * WORDS
    }

    fn need(self) -> Need {
        Need { shared: self.left() + self.cols * self.blocks * WORDS, private: PRIVATE }
    }
}

/// An operand: its numbers, the length of a row, and the tokens of a sequence.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    data: &'a [f32],
    width: usize,
    sequence: usize,
    operand: Operand,
}

impl<'a> Tokens<'a> {
    /// Blocks of a sequence, the last of which may be short.
    fn blocks_each(self) -> usize {
        self.sequence.div_ceil(BLOCK)
    }

    /// Pair `word` of block `block`: columns `from..from + count` of its tokens, none of tokens that the sequence does not have.
    fn pair(self, block: usize, word: usize, from: usize, count: usize) -> [&'a [f32]; 2] {
        let (sequence, first) = (block / self.blocks_each(), block % self.blocks_each() * BLOCK + 2 * word);
        let row = |token: usize| {
            let at = (sequence * self.sequence + token) * self.width + from;
            if token < self.sequence { &self.data[at..at + count] } else { &[] }
        };
        [row(first), row(first + 1)]
    }
}

/// `grad[O, I] = dy[T, O]^T x[T, I]`, of sequences of `sequence` tokens.
pub(super) fn linear_grad_weight_bf16(
    cpu: &mut Cpu,
    [dy, x, grad]: [Span; 3],
    (outputs, inputs): (usize, usize),
    accumulate: Accumulate,
    sequence: usize,
) {
    let (isa, mut scratch, mut slices) = cpu.begin();
    let (dy, x, grad) = (slices.read::<f32>(dy), slices.read::<f32>(x), slices.write::<f32>(grad));
    let tokens = dy.len() / outputs;
    assert_eq!([dy.len(), x.len()], [tokens * outputs, tokens * inputs], "whole rows, as many of both");
    assert_eq!(grad.len(), outputs * inputs, "the gradient's elements");
    assert!(tokens > 0 && tokens.is_multiple_of(sequence), "{tokens} tokens in sequences of {sequence}");
    let dy = Tokens { data: dy, width: outputs, sequence, operand: Operand::Gradient };
    let x = Tokens { data: x, width: inputs, sequence, operand: Operand::Value };
    let all = tokens / sequence * dy.blocks_each();
    let cut = Cut::new(all, (outputs, inputs));
    let (shared, mut areas) = scratch.split(cut.need());
    let (left, right) = shared.split_at_mut(cut.left());
    let mut whole = TileMut::new(grad, outputs, inputs, inputs);
    for first in (0..all).step_by(cut.blocks) {
        let blocks = cut.blocks.min(all - first);
        let goes_on = accumulate == Accumulate::Yes || first > 0;
        for col in (0..inputs).step_by(cut.cols) {
            let x = Part { tokens: x, first, from: col, count: cut.cols.min(inputs - col) };
            for row in (0..outputs).step_by(cut.rows) {
                let dy = Part { tokens: dy, first, from: row, count: cut.rows.min(outputs - row) };
                // Panels serve all rows.
                let panels = (row == 0)
                    .then(|| x.whole(&mut *right, blocks * PANEL))
                    .map(|whole| whole.grid(AT_ONCE, BLOCKS * PANEL));
                let strips = dy.whole(&mut *left, blocks * STRIP).grid(AT_ONCE, BLOCKS * STRIP);
                let tasks =
                    strips.map(|task| (true, task)).chain(panels.into_iter().flatten().map(|task| (false, task)));
                areas.run(tasks, |(of_strips, (number, at, tile)), area| match of_strips {
                    true => dy.strips(isa, number, at / STRIP, tile, area),
                    false => x.panels(isa, number, at / PANEL, tile),
                });
                let (left, right, depth) = (&*left, &*right, blocks * WORDS);
                let square = whole.part(row, col, dy.count, x.count);
                areas.run(square.grid(TASK.0, TASK.1), |(i, j, tile), _| {
                    product(isa, &left[i * depth..], &right[j * depth..], blocks, tile, goes_on);
                });
            }
        }
    }
}

/// Some columns of an operand, from a block of tokens on.
#[derive(Clone, Copy)]
struct Part<'a> {
    tokens: Tokens<'a>,
    first: usize,
    from: usize,
    count: usize,
}

impl<'a> Part<'a> {
    /// Its strips or panels, `length` words each.
    fn whole(self, out: &mut [f32], length: usize) -> TileMut<'_> {
        let count = self.count.div_ceil(WIDTH);
        TileMut::new(&mut out[..count * length], count, length, length)
    }

    /// Columns of a task's strips or panels.
    fn width(self, number: usize) -> usize {
        PIECE.min(self.count - number * WIDTH)
    }

    /// The pair of number `word` of block `block`, of up to [`PIECE`] columns from strip or panel `number` on.
    fn pair(self, block: usize, word: usize, number: usize) -> [&'a [f32]; 2] {
        let col = number * WIDTH;
        self.tokens.pair(self.first + block, word, self.from + col, self.width(number))
    }

    /// Panels from number `panel` and block `block` on.
    fn panels(self, isa: Isa, panel: usize, block: usize, mut out: TileMut<'_>) {
        for k in 0..out.cols() / COLS {
            let [low, high] = self.pair(block + k / WORDS, k % WORDS, panel);
            pair_to_panels(isa, low, high, self.tokens.operand, k, &mut out);
        }
        (0..out.rows()).for_each(|p| order_panel(isa, out.row(p)));
    }

    /// Strips from number `strip` and block `block` on.
    fn strips(self, isa: Isa, strip: usize, block: usize, mut out: TileMut<'_>, area: &mut [f32]) {
        for k in 0..out.cols() / STRIP {
            for (word, words) in area.chunks_exact_mut(PIECE).enumerate() {
                let [low, high] = self.pair(block + k, word, strip);
                pair(isa, low, high, self.tokens.operand, &mut words[..self.width(strip)]);
            }
            for i in 0..out.rows() {
                let strip = &mut out.row(i)[k * STRIP..][..STRIP];
                columns_to_strip(isa, &area[i * WIDTH..], PIECE, strip);
                order_strip(isa, strip);
            }
        }
    }
}
