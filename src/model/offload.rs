//! Where the planes of every parameter lie between their uses, and where operations find them.
//!
//! Parameters are gathered in groups that are used one after the other: the embedding, each block, and what follows
//! the blocks. A group's weights, and its residue and state, are each on the device for the whole run, or offloaded to
//! host memory or a scratch file. Where operations work there in place, that is all. Where they do not, a group is
//! prefetched to the device ahead of its use, into one of two slots that groups alternate between.

use super::params::{self, ParamPart};
use super::spec::{BlockParam, ParamKind, ParamSpec, base_len};
use super::{Offload, OffloadConfig, Settings};
use crate::backend::{Backend, DeviceInfo, Param};
use crate::memory::{ALIGN, Category, Lifetime, Plan, Span};
use std::ops::Range;

/// Parameters in a plan.
pub(super) struct Placed {
    /// As operations find them, in the order of the specs.
    pub used: Vec<Param>,
    /// As they lie between steps, in the order of the specs.
    pub stored: Vec<Param>,
    pub offloaded: Offloaded,
}

/// What is prefetched before its use and written back afterwards: nothing, unless something is offloaded.
#[derive(Clone, Debug, Default)]
pub struct Offloaded {
    /// Embedding, blocks, what follows them.
    groups: Vec<[Option<OffloadedPart>; 2]>,
    /// Whether any of it is trained; what is not is never written back.
    changes: bool,
}

/// One offloaded part of a group, and where operations find it.
#[derive(Clone, Copy, Debug)]
struct OffloadedPart {
    stored: Span,
    used: Span,
}

impl Offloaded {
    /// Starts to prefetch a part of a group, if there is such a group and the part is offloaded.
    pub(super) fn prefetch(&self, backend: &mut dyn Backend, group: usize, part: ParamPart) {
        if let Some(part) = self.part(group, part) {
            backend.prefetch(part.stored, part.used);
        }
    }

    /// Operations given to the backend from now on find the part.
    pub(super) fn wait(&self, backend: &mut dyn Backend, group: usize, part: ParamPart) {
        if let Some(part) = self.part(group, part) {
            backend.wait(part.stored, part.used);
        }
    }

    /// The part is not used for a while; if it was changed it is written back.
    pub(super) fn release(&self, backend: &mut dyn Backend, group: usize, part: ParamPart, changed: bool) {
        if let Some(part) = self.part(group, part) {
            backend.write_back(part.used, part.stored, changed);
        }
    }

    /// Both parts of a group that is about to be updated.
    pub(super) fn wait_whole(&self, backend: &mut dyn Backend, group: usize) {
        self.wait(backend, group, ParamPart::Weights);
        self.wait(backend, group, ParamPart::State);
    }

    /// Both parts of a group after backward; what is not trained did not change.
    pub(super) fn release_whole(&self, backend: &mut dyn Backend, group: usize, changed: bool) {
        self.release(backend, group, ParamPart::Weights, changed && self.changes);
        self.release(backend, group, ParamPart::State, changed && self.changes);
    }

    fn part(&self, group: usize, part: ParamPart) -> Option<OffloadedPart> {
        self.groups.get(group)?[part as usize]
    }
}

/// Adds all parameters to the plan.
pub(super) fn place(plan: &mut Plan, settings: &Settings, specs: &[ParamSpec], device: &dyn DeviceInfo) -> Placed {
    let trained = specs.iter().any(|spec| spec.trainable);
    let (specs, all) = (&specs[..base_len(specs)], specs);
    let groups = groups(specs);
    let leaves_device = |to: Offload| trained && (to == Offload::File || to == Offload::Host && !device.in_place());
    let OffloadConfig { weights, optimizer } = settings.execution.offload;
    let leaves = [leaves_device(weights), leaves_device(optimizer)];
    // Embedding and head are read token by token, or once a chunk: a device that has to fetch keeps them for the whole run.
    let is_offloaded = |group: usize, part: ParamPart| {
        let table = group == 0 || group + 1 == groups.len();
        leaves[part as usize] && !(part == ParamPart::Weights && table && !device.in_place())
    };
    let mut places = Places { plan, slots: [[Span::NONE; 2]; 2] };
    if !device.in_place() {
        places.place_slots(specs, &groups, &is_offloaded);
    }
    let (mut used, mut stored, mut offloaded) = (Vec::new(), Vec::new(), Offloaded::default());
    for (i, range) in groups.iter().enumerate() {
        let of_group = &specs[range.clone()];
        let offloads = ParamPart::BOTH.map(|part| is_offloaded(i, part));
        let (params, between_steps, group) = places.group(of_group, i, offloads, device.in_place());
        used.extend(params);
        stored.extend(between_steps);
        offloaded.groups.push(group);
    }
    offloaded.changes = specs.iter().any(|spec| spec.trainable);
    let adapters = place_adapters(plan, all);
    used.extend(&adapters);
    stored.extend(adapters);
    Placed { used, stored, offloaded }
}

/// Adds the tensors of adapters to the plan, in the order of the specs. They are small, and stay on the device.
pub(super) fn place_adapters(plan: &mut Plan, specs: &[ParamSpec]) -> Vec<Param> {
    let place = |spec: &ParamSpec| {
        let name = spec.kind.name();
        params::place(spec, &mut |plane, category, bytes| {
            plan.add(format!("{name} {plane}"), category, bytes, Lifetime::ALWAYS)
        })
    };
    specs[base_len(specs)..].iter().map(place).collect()
}

