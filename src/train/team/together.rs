//! Gradients that all ranks form together, and what their updates did.

use super::Team;
use super::stream::Way;
use crate::backend::{Accumulate, Backend, Param, UpdateStats};
use crate::memory::Span;
use crate::model::{Gradients, ParamSpec, READ_PLANES};
use crate::train::updates::Taker;
use std::iter::once;
use zerocopy::IntoBytes;

/// A parameter whose gradient is complete on the last rank when the pass ends, or all of whose ranks' parts are there.
pub(super) struct Waiting {
    param: Param,
    pub(super) grad: Span,
    /// Who updates it.
    pub(super) owner: usize,
    /// What that did.
    stats: UpdateStats,
}

/// All that an update changes and others need: products read nothing else.
fn read_planes(param: &Param) -> impl Iterator<Item = Span> + use<> {
    let weight = param.weight;
    READ_PLANES.into_iter().map(move |plane| weight.span(plane)).filter(|span| !span.is_none())
}

/// Gradients that all ranks form together, and what is done with those that are complete.
pub(in crate::train) struct Together<'a, F> {
    pub team: &'a mut Team,
    /// Of all parameters.
    pub specs: &'a [ParamSpec],
    pub taker: F,
    /// Whether that changes parameters and their state.
    pub changes: bool,
}

impl<F> Together<'_, F> {
    /// What the taker did on all ranks.
    pub fn stats(&mut self, backend: &mut dyn Backend) -> UpdateStats {
        match self.team.is_alone() {
            true => backend.update_stats(),
            false if self.team.direct => self.team.collect_stats(backend),
            false => std::mem::take(&mut self.team.stats),
        }
    }
}

impl<F: Taker> Gradients for Together<'_, F> {
    fn begin(&mut self, backend: &mut dyn Backend, grad: Span) -> Accumulate {
        self.taker.overwrites(backend, grad);
        match self.team.ranks.rank() {
            0 => Accumulate::No,
            _ if !self.team.chained => Accumulate::No,
            rank => {
                self.team.stream(backend, once(grad), Way::Recv(rank - 1));
                Accumulate::Yes
            }
        }
    }

    fn pass_on(&mut self, backend: &mut dyn Backend, grad: Span) {
        if self.team.chained && !self.team.is_last() {
            self.team.stream(backend, once(grad), Way::Send(self.team.ranks.rank() + 1));
        }
    }

    fn pass_round(&mut self, backend: &mut dyn Backend, grad: Span) {
        let (rank, size) = (self.team.ranks.rank(), self.team.ranks.size());
        if self.team.chained && size > 1 {
            self.team.stream(backend, once(grad), Way::Send((rank + 1) % size));
            self.team.stream(backend, once(grad), Way::Recv((rank + size - 1) % size));
        }
    }

    fn apply(&mut self, backend: &mut dyn Backend, param: &Param, grad: Span) {
        match self.team.is_alone() {
            true => self.taker.take(backend, param, grad),
            false => {
                let (param, owner, stats) = (*param, self.specs[param.id as usize].owner, UpdateStats::default());
                self.team.waiting.push(Waiting { param, grad, owner, stats });
            }
        }
    }

    /// Each parameter is updated by its owner, which gives its weight to all.
    fn end(&mut self, backend: &mut dyn Backend) {
        let (rank, size) = (self.team.ranks.rank(), self.team.ranks.size());
        if self.team.waiting.is_empty() {
            // One process was given them as they were complete.
            return self.taker.finish(backend);
        }
        // The list keeps its memory.
        let mut waiting = std::mem::take(&mut self.team.waiting);
        self.team.deliver(backend, &waiting);
        // What did not arrive must not be learned.
        for own in waiting.iter_mut().filter(|waiting| waiting.owner == rank && self.team.failed.is_none()) {
            self.taker.take(backend, &own.param, own.grad);
            self.taker.finish(backend);
            match backend.peers() {
                Some(peers) => peers.keep_stats(),
                None => own.stats = backend.update_stats(),
            }
        }
        for owner in 0..size {
            if self.changes {
                let owned = waiting.iter().filter(|waiting| waiting.owner == owner);
                self.team.stream(backend, owned.flat_map(|waiting| read_planes(&waiting.param)), Way::Share(owner));
            }
            if !self.team.direct {
                self.team.share_stats(&mut waiting, owner);
            }
        }
        if self.team.direct {
            self.team.updaters.extend(waiting.iter().map(|waiting| waiting.owner));
        }
        for Waiting { stats, .. } in waiting.drain(..) {
            self.team.stats.add(stats);
        }
        self.team.waiting = waiting;
    }
}

impl Team {
    /// What the updates of a rank did, from it to all.
    fn share_stats(&mut self, waiting: &mut [Waiting], owner: usize) {
        self.done.clear();
        self.done.extend(waiting.iter().filter(|waiting| waiting.owner == owner).map(|waiting| {
            let UpdateStats { grad_sq, rescales, skipped } = waiting.stats;
            [grad_sq.to_bits(), rescales, skipped]
        }));
        self.exchange(|team| team.ranks.share(team.done.as_mut_bytes(), owner));
        let owned = waiting.iter_mut().filter(|waiting| waiting.owner == owner);
        for (waiting, &[grad_sq, rescales, skipped]) in owned.zip(&self.done) {
            waiting.stats = UpdateStats { grad_sq: f64::from_bits(grad_sq), rescales, skipped };
        }
    }

    /// The updates of a step, which are asked for here: what each rank's did, in the order in which one process makes them.
    fn collect_stats(&mut self, backend: &mut dyn Backend) -> UpdateStats {
        self.kept.clear();
        if let Some(peers) = backend.peers() {
            peers.kept_stats(&mut self.kept);
        }
        let (updaters, kept) = (std::mem::take(&mut self.updaters), std::mem::take(&mut self.kept));
        let size = self.ranks.size();
        let most = (0..size).map(|rank| updaters.iter().filter(|other| **other == rank).count()).max().unwrap_or(0);
        let mut own = vec![[0u64; 3]; most];
        for (own, UpdateStats { grad_sq, rescales, skipped }) in own.iter_mut().zip(&kept) {
            *own = [grad_sq.to_bits(), *rescales, *skipped];
        }
        let mut all = vec![[0u64; 3]; most * size];
        self.exchange(|team| team.ranks.gather(own.as_bytes(), all.as_mut_bytes()));
        let mut next: Vec<usize> = (0..size).map(|rank| rank * most).collect();
        let mut sum = UpdateStats::default();
        for &rank in &updaters {
            let [grad_sq, rescales, skipped] = all[next[rank]];
            sum.add(UpdateStats { grad_sq: f64::from_bits(grad_sq), rescales, skipped });
            next[rank] += 1;
        }
        // The lists keep their memory.
        (self.updaters, self.kept) = (updaters, kept);
        self.updaters.clear();
        sum
    }
}
