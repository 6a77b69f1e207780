//! LAE's accumulation (arXiv 2303.10070): the offline module of an adapter follows the one that is trained.

use crate::backend::ops::Precision;
use crate::backend::{Backend, Param};
use crate::model::Model;

/// `offline = keep offline + (1 - keep) online` for every tensor of an adapter that has both modules, in float32.
pub fn accumulate(model: &Model, backend: &mut dyn Backend, keep: f64) {
    if keep == 1.0 {
        return;
    }
    for (online, offline) in modules(model) {
        let values = offline.weight.data;
        if keep == 0.0 {
            // Whatever it held: it may be nothing yet.
            backend.zero(values);
        } else {
            backend.scale(values, keep as f32, Precision::F32);
        }
        backend.add_weight(online, values, (1.0 - keep) as f32);
    }
}

/// The tensors of the module that is trained, each with that of the offline module.
fn modules(model: &Model) -> impl Iterator<Item = (&Param, &Param)> {
    let of = |offline: bool| {
        let tensors = model.specs.iter().zip(&model.stored);
        let wanted = move |trained: bool| trained != offline;
        let tensors = tensors.filter(move |(spec, _)| spec.kind.is_adapter() && wanted(spec.kind.is_trained_adapter()));
        tensors.map(|(_, param)| param)
    };
    // Both are the same list.
    of(false).zip(of(true))
}
