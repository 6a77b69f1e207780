//! Buffers of backward.

use super::blocks::Shapes;
use crate::memory::{ALIGN, Category, Lifetime, Plan, Span};
use crate::model::params::READ_PLANES;
use crate::model::table::{Entry, block_entries};
use crate::model::{GradBuffer, Settings};

/// Buffers of backward; empty without training.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct GradWork {
    /// Gradient of the residual stream `[T, hidden]`.
    pub dx: Span,
    /// Gradient of the head's input `[T, hidden]`.
    pub dxn: Span,
    /// Logits of one chunk, computed again for a tied head's gradient.
    pub logits: Span,
    /// Gradient of a norm's output `[M, hidden]`, or of the heads' output `[M, H, D]`.
    pub dn: Span,
    /// Gradient of `act` `[M, intermediate]`.
    pub dact: Span,
    pub dq: Span,
    pub dk: Span,
    pub dv: Span,
    /// The gradient of the untied head, of the embedding, and of the last gain, float32.
    pub head: Span,
    pub embedding: Span,
    pub final_norm: Span,
    /// Workspace of an update, float32: the largest that a rule asks for.
    pub update: Span,
    /// A block's passes over its micro-batches, and in each the float32 gradients that it forms, in the order of the
    /// block's parameters. One micro-batch needs one pass, whose gradients are consumed one by one and share bytes.
    pub passes: Vec<Vec<Option<Span>>>,
    /// The gradient of a gain that a pass does not want.
    pub unwanted: Span,
    /// Of a micro-batch: a copy of `dx`, for passes before a block's last.
    pub trial: Span,
    /// Data, scales and offsets of a block's weights before its first update, for its later passes.
    pub before: Vec<[Span; 3]>,
}

/// Adds them to the plan; `logits` are the bytes of a chunk.
pub(super) fn place(
    plan: &mut Plan,
    settings: &Settings,
    entries: &[Entry],
    shapes: &Shapes,
    logits: usize,
) -> GradWork {
    let &Shapes { tokens, micro, h, q, f, kv, bytes, layers, .. } = shapes;
    let (head, end) = (layers + 1, 2 * layers + 2);
    let (at_head, at_end) = (Lifetime { from: head, to: head }, Lifetime { from: end, to: end });
    let blocks = Lifetime { from: head + 1, to: end - 1 };
    let parted = micro < tokens;
    let passes = passes(settings, entries, parted);
    let mut rows =
        |name: &str, rows: usize, width: usize, life| plan.add(name, Category::Activations, rows * width * bytes, life);
    let mut grad = GradWork {
        dx: rows("gradient of the stream", tokens, h, Lifetime { from: head, to: end }),
        dxn: rows("gradient of the head's input", tokens, h, at_head),
        dn: rows("gradient of a norm", micro, h.max(q), blocks),
        dact: rows("gradient of an activation", micro, f, blocks),
        dq: rows("gradient of queries", micro, q, blocks),
        dk: rows("gradient of keys", micro, kv, blocks),
        dv: rows("gradient of values", micro, kv, blocks),
        trial: rows("gradient of the stream, on trial", if passes.len() > 1 { micro } else { 0 }, h, blocks),
        ..GradWork::default()
    };
    if settings.model.tied {
        grad.logits = plan.add("logits of a chunk, again", Category::Scratch, logits, at_end);
    }
    let table = 4 * settings.model.vocab * settings.model.hidden;
    let mut floats = |name: &str, bytes, life| plan.add(name, Category::Gradient, bytes, life);
    if !settings.model.tied {
        grad.head = floats("head's gradient", table, at_head);
    }
    grad.embedding = floats("embedding's gradient", table, at_end);
    grad.final_norm = floats("final norm's gradient", 4 * settings.model.hidden, at_head);
    let workspace = entries.iter().map(|entry| 4 * entry.workspace).max().unwrap_or(0);
    grad.update = plan.add("workspace of an update", Category::Scratch, workspace, Lifetime { from: head, to: end });
    place_passes(plan, entries, (passes, parted), blocks, &mut grad);
    grad
}

