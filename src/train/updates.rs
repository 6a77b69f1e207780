//! What is done with complete gradients in a step: they are learned, one by one or several at once, or looked at.

use super::orthogonal::OrthogonalRows;
use crate::backend::ops::Precision;
use crate::backend::{AdamUpdate, Backend, Param};
use crate::memory::Span;
use crate::model::ParamSpec;
use crate::optim::{Groups, StepInfo};

/// Updates that are made at once at most; a block of a model without adapters has fewer tensors.
pub(super) const MOST_TOGETHER: usize = 32;

/// What takes complete gradients, which it may overwrite: now, or when it is told that they do not stay. A function of
/// backend, parameter and gradient takes each now.
pub(super) trait Taker {
    /// One more.
    fn take(&mut self, backend: &mut dyn Backend, param: &Param, grad: Span);

    /// Something is written to `grad` next.
    fn overwrites(&mut self, backend: &mut dyn Backend, grad: Span) {
        let _ = (backend, grad);
    }

    /// Something is written to all that were taken, or their parameters are read or moved.
    fn finish(&mut self, backend: &mut dyn Backend) {
        let _ = backend;
    }
}

impl<F: FnMut(&mut dyn Backend, &Param, Span)> Taker for F {
    fn take(&mut self, backend: &mut dyn Backend, param: &Param, grad: Span) {
        self(backend, param, grad);
    }
}

/// Learns gradients by the rules of a run. Updates that are one operation each are made at once as far as their gradients
/// stay: in the order in which they came, and to the bytes of one after the other.
pub(super) struct Updates<'a> {
    pub groups: &'a Groups,
    /// Of all parameters.
    pub specs: &'a [ParamSpec],
    pub orthogonal: &'a mut Option<OrthogonalRows>,
    pub workspace: Span,
    pub at: &'a StepInfo,
    /// What gradients are multiplied by.
    pub factor: f64,
    /// What is made at once; it has room for as many as that. Without room each update is made when its gradient comes.
    pub waiting: &'a mut Vec<AdamUpdate>,
    /// Nothing is changed: what is between the updates is rehearsed.
    pub rehearsal: bool,
}

impl Updates<'_> {
    /// Does what has other numbers in each step, so that what is before and after it can be graphs.
    fn apart(&mut self, backend: &mut dyn Backend, work: impl FnOnce(&mut Self, &mut dyn Backend)) {
        backend.cut_graph();
        if !self.rehearsal {
            work(self, backend);
            backend.cut_graph();
        }
    }
}

impl Taker for Updates<'_> {
    fn take(&mut self, backend: &mut dyn Backend, param: &Param, grad: Span) {
        let spec = &self.specs[param.id as usize];
        if self.orthogonal.is_some() || self.factor < 1.0 {
            self.apart(backend, |this, backend| {
                if let Some(rows) = this.orthogonal {
                    rows.apply(backend, spec, param, grad);
                }
                if this.factor < 1.0 {
                    backend.scale(grad, this.factor as f32, Precision::F32);
                }
            });
        }
        let at = StepInfo { lr: self.at.lr * spec.rate, ..*self.at };
        match self.groups.fused(param, &at) {
            Some(args) if self.waiting.capacity() > 0 => {
                if self.waiting.len() == self.waiting.capacity() {
                    self.finish(backend);
                }
                self.waiting.push(AdamUpdate { param: *param, grad, args });
            }
            _ => {
                self.finish(backend);
                self.apart(backend, |this, backend| this.groups.step(backend, param, grad, this.workspace, &at));
            }
        }
    }

    fn overwrites(&mut self, backend: &mut dyn Backend, grad: Span) {
        if self.waiting.iter().any(|update| update.grad.overlaps(grad)) {
            self.finish(backend);
        }
    }

    fn finish(&mut self, backend: &mut dyn Backend) {
        if !self.waiting.is_empty() {
            self.apart(backend, |this, backend| backend.adam_group(this.waiting));
            self.waiting.clear();
        }
    }
}
