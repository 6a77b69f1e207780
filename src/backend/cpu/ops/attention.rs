//! Exact causal attention, in blocks of queries.
//!
//! Scores are kept transposed, `[key][query]`: the softmax over keys then runs down the rows with one query per
//! vector lane, and both products that follow read them without another transposition.

use super::attention_decode::{self as decode, attention_decode};
use super::attention_grad::{Inputs, Outputs, attention_grad};
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::exp::exp;
use crate::backend::cpu::simd::gemm::{
    COLS, Columns, Copied, DEPTH, Left, PITCH, ROWS, Sum, columns_to_panels, copy_rows, product, rows_to_panels,
};
use crate::backend::cpu::simd::isa::{Isa, madd, vectorized};
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::cpu::simd::tile::TileMut;
use crate::backend::ops::{Attention, Rope};
use crate::backend::{AttentionArgs, AttentionGradArgs, AttentionShape, MaxShapes};

/// Queries of a block: whole strips, and whole vectors.
pub(crate) const QUERIES: usize = 48;
/// One row of scores: all queries of a block for one key.
pub(crate) type Row = [f32; QUERIES];
/// A left operand that reads scores as they lie, `[key][query]`.
pub(crate) type ByKey<'a> = Left<'a, QUERIES, 1>;
/// A left operand that reads scores as if they were `[query][key]`.
pub(crate) type ByQuery<'a> = Left<'a, 1, QUERIES>;

/// Elements of the panels that hold a block of queries as columns.
pub(crate) fn query_panels(head_dim: usize) -> usize {
    QUERIES.div_ceil(COLS) * COLS * head_dim
}

/// Elements of the panels that hold `rows` rows of a head.
pub(crate) fn row_panels(rows: usize, head_dim: usize) -> usize {
    rows * head_dim.next_multiple_of(COLS)
}

/// Elements of the scores of a block against `keys` keys, whole strips of them.
pub(crate) fn scores(keys: usize) -> usize {
    keys.next_multiple_of(ROWS) * QUERIES
}

fn private(keys: usize, head_dim: usize) -> usize {
    ROWS * PITCH + query_panels(head_dim) + scores(keys) + row_panels(keys, head_dim)
}

/// Scratch of the forward pass.
pub(crate) fn need(max: &MaxShapes) -> Need {
    Need { shared: 0, private: private(max.keys, max.head_dim) }
}

impl AttentionShape {
    /// Query heads per key head.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Elements between two rows of `q`.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements between two rows of `k` or `v`.
    pub fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// The head of queries that starts at `data[0]`.
    pub(crate) fn query_head<'a>(&self, data: &'a [f32]) -> Columns<'a> {
        Columns { data, stride: self.query_width(), from: 0, count: self.head_dim }
    }

    /// The head of keys or values that starts at `data[0]`.
    pub(crate) fn key_head<'a>(&self, data: &'a [f32]) -> Columns<'a> {
        Columns { data, stride: self.key_width(), from: 0, count: self.head_dim }
    }

    /// What scores are multiplied by.
    pub(crate) fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    pub(crate) fn check(&self, q: usize, k: usize, v: usize, lse: usize, segment_start: Option<&[u32]>) {
        assert!(self.heads.is_multiple_of(self.kv_heads), "{} heads share {} key heads", self.heads, self.kv_heads);
        assert!(
            self.start + self.queries <= self.capacity,
            "keys up to {} of {}",
            self.start + self.queries,
            self.capacity
        );
        assert_eq!(q, self.batch * self.queries * self.query_width(), "elements of q");
        assert_eq!([k, v], [self.batch * self.capacity * self.key_width(); 2], "elements of k and v");
        assert_eq!(lse, self.batch * self.heads * self.queries, "elements of lse");
        assert!(
            segment_start.is_none_or(|start| start.len() == self.batch * self.queries),
            "elements of the segments' starts"
        );
    }
}

