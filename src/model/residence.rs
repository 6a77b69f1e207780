//! Where the planes of every parameter lie between their uses, and where operations find them.
//!
//! Parameters are gathered in groups that are used one after the other: the embedding, each block, and what follows
//! the blocks. A group's weights, and its residue and state, are each on the device for the whole run, or at home:
//! beside the arena. Where operations work at home, that is all. Where they do not, a group comes to the device ahead
//! of its use, into one of two places that neighbouring groups take by turns.

use super::params::{self, Part};
use super::table::{Entry, Role, table};
use super::work::Mode;
use super::{Offload, Settings};
use crate::backend::{Backend, DeviceInfo, Param};
use crate::memory::{ALIGN, Category, Lifetime, Plan, Span};
use std::ops::Range;

/// Parameters in a plan.
pub(super) struct Placed {
    /// As operations find them, in the table's order.
    pub used: Vec<Param>,
    /// As they lie between steps, in the table's order.
    pub stored: Vec<Param>,
    pub streams: Streams,
}

/// What is fetched before it is used and left afterwards: nothing, unless something is at home.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    /// Embedding, blocks, what follows them.
    groups: Vec<[Option<Stream>; 2]>,
}

/// One part of a group at home, and where operations find it.
#[derive(Clone, Copy, Debug)]
struct Stream {
    home: Span,
    used: Span,
}

impl Streams {
    /// Begins to bring a group's part, if there is such a group and the part is at home.
    pub(super) fn fetch(&self, backend: &mut dyn Backend, group: usize, part: Part) {
        if let Some(stream) = self.stream(group, part) {
            backend.prefetch(stream.home, stream.used);
        }
    }

    /// What is given to the backend from now on finds the part.
    pub(super) fn arrive(&self, backend: &mut dyn Backend, group: usize, part: Part) {
        if let Some(stream) = self.stream(group, part) {
            backend.wait(stream.home, stream.used);
        }
    }

    /// The part is not used for a while.
    pub(super) fn leave(&self, backend: &mut dyn Backend, group: usize, part: Part, changed: bool) {
        if let Some(stream) = self.stream(group, part) {
            backend.write_back(stream.used, stream.home, changed);
        }
    }

    /// Both parts of a group that is about to be updated.
    pub(super) fn arrive_whole(&self, backend: &mut dyn Backend, group: usize) {
        self.arrive(backend, group, Part::Weights);
        self.arrive(backend, group, Part::State);
    }

    /// Both parts of a group that was updated.
    pub(super) fn leave_changed(&self, backend: &mut dyn Backend, group: usize) {
        self.leave(backend, group, Part::Weights, true);
        self.leave(backend, group, Part::State, true);
    }

    fn stream(&self, group: usize, part: Part) -> Option<Stream> {
        self.groups.get(group)?[part as usize]
    }
}

/// Adds all parameters to the plan.
pub(super) fn place(plan: &mut Plan, settings: &Settings, mode: Mode, sizes: &dyn DeviceInfo) -> Placed {
    let entries = table(settings);
    let groups = groups(&entries);
    let trained = mode == Mode::Train;
    let away =
        |residence: Offload| trained && (residence == Offload::File || residence == Offload::Host && !sizes.in_place());
    let ways = [away(settings.execution.offload.weights), away(settings.execution.offload.optimizer)];
    // Tables are read token by token, or by many chunks: a device that does not work at home has them for good.
    let at_home = |group: usize, part: Part| {
        let table = group == 0 || group + 1 == groups.len();
        ways[part as usize] && !(part == Part::Weights && table && !sizes.in_place())
    };
    let mut places = Places { plan, trained, slots: [[Span::NONE; 2]; 2] };
    if !sizes.in_place() {
        places.place_slots(&entries, &groups, &at_home);
    }
    let (mut used, mut stored, mut streams) = (Vec::new(), Vec::new(), Streams::default());
    for (i, range) in groups.iter().enumerate() {
        let entries = &entries[range.clone()];
        let home = Part::BOTH.map(|part| at_home(i, part));
        let (params, at_home, group) = places.group(entries, i, home, sizes.in_place());
        used.extend(params);
        stored.extend(at_home);
        streams.groups.push(group);
    }
    Placed { used, stored, streams }
}

/// Embedding, blocks, the rest.
fn groups(entries: &[Entry]) -> Vec<Range<usize>> {
    let starts: Vec<usize> =
        (1..entries.len()).filter(|&i| matches!(entries[i].role, Role::AttentionNorm(_) | Role::FinalNorm)).collect();
    let from = [0].into_iter().chain(starts.iter().copied());
    from.zip(starts.iter().copied().chain([entries.len()])).map(|(from, to)| from..to).collect()
}

