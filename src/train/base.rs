//! The frozen base of a run that trains an adapter.

use crate::backend::{Backend, Param};
use crate::format::Fingerprint;
use crate::memory::{MappedFile, Place, Span};
use crate::model::{ParamSpec, READ_PLANES, place_param};

/// A base model in a file, which is read and never written.
#[derive(Clone)]
pub struct FrozenBase {
    /// The file.
    pub file: MappedFile,
    /// Its parameters, whose planes lie in the file, in the order of their specs.
    pub params: Vec<Param>,
    /// What tells its weights from those of other models.
    pub fingerprint: Fingerprint,
}

/// Parameters as they lie in the file of a base, for a plan: where in the file does not matter to it.
pub(super) fn somewhere(specs: &[ParamSpec]) -> Vec<Param> {
    let add = |bytes| if bytes == 0 { Span::NONE } else { Span { place: Place::Mapped, offset: 0, bytes } };
    let base = specs.iter().filter(|spec| !spec.kind.is_adapter());
    base.map(|spec| place_param(spec, &mut |_, _, bytes| add(bytes))).collect()
}

impl FrozenBase {
    /// Copies its weights to where a model keeps them that cannot read them in the file.
    pub(super) fn upload(&self, stored: &[Param], backend: &mut dyn Backend) {
        for (from, to) in self.params.iter().zip(stored) {
            for plane in READ_PLANES {
                let (from, to) = (from.weight.span(plane), to.weight.span(plane));
                if !from.is_none() {
                    backend.upload(&self.file.as_ref().as_ref()[from.offset..][..from.bytes], to);
                }
            }
        }
    }
}
