//! What the matrices of each block read of a text, and from that their planes.

use super::Calibration;
use super::feed::Feed;
use super::planes::{MadePlanes, Maker};
use crate::backend::{Accumulate, Backend, Compute, MaxShapes};
use crate::checkpoint::Capacity;
use crate::error::{BackendError, ConvertError};
use crate::memory::{Category, Lifetime, Plan, Span};
use crate::model::{Batch, BlockParam, Model, ParamKind};
use crate::quant::bf16_to_f32;
use std::collections::HashMap;
use zerocopy::IntoBytes;

/// The inputs of a block's matrices in the order in which [`Model::forward_watched`] shows them, and the matrices that read
/// each.
const READERS: [&[BlockParam]; 4] = [
    &[BlockParam::Query, BlockParam::Key, BlockParam::Value],
    &[BlockParam::Output],
    &[BlockParam::Gate, BlockParam::Up],
    &[BlockParam::Down],
];

/// Tokens whose inputs are multiplied at once.
const ROWS: usize = 2048;

/// The planes of all changed matrices, by the numbers of their tensors. Block by block: the inputs of one are needed only
/// while its own matrices are made.
///
/// # Errors
/// If a device does not have the memory, or fails.
pub(super) fn calibrated(
    maker: &Maker<'_>,
    calibration: Calibration<'_>,
) -> Result<HashMap<usize, MadePlanes>, ConvertError> {
    let Calibration { model, backend, products, tokens, sequence } = calibration;
    let sequences = tokens.len() / sequence;
    let capacity = Capacity { tokens: sequences * sequence, keys: sequence, sampling: false, packing: false };
    let model = model.open(backend, capacity)?;
    let shape = &model.settings.model;
    let widths = [shape.hidden, shape.query_width(), shape.hidden, shape.intermediate];
    let mut products = Products::new(products, widths.into_iter().max().unwrap_or(0))?;
    let mut made = HashMap::new();
    let batch = Batch::whole(sequences, sequence);
    backend.upload(tokens[..batch.tokens()].as_bytes(), model.acts.inputs.head(4 * batch.tokens()));
    model.forward_watched(backend, batch, &mut |backend, block, inputs| {
        for ((readers, input), width) in READERS.iter().zip(inputs).zip(widths) {
            let changed = |entry: &&crate::model::ParamSpec| {
                let read = readers.iter().any(|&param| entry.kind == ParamKind::Block(block, param));
                read && entry.format.is_quantized() && maker.deltas.contains_key(&entry.kind)
            };
            let changed: Vec<_> = maker.entries.iter().filter(changed).collect();
            if changed.is_empty() {
                continue;
            }
            let feed = Feed::new(width, products.sum(&model, backend, input, width));
            for entry in changed {
                made.insert(entry.id as usize, maker.planes(entry, feed.as_ref()));
            }
        }
    });
    backend.status()?;
    Ok(made)
}

/// Sums of products of inputs, made by a backend of their own.
struct Products<'a> {
    backend: &'a mut dyn Backend,
    rows: Span,
    sum: Span,
}

impl<'a> Products<'a> {
    /// For inputs of up to `widest` features.
    fn new(backend: &'a mut dyn Backend, widest: usize) -> Result<Self, BackendError> {
        let mut plan = Plan::default();
        let width = widest.next_multiple_of(backend.row_multiple());
        let rows = plan.add("inputs", Category::Scratch, ROWS * width * backend.activation_bytes(), Lifetime::ALWAYS);
        let sum = plan.add("their products", Category::Scratch, 4 * widest * widest, Lifetime::ALWAYS);
        let largest = MaxShapes {
            tokens: ROWS,
            features: width,
            inputs: width,
            keys: 1,
            parameter: widest * widest,
            head_dim: 1,
            prefix: 0,
            compute: Compute::F32,
        };
        let workspace = plan.add("kernels", Category::Scratch, backend.workspace_bytes(&largest), Lifetime::ALWAYS);
        backend.allocate(plan.total(), None, workspace)?;
        Ok(Self { backend, rows, sum })
    }

    /// The sum of x xᵀ over the rows of an input of `width` features on the model's device.
    fn sum(&mut self, model: &Model, device: &dyn Backend, input: Span, width: usize) -> Vec<f32> {
        let (bytes, own) = (model.acts.activation_bytes, self.backend.activation_bytes());
        let pitch = width.next_multiple_of(model.acts.row_multiple) * bytes;
        let own_pitch = width.next_multiple_of(self.backend.row_multiple());
        assert_eq!(own, 4, "products of inputs are made in float32");
        let mut raw = vec![0; ROWS * pitch];
        let mut values = vec![0.0f32; ROWS * own_pitch];
        let sum = self.sum.head(4 * width * width);
        let tokens = input.bytes / pitch;
        for from in (0..tokens).step_by(ROWS) {
            let count = ROWS.min(tokens - from);
            device.download(input.part(from * pitch, count * pitch), &mut raw[..count * pitch]);
            for (row, out) in raw.chunks_exact(pitch).zip(values.chunks_exact_mut(own_pitch)).take(count) {
                read(&row[..width * bytes], &mut out[..width]);
            }
            let rows = self.rows.head(4 * count * own_pitch);
            self.backend.upload(values[..count * own_pitch].as_bytes(), rows);
            let accumulate = if from == 0 { Accumulate::No } else { Accumulate::Yes };
            self.backend.linear_grad_weight(rows, rows, sum, width, width, accumulate);
        }
        let mut found = vec![0.0f32; width * width];
        self.backend.download(sum, found.as_mut_bytes());
        found
    }
}

/// Activations in float32 or bfloat16.
fn read(bytes: &[u8], out: &mut [f32]) {
    if bytes.len() == 4 * out.len() {
        out.as_mut_bytes().copy_from_slice(bytes);
        return;
    }
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *out = bf16_to_f32(u16::from_le_bytes(*bytes));
    }
}
