//! Buffers of backward.

use super::block::Shapes;
use crate::memory::{ALIGN, Category, Lifetime, Plan, Span};
use crate::model::params::READ_PLANES;
use crate::model::spec::{ParamSpec, trained_block_specs};
use crate::model::{AdapterParam, AdapterSite, GradBuffer, MatrixSite, ParamKind, Settings};
use std::collections::HashMap;

/// Buffers of backward; empty without training.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct GradBuffers {
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
    /// Of a micro-batch, float32 `[B, H, S]`: what a prefix and the text's attention tell each other; only with a prefix.
    pub delta: Span,
    /// The gradient of the untied head, of the embedding, and of the last gain, float32.
    pub head: Span,
    pub embedding: Span,
    pub final_norm: Span,
    /// Workspace of an update, float32: the largest that a rule asks for.
    pub update: Span,
    /// A block's passes over its micro-batches, and in each the float32 gradients that it forms, in the order of the
    /// block's parameters. One micro-batch of one process needs one pass, whose gradients are consumed one by one, or as
    /// many at once as lie side by side, and share bytes.
    pub passes: Vec<Vec<Option<Span>>>,
    /// The float32 gradients of an adapter's tensors, in the order of their specs; those of different blocks share bytes, and
    /// those beside embedding and head are there while these have their turn.
    pub adapter: Vec<Span>,
    /// Number of the first of these tensors.
    pub first_adapter: u32,
    /// The gradient of a gain that a pass does not want.
    pub discarded: Span,
    /// Of a micro-batch: a copy of `dx`, for passes before a block's last.
    pub dx_scratch: Span,
    /// Data, scales and offsets of a block's weights before its first update, for its later passes.
    pub frozen_copy: Vec<[Span; 3]>,
}

impl GradBuffers {
    /// Where the gradient of an adapter's tensor is summed.
    pub(in crate::model) fn of_adapter(&self, id: u32) -> Span {
        self.adapter[(id - self.first_adapter) as usize]
    }
}

/// Adds them to the plan; `logits` are the bytes of a chunk, and `queues` is what the device says of itself.
pub(super) fn place(
    plan: &mut Plan,
    settings: &Settings,
    specs: &[ParamSpec],
    shapes: &Shapes,
    (logits, queues): (usize, bool),
) -> GradBuffers {
    let &Shapes { tokens, micro, h, q, f, bytes, layers, .. } = shapes;
    let (head, end) = (layers + 1, 2 * layers + 2);
    let (at_head, at_end) = (Lifetime { from: head, to: head }, Lifetime { from: end, to: end });
    let blocks = Lifetime { from: head + 1, to: end - 1 };
    // Gradients that other ranks add to are complete when their pass ends.
    let split = micro < tokens || settings.execution.ranks > 1;
    let block = trained_block_specs(specs);
    let passes = passes(settings, &block, split);
    let [dq, dk, dv] = shapes.projections(plan, "gradients of queries, keys and values".into(), micro, blocks);
    let mut rows =
        |name: &str, rows: usize, width: usize, life| plan.add(name, Category::Activations, rows * width * bytes, life);
    let mut grad = GradBuffers {
        dx: rows("gradient of the residual stream", tokens, h, Lifetime { from: head, to: end }),
        dxn: rows("gradient of the head's input", tokens, h, at_head),
        dn: rows("gradient of a norm", micro, h.max(q), blocks),
        dact: rows("gradient of an activation", micro, f, blocks),
        dq,
        dk,
        dv,
        dx_scratch: rows(
            "gradient of the residual stream, scratch",
            if passes.len() > 1 { micro } else { 0 },
            h,
            blocks,
        ),
        ..GradBuffers::default()
    };
    let trains = |kind| settings.trainable.contains(kind);
    if settings.model.tied && trains(ParamKind::Embedding) {
        grad.logits = plan.add("logits of a chunk, again", Category::Scratch, logits, at_end);
    }
    let table = 4 * settings.model.vocab * settings.model.hidden;
    let mut floats = |name: &str, bytes, life| plan.add(name, Category::Gradient, bytes, life);
    if !settings.model.tied && trains(ParamKind::Head) {
        grad.head = floats("head's gradient", table, at_head);
    }
    let embedding = if trains(ParamKind::Embedding) { table } else { 0 };
    grad.embedding = floats("embedding's gradient", embedding, at_end);
    grad.final_norm = floats("final norm's gradient", 4 * settings.model.hidden, at_head);
    let workspace = specs.iter().map(|spec| 4 * spec.workspace).max().unwrap_or(0);
    grad.update = plan.add("workspace of an update", Category::Scratch, workspace, Lifetime { from: head, to: end });
    let delta = if settings.prefix_length() > 0 { 4 * micro * settings.model.heads } else { 0 };
    grad.delta = plan.add("sums of a prefix's rows", Category::Activations, delta, blocks);
    let frozen = specs.iter().any(|spec| spec.kind.block().is_some() && !spec.trainable);
    place_adapters(plan, specs, [at_head, blocks, at_end], &mut grad);
    if queues
        && !split
        && let Some(spans) = place_together(plan, &block, blocks, grad.head.bytes.max(grad.embedding.bytes))
    {
        grad.passes = vec![spans];
        return grad;
    }
    place_passes(plan, &block, (passes, split, frozen), blocks, &mut grad);
    grad
}

