//! Where the gradients of parameters go while backward runs over micro-batches.

use super::context::Context;
use super::spec::ParamSpec;
use crate::backend::{Accumulate, Backend, Param};
use crate::memory::Span;

/// What becomes of gradients (float32, unpadded): a function of backend, parameter and complete gradient, which it may
/// overwrite, is all that one process needs.
///
/// Of several ranks each sees its own rows of a batch. A gradient is one chain of sums in the order of the tokens, so a rank
/// begins with the sums of the rank before it and passes on what it ends with; the last rank's are complete.
pub trait Gradients {
    /// Before a parameter's gradient is summed in `grad`: whether `grad` holds sums to go on with.
    fn begin(&mut self, backend: &mut dyn Backend, grad: Span) -> Accumulate {
        let _ = (backend, grad);
        Accumulate::No
    }

    /// The sums in `grad` are all that the rows of this rank add.
    fn pass_on(&mut self, backend: &mut dyn Backend, grad: Span) {
        let _ = (backend, grad);
    }

    /// The same, but all rows add something else to `grad` before it is complete: afterwards it holds the sums to go on with.
    fn pass_round(&mut self, backend: &mut dyn Backend, grad: Span) {
        let _ = (backend, grad);
    }

    /// After [`Gradients::pass_on`]: the parameter may be updated. Either it is now, or when its pass [ends](Gradients::end),
    /// or when another gradient [begins](Gradients::begin) where this one lies; `grad` is left alone until then.
    fn apply(&mut self, backend: &mut dyn Backend, param: &Param, grad: Span);

    /// The end of a pass: the buffers of its gradients are used for others now.
    fn end(&mut self, backend: &mut dyn Backend) {
        let _ = backend;
    }
}

impl<F: FnMut(&mut dyn Backend, &Param, Span)> Gradients for F {
    fn apply(&mut self, backend: &mut dyn Backend, param: &Param, grad: Span) {
        self(backend, param, grad);
    }
}

/// Receives each parameter with its gradient.
pub type Apply<'a> = dyn Gradients + 'a;

/// Gradients of some neighbouring parameters, while one micro-batch is in hand.
pub(super) struct GradSink<'a, 'b> {
    /// The parameters as `apply` changes them, and what is known of them.
    pub params: &'a [Param],
    pub specs: &'a [ParamSpec],
    /// The buffers of those whose gradients are formed now.
    pub grads: &'a [Option<Span>],
    /// For the gains of norms, whose gradients are formed with that of the input, wanted or not.
    pub discarded: Span,
    /// Whether this is the first micro-batch; later ones add to its sums.
    pub first: bool,
    /// Whether this is the last micro-batch, after which gradients are complete.
    pub last: bool,
    pub apply: &'a mut Apply<'b>,
}

impl<'a, 'b> GradSink<'a, 'b> {
    /// Of what stands beside the embedding or the head, and in no block.
    pub fn outside(first: bool, last: bool, apply: &'a mut Apply<'b>) -> Self {
        Self { params: &[], specs: &[], grads: &[], discarded: Span::NONE, first, last, apply }
    }
}

impl GradSink<'_, '_> {
    fn index(&self, param: &Param) -> usize {
        (param.id - self.params[0].id) as usize
    }

    /// Where the gradient of a parameter is summed, if it is formed now. Other blocks may train what this one does not.
    pub fn grad(&self, param: &Param) -> Option<Span> {
        let index = self.index(param);
        self.grads[index].filter(|_| self.specs[index].trainable)
    }

    /// The same, or a buffer that nobody reads.
    pub fn grad_or_discarded(&self, param: &Param) -> Span {
        self.grad(param).unwrap_or(self.discarded.head(param.weight.data.bytes.min(self.discarded.bytes)))
    }

    /// Before a micro-batch's share is added to `grad`.
    pub fn begin(&mut self, cx: &mut Context<'_>, grad: Span) -> Accumulate {
        if self.first { self.apply.begin(cx.backend, grad) } else { Accumulate::Yes }
    }

    /// A micro-batch's share was added to the gradient of `param`: after the last it is handed over.
    pub fn add(&mut self, cx: &mut Context<'_>, param: &Param) {
        if let Some(grad) = self.grad(param) {
            let changed = self.params[self.index(param)];
            self.add_adapter(cx, &changed, grad);
        }
    }

    /// The same of an adapter's tensor, whose gradient has a place of its own.
    pub fn add_adapter(&mut self, cx: &mut Context<'_>, param: &Param, grad: Span) {
        if self.last {
            self.apply.pass_on(cx.backend, grad);
            self.apply.apply(cx.backend, param, grad);
        }
    }
}