/// Panels of `rows` queries as columns, from a block that starts at `block[0]`.
pub(crate) fn as_columns(isa: Isa, block: &[f32], shape: &AttentionShape, rows: usize, panels: &mut [f32]) {
    columns_to_panels(isa, block, shape.query_width(), rows, shape.head_dim, shape.head_dim * COLS, panels);
}

/// `scores[key][query] = sum over d of keys[key][d] panels[d][query]` for `out`'s rows and columns.
pub(crate) fn score(
    isa: Isa,
    keys: &[f32],
    panels: &[f32],
    shape: &AttentionShape,
    mut out: TileMut<'_>,
    strip: &mut [f32],
) {
    let (width, head_dim) = (shape.key_width(), shape.head_dim);
    for key in (0..out.rows()).step_by(ROWS) {
        let (rows, queries) = (ROWS.min(out.rows() - key), out.cols());
        for from in (0..head_dim).step_by(DEPTH) {
            let depth = DEPTH.min(head_dim - from);
            copy_rows(isa, &keys[key * width..], width, rows, from, depth, strip);
            let (left, right): (Copied<'_>, _) = (Left::whole(strip), &panels[from * COLS..]);
            product(
                isa,
                left,
                right,
                head_dim * COLS,
                depth,
                out.part(key, 0, rows, queries),
                if from > 0 { Sum::Added } else { Sum::New },
            );
        }
    }
}

/// The limits that segments set to the keys that a block of queries sees.
pub(crate) struct Sight {
    /// The first key that any of the queries sees; no earlier one is looked at.
    pub low: usize,
    /// The first key that each query sees, counted from `low`.
    from: [u32; QUERIES],
    /// The largest of those.
    most: usize,
}

impl Sight {
    /// Of the queries whose segments start at `segment_start`; without it, all keys are visible.
    pub(crate) fn new(segment_start: Option<&[u32]>) -> Self {
        let segment_start = segment_start.unwrap_or_default();
        let low = segment_start.iter().copied().min().unwrap_or(0);
        let mut from = [0; QUERIES];
        from.iter_mut().zip(segment_start).for_each(|(from, start)| *from = start - low);
        let most = from.iter().copied().max().unwrap_or(0);
        Self { low: low as usize, from, most: most as usize }
    }

    /// Makes the scores of invisible keys vanish in a softmax; `scores` begins at key `low`.
    pub(crate) fn hide(&self, scores: &mut [Row]) {
        for (key, row) in scores[..self.most].iter_mut().enumerate() {
            for (score, &from) in row.iter_mut().zip(&self.from) {
                *score = if key < from as usize { f32::NEG_INFINITY } else { *score };
            }
        }
    }
}

impl Attention for Cpu {
    fn attention(&mut self, args: &AttentionArgs) {
        let (isa, mut scratch, mut slices) = self.begin();
        let shape = args.shape;
        let [q, k, v] = [args.q, args.k, args.v].map(|span| slices.read::<f32>(span));
        let [out, lse] = [args.out, args.lse].map(|span| slices.write::<f32>(span));
        let segment_start = args.segment_start.map(|span| slices.read::<u32>(span));
        shape.check(q.len(), k.len(), v.len(), lse.len(), segment_start);
        assert_eq!(out.len(), q.len(), "elements of out");
        let AttentionShape { batch, queries, start, capacity, heads, head_dim, .. } = shape;
        if decode::few(&shape) {
            let inputs = decode::Inputs { q, k, v, segment_start };
            return attention_decode(isa, scratch, inputs, out, lse, shape);
        }
        let (group, width) = (shape.group(), shape.group() * head_dim);
        let (_, mut areas) = scratch.split(Need { shared: 0, private: private(start + queries, head_dim) });
        // One task: a block of queries, all heads that share one head of keys.
        let outs =
            TileMut::new(out, batch * queries, heads * head_dim, heads * head_dim).grid(queries, width).flat_map(
                |(row, col, tile)| tile.grid(QUERIES, width).map(move |(first, _, tile)| (row, col, first, tile)),
            );
        let lses = TileMut::new(lse, batch * heads, queries, queries).grid(group, QUERIES);
        areas.run(outs.zip(lses), |((row, col, begin, mut out), (_, _, mut lse)), area| {
            let rows = out.rows();
            let sight = Sight::new(segment_start.map(|start| &start[row + begin..][..rows]));
            let keys = start + begin + rows - sight.low;
            let from = (row / queries * capacity + sight.low) * shape.key_width() + col / group;
            let (strip, area) = area.split_at_mut(ROWS * PITCH);
            let (columns, area) = area.split_at_mut(query_panels(head_dim));
            let (scored, area) = area.split_at_mut(scores(keys));
            rows_to_panels(isa, shape.key_head(&v[from..]), keys, keys * COLS, area);
            for head in 0..group {
                let block = &q[(row + begin) * shape.query_width() + col + head * head_dim..];
                as_columns(isa, block, &shape, rows, columns);
                score(isa, &k[from..], columns, &shape, TileMut::new(scored, keys, rows, QUERIES), strip);
                let block = &mut scored.as_chunks_mut().0[..keys];
                sight.hide(block);
                let soft = softmax(isa, block, start + begin - sight.low, shape.scale());
                let left: ByQuery<'_> = Left::whole(scored);
                product(isa, left, area, keys * COLS, keys, out.part(0, head * head_dim, rows, head_dim), Sum::New);
                for i in 0..rows {
                    out.part(i, head * head_dim, 1, head_dim).row(0).iter_mut().for_each(|x| *x *= soft.inv_sum[i]);
                }
                lse.row(head).copy_from_slice(&soft.lse[..rows]);
            }
        });
    }

    fn attention_grad(&mut self, args: &AttentionGradArgs) {
        let (isa, scratch, mut slices) = self.begin();
        let [q, k, v] = [args.q, args.k, args.v].map(|span| slices.read::<f32>(span));
        let [lse, dout] = [args.lse, args.dout].map(|span| slices.read::<f32>(span));
        let segment_start = args.segment_start.map(|span| slices.read::<u32>(span));
        let [dq, dk, dv] = [args.dq, args.dk, args.dv].map(|span| slices.write::<f32>(span));
        let delta = args.delta.map(|span| slices.write::<f32>(span));
        let inputs = Inputs { q, k, v, lse, dout, segment_start };
        attention_grad(isa, scratch, inputs, Outputs { dq, dk, dv, delta }, args.shape);
        args.rotations().for_each(|(x, table, rotation)| self.rope(x, table, rotation, None));
    }
}

/// Results of a softmax other than its numerators.
struct Softmax {
    inv_sum: Row,
    lse: Row,
}

vectorized! {
    /// Replaces the scores by the numerators of their softmax along the keys. Query i sees the first
    /// `before + i + 1` keys.
    fn softmax(scores: &mut [Row], before: usize, scale: f32) -> Softmax {
        let mut max = [f32::NEG_INFINITY; QUERIES];
        let (seen, partly) = scores.split_at_mut(before.min(scores.len()));
        for row in seen.iter() {
            for i in 0..QUERIES {
                max[i] = if row[i] > max[i] { row[i] } else { max[i] };
            }
        }
        for (key, row) in partly.iter_mut().enumerate() {
            for i in 0..QUERIES {
                row[i] = if key <= i { row[i] } else { f32::NEG_INFINITY };
                max[i] = if row[i] > max[i] { row[i] } else { max[i] };
            }
        }
        let mut sum = [0.0; QUERIES];
        for row in scores {
            for i in 0..QUERIES {
                row[i] = exp::<FMA>((row[i] - max[i]) * scale);
                sum[i] += row[i];
            }
        }
        let mut soft = Softmax { inv_sum: [0.0; QUERIES], lse: [0.0; QUERIES] };
        for i in 0..QUERIES {
            soft.inv_sum[i] = 1.0 / sum[i];
            soft.lse[i] = madd::<FMA>(max[i], scale, sum[i].ln());
        }
        soft
    }
}