/// All gradients of a block's adapters exist at once: a few megabytes. So do those of the head's, and of the embedding's.
fn place_adapters(plan: &mut Plan, specs: &[ParamSpec], lives: [Lifetime; 3], grad: &mut GradBuffers) {
    let trained = || specs.iter().filter(|spec| spec.kind.is_adapter() && spec.trainable);
    let turn = |spec: &ParamSpec| match spec.kind {
        ParamKind::Adapter(AdapterParam { site: AdapterSite::Matrix(MatrixSite::Head), .. }) => 0,
        ParamKind::Adapter(AdapterParam { site: AdapterSite::Matrix(MatrixSite::Embedding), .. }) => 2,
        _ => 1,
    };
    let mut used: HashMap<(usize, Option<usize>), usize> = HashMap::new();
    let (mut most, mut parts) = ([0; 3], Vec::new());
    for spec in trained() {
        let (turn, bytes) = (turn(spec), 4 * spec.shape.len());
        let end = used.entry((turn, spec.kind.block())).or_default();
        parts.push((turn, *end, bytes));
        *end += bytes.next_multiple_of(ALIGN);
        most[turn] = most[turn].max(*end);
    }
    let all = [0, 1, 2].map(|turn| {
        let name = format!("gradients of {} adapters", ["the head's", "a block's", "the embedding's"][turn]);
        plan.add(name, Category::Gradient, most[turn], lives[turn])
    });
    grad.first_adapter = trained().next().map_or(0, |spec| spec.id);
    grad.adapter = parts.into_iter().map(|(turn, from, bytes)| all[turn].part(from, bytes)).collect();
}

/// Which of a block's parameters get their gradients in which pass.
fn passes(settings: &Settings, block: &[ParamSpec], split: bool) -> Vec<Vec<usize>> {
    let all: Vec<usize> = (0..block.len()).filter(|&i| block[i].trainable).collect();
    if !split || settings.execution.grad_buffer != GradBuffer::Tensor {
        return vec![all];
    }
    let (vectors, mut matrices): (Vec<_>, Vec<_>) = all.into_iter().partition(|&i| block[i].kind.is_vector());
    let size = |i: usize| block[i].shape.len();
    let largest = matrices.iter().map(|&i| size(i)).max().unwrap_or(0);
    // In backward's order, so that the passes of the MLP need not go on to the attention.
    matrices.reverse();
    let mut passes: Vec<Vec<usize>> = Vec::new();
    for i in matrices {
        match passes.last_mut().filter(|pass| pass.iter().map(|&j| size(j)).sum::<usize>() + size(i) <= largest) {
            Some(pass) => pass.push(i),
            None => passes.push(vec![i]),
        }
    }
    // A gain's gradient is formed wherever its norm's is; the last pass goes through all of the block.
    match passes.last_mut() {
        Some(last) => last.extend(vectors),
        None => passes.push(vectors),
    }
    passes
}