/// Which of a block's parameters get their gradients in which pass.
fn passes(settings: &Settings, entries: &[Entry], parted: bool) -> Vec<Vec<usize>> {
    let block = block_entries(entries);
    let all: Vec<usize> = (0..block.len()).collect();
    if !parted || settings.execution.grad_buffer != GradBuffer::Tensor {
        return vec![all];
    }
    let (vectors, mut matrices): (Vec<_>, Vec<_>) = all.into_iter().partition(|&i| block[i].role.is_vector());
    let size = |i: usize| block[i].shape.len();
    let largest = matrices.iter().map(|&i| size(i)).max().unwrap_or(0);
    // In backward's order, so that the passes of the feed-forward block need not go on to the attention.
    matrices.reverse();
    let mut passes: Vec<Vec<usize>> = Vec::new();
    for i in matrices {
        match passes.last_mut().filter(|pass| pass.iter().map(|&j| size(j)).sum::<usize>() + size(i) <= largest) {
            Some(pass) => pass.push(i),
            None => passes.push(vec![i]),
        }
    }
    // A gain's gradient is formed wherever its norm's is; the last pass goes through all of the block.
    if let Some(last) = passes.last_mut() {
        last.extend(vectors);
    }
    passes
}

fn place_passes(
    plan: &mut Plan,
    entries: &[Entry],
    (passes, parted): (Vec<Vec<usize>>, bool),
    life: Lifetime,
    grad: &mut GradWork,
) {
    let block = block_entries(entries);
    let mut floats = |name: String, count: usize| plan.add(name, Category::Gradient, 4 * count, life);
    let longest = |vector: bool| {
        let of_kind = block.iter().filter(|entry| entry.role.is_vector() == vector);
        of_kind.map(|entry| entry.shape.len()).max().unwrap_or(0)
    };
    grad.unwanted = floats("a gain's gradient, unwanted".into(), if passes.len() > 1 { longest(true) } else { 0 });
    if !parted {
        let (matrix, vector) =
            (floats("a matrix's gradient".into(), longest(false)), floats("a vector's gradient".into(), longest(true)));
        let shared = |entry: &Entry| if entry.role.is_vector() { vector } else { matrix };
        grad.passes = vec![block.iter().map(|entry| Some(shared(entry).head(4 * entry.shape.len()))).collect()];
        return;
    }
    let name = |entry: &Entry, what: &str| format!("{} {what}", entry.role.name().replacen("layers.0", "layers.*", 1));
    let spread = |pass: &[usize], spans: &mut dyn FnMut(usize) -> Span| {
        let mut all = vec![None; block.len()];
        pass.iter().for_each(|&i| all[i] = Some(spans(i)));
        all
    };
    if let [all] = passes.as_slice() {
        grad.passes = vec![spread(all, &mut |i| floats(name(&block[i], "gradient"), block[i].shape.len()))];
        return;
    }
    // Passes follow each other: one buffer for the matrices of each.
    let bytes = |i: usize| (4 * block[i].shape.len()).next_multiple_of(ALIGN);
    let matrices = |pass: &Vec<usize>| pass.iter().filter(|&&i| !block[i].role.is_vector()).map(|&i| bytes(i)).sum();
    let most: usize = passes.iter().map(matrices).max().unwrap_or(0);
    let matrix = floats("a pass's matrix gradients".into(), most / 4);
    for pass in &passes {
        let mut from = 0;
        grad.passes.push(spread(pass, &mut |i| {
            let len = block[i].shape.len();
            if block[i].role.is_vector() {
                return floats(name(&block[i], "gradient"), len);
            }
            from += bytes(i);
            matrix.part(from - bytes(i), 4 * len)
        }));
    }
    grad.before = block
        .iter()
        .map(|entry| {
            let name = name(entry, "before");
            READ_PLANES.map(|plane| {
                let bytes = entry.format.plane_bytes(plane, entry.shape);
                plan.add(name.clone(), Category::Weights, bytes, life)
            })
        })
        .collect();
}
