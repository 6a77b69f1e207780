//! Which rank updates each parameter. It alone holds the residue and the optimizer state: the scheme that arXiv 1910.02054
//! calls ZeRO-1, with whole parameters as the parts, so that every rule trains as in one process.

use super::params::{self, ParamPart};
use super::spec::ParamSpec;
use crate::memory::Span;
use std::cmp::Reverse;

/// Gives every parameter an owner among `ranks`, and says which are held by `rank`, or by the rank with the most bytes.
///
/// Ranks wait for each other at the end of each block, so it is the work of a block that is spread evenly; among ranks with as
/// little work the one that holds the least gets the next, so that blocks with fewer parameters than there are ranks do not
/// all burden the same ones. Of those still alike it is the last, which has the complete gradients of a chain.
pub(super) fn deal(specs: &mut [ParamSpec], ranks: usize, rank: Option<usize>) {
    if ranks == 1 {
        return;
    }
    let mut order: Vec<usize> = (0..specs.len()).filter(|&i| specs[i].trainable).collect();
    order.sort_by_key(|&i| (specs[i].kind.block(), Reverse(specs[i].shape.len()), i));
    let mut held = vec![0; ranks];
    let mut block = None;
    let mut work = vec![0; ranks];
    for i in order {
        let spec = &mut specs[i];
        // What is of no block is updated alone, at its own time.
        if spec.kind.block().is_none() || spec.kind.block() != block {
            (block, work) = (spec.kind.block(), vec![0; ranks]);
        }
        let owner = (0..ranks).min_by_key(|&rank| (work[rank], held[rank], Reverse(rank))).expect("there are ranks");
        (spec.owner, work[owner]) = (owner, work[owner] + spec.shape.len());
        held[owner] += bytes(spec);
    }
    let most = || (0..ranks).max_by_key(|&rank| held[rank]).expect("there are ranks");
    let rank = rank.unwrap_or_else(most);
    specs.iter_mut().for_each(|spec| spec.held = spec.owner == rank);
}

/// Bytes of residue and state.
fn bytes(spec: &ParamSpec) -> usize {
    let mut sum = 0;
    params::place(spec, &mut |_, category, bytes| {
        sum += if ParamPart::of(category) == ParamPart::State { bytes } else { 0 };
        Span::NONE
    });
    sum
}