/// Embedding, blocks, the rest.
fn groups(specs: &[ParamSpec]) -> Vec<Range<usize>> {
    let starts: Vec<usize> = (1..specs.len())
        .filter(|&i| matches!(specs[i].kind, ParamKind::Block(_, BlockParam::AttentionNorm) | ParamKind::FinalNorm))
        .collect();
    let from = [0].into_iter().chain(starts.iter().copied());
    from.zip(starts.iter().copied().chain([specs.len()])).map(|(from, to)| from..to).collect()
}

struct Places<'a> {
    plan: &'a mut Plan,
    /// For weights and for state: what even and what odd groups are prefetched to.
    slots: [[Span; 2]; 2],
}

impl Places<'_> {
    /// Bytes of a group's weights, residue and state, each plane at a multiple of [`ALIGN`].
    fn bytes(&self, specs: &[ParamSpec]) -> [usize; 3] {
        let mut bytes = [0; 3];
        for spec in specs {
            params::place(spec, &mut |_, category, plane| {
                bytes[category as usize] += plane.next_multiple_of(ALIGN);
                Span::NONE
            });
        }
        bytes
    }

    /// The same of its parts.
    fn part_bytes(&self, specs: &[ParamSpec]) -> [usize; 2] {
        let [weights, residue, state] = self.bytes(specs);
        [weights, residue + state]
    }

    fn place_slots(
        &mut self,
        specs: &[ParamSpec],
        groups: &[Range<usize>],
        is_offloaded: &dyn Fn(usize, ParamPart) -> bool,
    ) {
        for part in ParamPart::BOTH {
            let largest = |odd: usize| {
                let of_slot = groups.iter().enumerate().filter(|&(i, _)| i % 2 == odd && is_offloaded(i, part));
                of_slot.map(|(_, range)| self.part_bytes(&specs[range.clone()])[part as usize]).max().unwrap_or(0)
            };
            let (name, category) = match part {
                ParamPart::Weights => ("weights", Category::Weights),
                ParamPart::State => ("state", Category::State),
            };
            let sizes = [largest(0), largest(1)];
            let mut slot = |turn: usize, word: &str| {
                // For good, though states are used in backward only: copies to the machine may still be under way when
                // the next step begins.
                self.plan.add(format!("{name} of {word} blocks, prefetched"), category, sizes[turn], Lifetime::ALWAYS)
            };
            self.slots[part as usize] = [slot(0, "even"), slot(1, "odd")];
        }
    }

    /// Places one group: its parameters as used and as stored, and what is to be prefetched.
    fn group(
        &mut self,
        specs: &[ParamSpec],
        number: usize,
        offloads: [bool; 2],
        in_place: bool,
    ) -> (Vec<Param>, Vec<Param>, [Option<OffloadedPart>; 2]) {
        let [weights, residue, state] = self.bytes(specs);
        let mut offloaded = [None; 2];
        for part in ParamPart::BOTH.into_iter().filter(|&part| offloads[part as usize]) {
            let mut add = |category: Category, bytes| {
                self.plan.add_host(format!("{} {}", group_name(specs), category.name()), category, bytes)
            };
            let stored = match part {
                ParamPart::Weights => add(Category::Weights, weights),
                ParamPart::State => joined(add(Category::Residue, residue), add(Category::State, state)),
            };
            let slot = self.slots[part as usize][number % 2];
            let used = if in_place || stored.is_none() { stored } else { slot.head(stored.bytes) };
            offloaded[part as usize] = (!stored.is_none()).then_some(OffloadedPart { stored, used });
        }
        let (mut used, mut stored) = (Vec::new(), Vec::new());
        // Where the next plane of each category begins in its part.
        let mut next = [0, 0, residue];
        for spec in specs {
            let name = spec.kind.name();
            let mut kept = Vec::new();
            used.push(params::place(spec, &mut |plane, category, bytes| {
                let (to, from) = match offloaded[ParamPart::of(category) as usize] {
                    None => {
                        let span = self.plan.add(format!("{name} {plane}"), category, bytes, Lifetime::ALWAYS);
                        (span, span)
                    }
                    Some(part) => {
                        let at = next[category as usize];
                        next[category as usize] += bytes.next_multiple_of(ALIGN);
                        (part.used.part(at, bytes), part.stored.part(at, bytes))
                    }
                };
                kept.push(from);
                to
            }));
            let mut kept = kept.into_iter();
            stored.push(params::place(spec, &mut |_, _, _| kept.next().expect("as many planes")));
        }
        (used, stored, offloaded)
    }
}

/// Two neighbouring spans as one.
fn joined(first: Span, second: Span) -> Span {
    let first = if first.is_none() { Span { bytes: 0, ..second } } else { first };
    assert!(second.is_none() || first.offset + first.bytes.next_multiple_of(ALIGN) == second.offset, "neighbours");
    Span { bytes: if second.is_none() { first.bytes } else { second.offset + second.bytes - first.offset }, ..first }
}

fn group_name(specs: &[ParamSpec]) -> String {
    match specs[0].kind {
        ParamKind::Embedding => "embedding's".into(),
        ParamKind::Block(l, _) => format!("block {l}'s"),
        _ => "head's".into(),
    }
}
