//! A trainer's state as bytes.

use tetrad::backend::Param;
use tetrad::memory::Span;
use tetrad::train::Trainer;

/// The planes of a parameter's value.
pub fn weight_spans(param: &Param) -> Vec<Span> {
    param.weight.planes().into_iter().filter(|span| !span.is_none()).collect()
}

fn spans(param: &Param) -> Vec<Span> {
    weight_spans(param).into_iter().chain(param.state.planes()).collect()
}

/// Nothing if another rank holds it.
pub fn read(trainer: &Trainer, span: Span) -> Vec<u8> {
    if span.is_away() {
        return Vec::new();
    }
    let mut bytes = vec![0; span.bytes];
    trainer.backend().download(span, &mut bytes);
    bytes
}

/// Every byte that a checkpoint would hold; what another rank holds is left empty.
pub fn whole_state(trainer: &Trainer) -> Vec<Vec<u8>> {
    trainer.model().stored.iter().flat_map(spans).map(|span| read(trainer, span)).collect()
}

pub fn floats(trainer: &Trainer, span: Span) -> Vec<f32> {
    read(trainer, span).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// What ranks end with, their steps and planes, as those of one process: each plane is alike wherever it is, and it is on one
/// rank or on all.
pub fn joined<Steps: PartialEq + Clone>(ends: Vec<(Steps, Vec<Vec<u8>>)>) -> (Steps, Vec<Vec<u8>>) {
    let (size, steps) = (ends.len(), ends[0].0.clone());
    assert!(ends.iter().all(|end| end.0 == steps), "losses and norms of {size} ranks");
    let planes = (0..ends[0].1.len()).map(|i| {
        let held: Vec<_> = ends.iter().map(|end| &end.1[i]).filter(|plane| !plane.is_empty()).collect();
        assert!(held.len() == 1 || held.len() == size, "plane {i} lies on {} of {size} ranks", held.len());
        assert!(held.iter().all(|plane| *plane == held[0]), "plane {i} of {size} ranks");
        held[0].clone()
    });
    (steps, planes.collect())
}