/// Gradients of a block that are there together, as many as fit into memory that the step takes anyway: neither the arena nor
/// what a plan says of gradients, of which that of a table has `table` bytes, becomes any larger. Nothing where that has no
/// more room than one gradient of each kind. In backward's order; behind the last that fits it goes on from the front.
fn place_together(plan: &mut Plan, block: &[ParamSpec], life: Lifetime, table: usize) -> Option<Vec<Option<Span>>> {
    let bytes = |spec: &ParamSpec| (4 * spec.shape.len()).next_multiple_of(ALIGN);
    let trained = |vector: bool| block.iter().filter(move |spec| spec.trainable && spec.kind.is_vector() == vector);
    let least: usize = [false, true].map(|vector| trained(vector).map(bytes).max().unwrap_or(0)).iter().sum();
    let all: usize = block.iter().filter(|spec| spec.trainable).map(bytes).sum();
    let room = all.min(table).min(plan.longest_gap(life)) / ALIGN * ALIGN;
    if room <= least || block.iter().any(|spec| !spec.trainable) {
        return None;
    }
    let buffer = plan.add("gradients updated together", Category::Gradient, room, life);
    let (mut spans, mut end) = (vec![None; block.len()], 0);
    // Neighbours of one shape in their own order: so a device joins the products that form them.
    let mut first = block.len();
    for alike in block.chunk_by(|a, b| a.shape == b.shape).rev() {
        first -= alike.len();
        for (span, spec) in spans[first..].iter_mut().zip(alike) {
            let from = if end + bytes(spec) <= room { end } else { 0 };
            *span = Some(buffer.part(from, 4 * spec.shape.len()));
            end = from + bytes(spec);
        }
    }
    Some(spans)
}

fn place_passes(
    plan: &mut Plan,
    block: &[ParamSpec],
    (passes, split, frozen): (Vec<Vec<usize>>, bool, bool),
    life: Lifetime,
    grad: &mut GradBuffers,
) {
    let mut floats = |name: String, count: usize| plan.add(name, Category::Gradient, 4 * count, life);
    let longest = |wanted: &dyn Fn(&ParamSpec) -> bool| {
        block.iter().filter(|spec| wanted(spec)).map(|spec| spec.shape.len()).max().unwrap_or(0)
    };
    let discards = passes.len() > 1 || frozen;
    let discarded = if discards { longest(&|spec| spec.kind.is_vector()) } else { 0 };
    grad.discarded = floats("a gain's gradient, discarded".into(), discarded);
    if !split {
        let matrix = longest(&|spec| spec.trainable && !spec.kind.is_vector());
        let vector = longest(&|spec| spec.trainable && spec.kind.is_vector());
        let (matrix, vector) =
            (floats("a matrix's gradient".into(), matrix), floats("a vector's gradient".into(), vector));
        let shared = |spec: &ParamSpec| {
            let buffer = if spec.kind.is_vector() { vector } else { matrix };
            spec.trainable.then(|| buffer.head(4 * spec.shape.len()))
        };
        grad.passes = vec![block.iter().map(shared).collect()];
        return;
    }
    let name =
        |spec: &ParamSpec, what: &str| format!("{} {what}", spec.kind.name().replacen("layers.0", "layers.*", 1));
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
    let matrices = |pass: &Vec<usize>| pass.iter().filter(|&&i| !block[i].kind.is_vector()).map(|&i| bytes(i)).sum();
    let most: usize = passes.iter().map(matrices).max().unwrap_or(0);
    let matrix = floats("a pass's matrix gradients".into(), most / 4);
    for pass in &passes {
        let mut from = 0;
        grad.passes.push(spread(pass, &mut |i| {
            let len = block[i].shape.len();
            if block[i].kind.is_vector() {
                return floats(name(&block[i], "gradient"), len);
            }
            from += bytes(i);
            matrix.part(from - bytes(i), 4 * len)
        }));
    }
    grad.frozen_copy = block
        .iter()
        .map(|spec| {
            let name = name(spec, "frozen copy");
            READ_PLANES.map(|plane| {
                let bytes = spec.format.plane_bytes(plane, spec.shape);
                plan.add(name.clone(), Category::Weights, bytes, life)
            })
        })
        .collect();
}
