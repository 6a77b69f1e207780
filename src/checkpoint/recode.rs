//! Weights of a file in another storage than the file's.

use super::load::Checkpoint;
use super::planes::spec;
use crate::backend::{Backend, Param};
use crate::format::{Decoder, Role, TensorSpec};
use crate::model::{ParamSpec, fill};

impl Checkpoint {
    /// Whether a parameter is stored in another way than the tensor of the file.
    pub(super) fn stores_otherwise(&self, found: &TensorSpec, entry: &ParamSpec) -> bool {
        let wanted = spec(entry);
        let regrouped = wanted.storage.is_grouped() && wanted.group != found.group;
        found.storage != wanted.storage || regrouped
    }

    /// Rounds the values of tensor number `tensor` to the storage of `param`, each to the nearest. Of packed weights those
    /// that training holds, code and residue, are nearer to what they were imported from; without a residue, the codes'.
    pub(super) fn recode(&self, tensor: usize, param: &Param, backend: &mut dyn Backend) {
        let file = self.file();
        let decoder = Decoder::new(&file, tensor, Role::Trained).or_else(|| Decoder::new(&file, tensor, Role::Weight));
        let decoder = decoder.expect("every tensor of a checked file has values");
        fill(backend, &param.weight, &mut |row, out| decoder.row(row, out));
        param.weight.planes().into_iter().for_each(|span| backend.advise_cold(span));
    }
}
