//! Where the gradients of parameters go while backward runs over micro-batches.

use super::context::Context;
use super::spec::ParamSpec;
use crate::backend::{Accumulate, Backend, Param};
use crate::memory::Span;

/// Receives each parameter with its complete gradient (float32, unpadded), which it may overwrite.
pub type Apply<'a> = dyn FnMut(&mut dyn Backend, &Param, Span) + 'a;

/// Gradients of some neighbouring parameters, while one micro-batch is in hand.
pub(super) struct GradSink<'a, 'b> {
    /// The parameters as `apply` changes them, and what is known of them.
    pub params: &'a [Param],
    pub specs: &'a [ParamSpec],
    /// The buffers of those whose gradients are formed now.
    pub grads: &'a [Option<Span>],
    /// For the gains of norms, whose gradients are formed with that of the input, wanted or not.
    pub discarded: Span,
    /// The first micro-batch overwrites, later ones add.
    pub accumulate: Accumulate,
    /// Whether this is the last micro-batch, after which gradients are complete.
    pub last: bool,
    pub apply: &'a mut Apply<'b>,
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

    /// A micro-batch's share was added to the gradient of `param`: after the last it is handed to `apply`.
    pub fn add(&mut self, cx: &mut Context<'_>, param: &Param) {
        if let (true, Some(grad)) = (self.last, self.grad(param)) {
            let changed = &self.params[self.index(param)];
            (self.apply)(cx.backend, changed, grad);
        }
    }

    /// The same of an adapter's tensor, whose gradient has a place of its own.
    pub fn add_adapter(&mut self, cx: &mut Context<'_>, param: &Param, grad: Span) {
        if self.last {
            (self.apply)(cx.backend, param, grad);
        }
    }
}