struct Places<'a> {
    plan: &'a mut Plan,
    trained: bool,
    /// For weights and for state: what even and what odd groups are fetched to.
    slots: [[Span; 2]; 2],
}

impl Places<'_> {
    /// Bytes of a group's weights, residue and state, each plane at a multiple of [`ALIGN`].
    fn bytes(&self, entries: &[Entry]) -> [usize; 3] {
        let mut bytes = [0; 3];
        for entry in entries {
            params::place(entry, self.trained, &mut |_, category, plane| {
                bytes[category as usize] += plane.next_multiple_of(ALIGN);
                Span::NONE
            });
        }
        bytes
    }

    /// The same of its parts.
    fn part_bytes(&self, entries: &[Entry]) -> [usize; 2] {
        let [weights, residue, state] = self.bytes(entries);
        [weights, residue + state]
    }

    fn place_slots(&mut self, entries: &[Entry], groups: &[Range<usize>], at_home: &dyn Fn(usize, Part) -> bool) {
        for part in Part::BOTH {
            let largest = |odd: usize| {
                let of_slot = groups.iter().enumerate().filter(|&(i, _)| i % 2 == odd && at_home(i, part));
                of_slot.map(|(_, range)| self.part_bytes(&entries[range.clone()])[part as usize]).max().unwrap_or(0)
            };
            let (name, category) = match part {
                Part::Weights => ("weights", Category::Weights),
                Part::State => ("state", Category::State),
            };
            let sizes = [largest(0), largest(1)];
            let mut slot = |turn: usize, word: &str| {
                // For good, though states are used in backward only: copies to the machine may still be under way when
                // the next step begins.
                self.plan.add(format!("{name} of {word} blocks, fetched"), category, sizes[turn], Lifetime::ALWAYS)
            };
            self.slots[part as usize] = [slot(0, "even"), slot(1, "odd")];
        }
    }

    /// Places one group: its parameters as used and as stored, and what is to be fetched.
    fn group(
        &mut self,
        entries: &[Entry],
        number: usize,
        home: [bool; 2],
        in_place: bool,
    ) -> (Vec<Param>, Vec<Param>, [Option<Stream>; 2]) {
        let [weights, residue, state] = self.bytes(entries);
        let mut streams = [None; 2];
        for part in Part::BOTH.into_iter().filter(|&part| home[part as usize]) {
            let mut add = |category: Category, bytes| {
                self.plan.add_host(format!("{} {}", group_name(entries), category.name()), category, bytes)
            };
            let home = match part {
                Part::Weights => add(Category::Weights, weights),
                Part::State => joined(add(Category::Residue, residue), add(Category::State, state)),
            };
            let slot = self.slots[part as usize][number % 2];
            let used = if in_place || home.is_none() { home } else { slot.head(home.bytes) };
            streams[part as usize] = (!home.is_none()).then_some(Stream { home, used });
        }
        let (mut used, mut stored) = (Vec::new(), Vec::new());
        // Where the next plane of each category begins in its part.
        let mut next = [0, 0, residue];
        for entry in entries {
            let name = entry.role.name();
            let mut kept = Vec::new();
            used.push(params::place(entry, self.trained, &mut |plane, category, bytes| {
                let (to, from) = match streams[Part::of(category) as usize] {
                    _ if bytes == 0 => (Span::NONE, Span::NONE),
                    None => {
                        let span = self.plan.add(format!("{name} {plane}"), category, bytes, Lifetime::ALWAYS);
                        (span, span)
                    }
                    Some(stream) => {
                        let at = next[category as usize];
                        next[category as usize] += bytes.next_multiple_of(ALIGN);
                        (stream.used.part(at, bytes), stream.home.part(at, bytes))
                    }
                };
                kept.push(from);
                to
            }));
            let mut kept = kept.into_iter();
            stored.push(params::place(entry, self.trained, &mut |_, _, _| kept.next().expect("as many planes")));
        }
        (used, stored, streams)
    }
}

/// Two neighbouring spans as one.
fn joined(first: Span, second: Span) -> Span {
    let first = if first.is_none() { Span { bytes: 0, ..second } } else { first };
    assert!(second.is_none() || first.offset + first.bytes.next_multiple_of(ALIGN) == second.offset, "neighbours");
    Span { bytes: if second.is_none() { first.bytes } else { second.offset + second.bytes - first.offset }, ..first }
}

fn group_name(entries: &[Entry]) -> String {
    match entries[0].role {
        Role::Embedding => "embedding's".into(),
        Role::AttentionNorm(l) => format!("block {l}'s"),
        _ => "head's".into(),
    }
}
