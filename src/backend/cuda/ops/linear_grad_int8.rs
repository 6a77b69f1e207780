//! Gradients of products in integers: both operands are rounded in workspace, in groups along the sum, and tensor cores multiply
//! them as in forward products ([`super::bytes`]).

use super::bytes::{self, Laid, OPERAND, Operand, TILE, row_bytes};
use super::linear::{after, tokens};
use super::weights::{self, codec_kernels};
use super::{dim, pitch, rows_of};
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::{Accumulate, Compute, GRAD_GROUP, MaxShapes, RowDraws, Weight};
use crate::memory::Span;
use crate::quant::RngUse;

/// Groups of a weight's gradient that are summed at once. A gradient of an input is rounded when it is stored, so all of its sum
/// is.
const DEEPEST: usize = 256;
/// Columns that a block of threads rounds.
const COLUMNS: usize = GRAD_GROUP;

/// Workspace in bytes; nothing if products are not in integers.
pub(crate) fn workspace_bytes(max: &MaxShapes) -> usize {
    if max.compute != Compute::Int8 {
        return 0;
    }
    let widest = max.features.max(max.inputs);
    // As for forward products: all rows, or as many as OPERAND and one tile's allow.
    let both = |rows: [usize; 2], groups: usize| {
        let row = row_bytes(groups * GRAD_GROUP, GRAD_GROUP);
        rows.map(|rows| (rows.next_multiple_of(TILE) * row).min(OPERAND.max(TILE * row))).iter().sum::<usize>()
    };
    // Every token may be a sequence, and so a group.
    both([max.tokens, widest], widest.div_ceil(GRAD_GROUP)).max(both([widest; 2], max.tokens.min(DEEPEST)))
}

/// Both operands of a sum of `groups` groups: room for them in the workspace.
fn operands(gpu: &Gpu, rows: [usize; 2], groups: usize) -> ([Operand; 2], usize) {
    let padded = groups * GRAD_GROUP;
    let spare = TILE * row_bytes(padded, GRAD_GROUP);
    let (left, rest) = Operand::new(gpu.workspace(), spare, rows[0], (padded, GRAD_GROUP));
    let (right, _) = Operand::new(rest, 0, rows[1], (padded, GRAD_GROUP));
    ([left, right], padded)
}

/// Columns of a matrix that become rows of an operand, in some groups of its rows.
#[derive(Clone, Copy)]
struct Columns {
    /// Elements from one row to the next, as the kernel counts them.
    width: usize,
    /// Rows after which groups begin anew.
    run: usize,
    group: usize,
    groups: usize,
    column: usize,
    columns: usize,
}

impl Columns {
    fn args(self, args: Args, to: Operand) -> Args {
        let each = self.run.div_ceil(GRAD_GROUP);
        let numbers = [self.width, self.run, each, self.group, self.column, self.columns];
        let args = numbers.iter().fold(args, |args, &n| args.u32(dim(n)));
        args.u32(dim(self.groups * GRAD_GROUP)).u32(dim(to.room))
    }

    fn grid(self) -> [u32; 3] {
        [dim(self.columns.div_ceil(COLUMNS)), dim(self.groups), 1]
    }
}

/// `dx = dy w`.
pub(super) fn grad_input(gpu: &mut Gpu, dy: Span, w: &Weight, dx: Span, accumulate: Accumulate, draws: &RowDraws) {
    assert!(Compute::Int8.takes(w.format.codec()), "a weight of codes");
    weights::check(w);
    let (outputs, inputs) = (w.shape.rows, w.shape.cols);
    let (tokens, groups) = (tokens(dy, outputs, dx, inputs), outputs.div_ceil(GRAD_GROUP));
    let ([left, right], padded) = operands(gpu, [tokens, inputs], groups);
    let laid = Laid { padded, group: GRAD_GROUP, offsets: false, pitch: pitch(inputs) };
    for (token, count) in left.parts(tokens) {
        let rows = |span: Span, width: usize| span.part(2 * token * pitch(width), 2 * count * pitch(width));
        let draws = RowDraws { first_row: draws.first_row + token, ..*draws };
        round_rows(gpu, rows(dy, outputs), (count, outputs, padded), left, &draws);
        for (column, columns) in right.parts(inputs) {
            // All of the weight stays from the first tokens to the last.
            if token == 0 || columns < inputs {
                let width = weights::row_elements(w);
                round_weight(gpu, w, Columns { width, run: outputs, group: 0, groups, column, columns }, right);
            }
            let out = after(rows(dx, inputs), 2 * column);
            bytes::multiply(gpu, "multiply_grad_input_int8", laid, (left, count), (right, columns), out, accumulate);
        }
    }
}

