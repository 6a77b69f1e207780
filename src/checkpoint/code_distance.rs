//! How far apart the codes of a saved model are.

use super::Checkpoint;
use crate::model::param_specs;
use crate::quant::{GroupScale, WeightPlane};
use crate::train::median;

/// Of so many groups one is looked at: a median needs no more. Coprime to the groups of usual rows.
const EVERY: usize = 61;

impl Checkpoint {
    /// The median distance between neighbouring codes of the blocks' matrices, of a sample of their groups; nothing if they
    /// are floats or their codes are not evenly spaced.
    pub fn code_distance(&self) -> Option<f64> {
        let specs = param_specs(&self.meta.settings());
        let mut scales = Vec::new();
        for spec in specs.iter().filter(|spec| spec.kind.block().is_some() && !spec.kind.is_vector()) {
            if !spec.format.has_even_codes() {
                return None;
            }
            let (element, span) = (spec.format.plane(WeightPlane::Scales)?.element, self.mapped(spec).weight.scales);
            let plane = &self.map()[span.offset..][..span.bytes];
            let groups = (0..spec.shape.groups()).step_by(EVERY);
            scales.extend(groups.map(|group| GroupScale::read(element, plane, &[], group).scale));
        }
        median(&mut scales)
    }
}
