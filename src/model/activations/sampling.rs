//! The buffers of sampling. Nothing is sampled during a step, and nothing of a step outlasts it but the parameters: so
//! sampling has two ticks of its own after the last one of a step, the blocks and the head, and its buffers, the caches of
//! keys and values above all, share their bytes with everything that a step keeps.

use super::{Activations, GradBuffers, end, pitch, shapes};
use crate::backend::DeviceInfo;
use crate::memory::{Category, Lifetime, Plan, Span};
use crate::model::Settings;
use crate::model::spec::ParamSpec;

/// Adds the buffers of texts of up to `settings.execution.sampled` positions (at most `keys`) to the plan, beside those of
/// `step`; nothing if there is nothing to sample.
pub fn place_sampling(
    plan: &mut Plan,
    settings: &Settings,
    specs: &[ParamSpec],
    (step, keys): (&Activations, usize),
    backend: &dyn DeviceInfo,
) -> Option<Activations> {
    let positions = settings.execution.sampled.min(keys);
    if positions == 0 {
        return None;
    }
    let model = &settings.model;
    // A pass is no longer than a step's, for which the backend's workspace suffices.
    let tokens = step.micro_tokens.min(positions);
    let shapes = shapes(model, (tokens, tokens), backend);
    let first = end(shapes.layers, specs.iter().any(|spec| spec.trainable)) + 1;
    let (blocks, head) = (Lifetime { from: first, to: first }, Lifetime { from: first + 1, to: first + 1 });
    let text = Lifetime { from: first, to: first + 1 };
    let mut rows = |name: &str, width: usize, life| {
        plan.add(format!("sampling: {name}"), Category::Activations, tokens * width * shapes.bytes, life)
    };
    let x = rows("residual stream", shapes.h, text);
    let xn = rows("head input", shapes.h, head);
    let inv_rms = plan.add("sampling: final 1/rms", Category::Activations, 4 * tokens, head);
    let mut scratch = |name: &str, bytes| plan.add(format!("sampling: {name}"), Category::Scratch, bytes, text);
    let inputs = scratch("token ids", 4 * tokens);
    // What comes next follows from the last token alone.
    let logits = scratch("logits of a token", pitch(model.vocab, backend) * shapes.bytes);
    Some(Activations {
        tokens,
        micro_tokens: tokens,
        chunk: 1,
        kept: false,
        positions,
        inputs,
        targets: Span::NONE,
        segment_start: Span::NONE,
        losses: Span::NONE,
        blocks: shapes.cached(plan, x, positions, blocks, text),
        x,
        unpacked: Span::NONE,
        inv_rms,
        xn,
        logits,
        grads: GradBuffers::default(),
        ..step.clone()
    })
}