/// `grad[O, I] = dy[T, O]^T x[T, I]`, of sequences of `sequence` tokens.
pub(super) fn grad_weight(
    gpu: &mut Gpu,
    [dy, x, grad]: [Span; 3],
    (outputs, inputs): (usize, usize),
    accumulate: Accumulate,
    sequence: usize,
    draws: &RowDraws,
) {
    let tokens = tokens(dy, outputs, x, inputs);
    assert_eq!(grad.bytes, super::product([4, outputs, inputs]), "the gradient of a weight of {outputs} x {inputs}");
    assert!(tokens > 0 && tokens.is_multiple_of(sequence), "{tokens} tokens in sequences of {sequence}");
    let all = tokens / sequence * sequence.div_ceil(GRAD_GROUP);
    for group in (0..all).step_by(DEEPEST) {
        let groups = DEEPEST.min(all - group);
        let ([left, right], padded) = operands(gpu, [outputs, inputs], groups);
        let laid = Laid { padded, group: GRAD_GROUP, offsets: false, pitch: inputs };
        let accumulate = if group > 0 { Accumulate::Yes } else { accumulate };
        for (row, count) in left.parts(outputs) {
            let part = Columns { width: outputs, run: sequence, group, groups, column: row, columns: count };
            round_columns(gpu, dy, part, left, Some(draws));
            for (column, columns) in right.parts(inputs) {
                if row == 0 || columns < inputs {
                    round_columns(gpu, x, Columns { width: inputs, column, columns, ..part }, right, None);
                }
                let rows = grad.part(4 * row * inputs, 4 * count * inputs);
                let out = after(rows, 4 * column);
                let kernel = "multiply_grad_weight_int8";
                bytes::multiply(gpu, kernel, laid, (left, count), (right, columns), out, accumulate);
            }
        }
    }
}

/// What random numbers are made of.
fn with_draws(args: Args, draws: &RowDraws) -> Args {
    let RowDraws { key, first_row } = draws;
    args.u64(*first_row as u64).u64(key.seed).u32(key.step).u32(key.tensor)
}

/// Rounds rows of a gradient at random.
fn round_rows(gpu: &mut Gpu, dy: Span, (rows, width, padded): (usize, usize, usize), to: Operand, draws: &RowDraws) {
    assert_eq!(draws.key.usage, RngUse::GradInput, "the kernel's own");
    let args = Args::new().span(gpu, dy).span(gpu, to.codes).span(gpu, to.scales);
    let args = args.u32(dim(rows)).u32(dim(width)).u32(dim(padded)).u32(dim(to.room));
    let grid = [dim(rows.div_ceil(8)), dim(padded.div_ceil(256)), 1];
    // SAFETY: the parameters of the kernel, which reads `rows` rows of `dy`, of which there are as many, and writes a row of codes
    // and a float a group for each, for which `to` has room.
    unsafe { gpu.launch("round_rows_int8", grid, 256, 0, &with_draws(args, draws)) };
}

/// Rounds columns of activations, to the nearest or at random.
fn round_columns(gpu: &mut Gpu, x: Span, part: Columns, to: Operand, draws: Option<&RowDraws>) {
    let tokens = (part.group + part.groups).div_ceil(part.run.div_ceil(GRAD_GROUP)) * part.run;
    assert!(tokens <= rows_of(x, part.width) && part.column + part.columns <= part.width, "a part outside");
    let args = part.args(Args::new().span(gpu, x).span(gpu, to.codes).span(gpu, to.scales), to);
    let (kernel, args) = match draws {
        None => ("round_columns_int8", args),
        Some(draws) => {
            assert_eq!(draws.key.usage, RngUse::GradWeight, "the kernel's own");
            ("round_columns_at_random_int8", with_draws(args, draws))
        }
    };
    // SAFETY: the parameters of the kernel, which reads columns of the rows that these groups have, of which there are as many in
    // `x`, and writes a row of codes and a float a group for each column, for which `to` has room.
    unsafe { gpu.launch(kernel, part.grid(), 128, 0, &args) };
}

/// Rounds columns of a weight that is codes.
fn round_weight(gpu: &mut Gpu, w: &Weight, part: Columns, to: Operand) {
    let args = weights::planes(gpu, Args::new(), w).span(gpu, to.codes).span(gpu, to.scales);
    let args = part.args(args, to).u32(w.shape.group.trailing_zeros());
    let kernel = weights::kernel(codec_kernels!("round_weight_int8"), w);
    // SAFETY: the parameters of the kernel for this codec, which reads columns of all rows of the planes, which `planes` checked,
    // and writes a row of codes and a float a group for each column, for which `to` has room.
    unsafe { gpu.launch(kernel, part.grid(), 128, 0, &args) };
}
