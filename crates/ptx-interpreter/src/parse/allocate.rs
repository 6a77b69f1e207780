//! Gives registers their places. NVRTC names a register for every value; a kernel has thousands, of which few hundred are
//! alive at a time, and only so many stay in the processor's caches.
//!
//! A register that may be read before it is written is alive from the beginning: it keeps its place, and the poison in it.

use super::decode::{Draft, Place, Use};
use crate::code::{Instruction, Kernel, NONE, Op, Slot, Width};
use std::sync::atomic::AtomicBool;

/// Places of the registers of one width: constants and special registers keep one of their own.
struct Intervals {
    first: Vec<usize>,
    last: Vec<usize>,
}

pub(super) fn registers(kernel: &mut Kernel, mut drafts: Vec<Draft>, counts: [u32; 3]) {
    let fixed = [
        kernel.constants32.iter().map(|c| c.0).chain(kernel.specials.iter().map(|s| s.0)).collect::<Vec<_>>(),
        kernel.constants64.iter().map(|c| c.0).collect(),
        kernel.constants_predicate.iter().map(|c| c.0).collect(),
    ];
    for (width, fixed) in [Width::W32, Width::W64, Width::Predicate].into_iter().zip(fixed) {
        let count = counts[width as usize] as usize;
        let mut pinned = vec![false; count];
        fixed.iter().for_each(|&slot| pinned[slot as usize] = true);
        let intervals = intervals(&drafts, &kernel.lists, width, count, &pinned);
        let (places, used) = scan(&intervals, &pinned);
        for draft in &mut drafts {
            for used in draft.uses.iter().filter(|used| used.width == width) {
                let slot = slot_of(&mut draft.instruction, &mut kernel.lists, used.place);
                *slot = places[*slot as usize];
            }
        }
        let place = |slot: &mut Slot| *slot = places[*slot as usize];
        match width {
            Width::W32 => {
                kernel.constants32.iter_mut().for_each(|c| place(&mut c.0));
                kernel.specials.iter_mut().for_each(|s| place(&mut s.0));
            }
            Width::W64 => kernel.constants64.iter_mut().for_each(|c| place(&mut c.0)),
            Width::Predicate => kernel.constants_predicate.iter_mut().for_each(|c| place(&mut c.0)),
        }
        kernel.registers[width as usize] = used;
    }
    kernel.code = drafts.into_iter().map(|draft| draft.instruction).collect();
    kernel.reached = kernel.code.iter().map(|_| AtomicBool::new(false)).collect();
}

fn slot_of<'a>(instruction: &'a mut Instruction, lists: &'a mut [Slot], place: Place) -> &'a mut Slot {
    match place {
        Place::D => &mut instruction.d,
        Place::A => &mut instruction.a,
        Place::B => &mut instruction.b,
        Place::C => &mut instruction.c,
        Place::Guard => &mut instruction.guard,
        Place::List(at) => &mut lists[at],
    }
}

fn slot(instruction: &Instruction, lists: &[Slot], place: Place) -> usize {
    let slot = match place {
        Place::D => instruction.d,
        Place::A => instruction.a,
        Place::B => instruction.b,
        Place::C => instruction.c,
        Place::Guard => instruction.guard,
        Place::List(at) => lists[at],
    };
    slot as usize
}

/// A straight run of instructions, and where it may go on.
struct Block {
    begin: usize,
    end: usize,
    next: Vec<usize>,
}

fn blocks(drafts: &[Draft]) -> Vec<Block> {
    let mut starts = vec![0];
    for (at, draft) in drafts.iter().enumerate() {
        if draft.instruction.op == Op::Branch {
            starts.extend([at + 1, draft.instruction.offset as usize]);
        } else if draft.instruction.op == Op::Exit {
            starts.push(at + 1);
        }
    }
    starts.retain(|&at| at < drafts.len());
    starts.sort_unstable();
    starts.dedup();
    let find = |at: usize| starts.binary_search(&at).ok();
    let one = |(i, &begin): (usize, &usize)| {
        let end = starts.get(i + 1).copied().unwrap_or(drafts.len());
        let last = &drafts[end - 1].instruction;
        let mut next = Vec::new();
        if last.op == Op::Branch {
            next.extend(find(last.offset as usize));
        }
        if !matches!(last.op, Op::Branch | Op::Exit) || last.guard != NONE {
            next.extend(find(end));
        }
        Block { begin, end, next }
    };
    starts.iter().enumerate().map(one).collect()
}

type Set = Vec<u64>;

fn has(set: &Set, at: usize) -> bool {
    set[at / 64] >> (at % 64) & 1 != 0
}

/// From where to where each register is alive, in instructions. What is written under a guard keeps its old value where the
/// guard does not hold, so such a write reads too.
fn intervals(drafts: &[Draft], lists: &[Slot], width: Width, count: usize, pinned: &[bool]) -> Intervals {
    let (words, blocks) = (count.div_ceil(64).max(1), blocks(drafts));
    let of = |draft: &Draft, used: &Use| slot(&draft.instruction, lists, used.place);
    let mut intervals = Intervals { first: vec![usize::MAX; count], last: vec![0; count] };
    let (mut reads, mut kills) = (Vec::new(), Vec::new());
    for block in &blocks {
        let (mut read, mut killed): (Set, Set) = (vec![0; words], vec![0; words]);
        for (at, draft) in drafts.iter().enumerate().take(block.end).skip(block.begin) {
            let mine = || draft.uses.iter().filter(|used| used.width == width);
            let partial = draft.instruction.guard != NONE;
            for used in mine().filter(|used| !used.write || partial) {
                let slot = of(draft, used);
                if !has(&killed, slot) {
                    read[slot / 64] |= 1 << (slot % 64);
                }
            }
            for used in mine() {
                let slot = of(draft, used);
                if used.write && !partial {
                    killed[slot / 64] |= 1 << (slot % 64);
                }
                intervals.first[slot] = intervals.first[slot].min(at);
                intervals.last[slot] = intervals.last[slot].max(at);
            }
        }
        reads.push(read);
        kills.push(killed);
    }
    let alive = alive_at_entry(&blocks, &reads, &kills, words);
    for (i, block) in blocks.iter().enumerate() {
        for slot in (0..count).filter(|&slot| !pinned[slot]) {
            if has(&alive[i], slot) {
                intervals.first[slot] = intervals.first[slot].min(block.begin);
                intervals.last[slot] = intervals.last[slot].max(block.begin);
            }
            if block.next.iter().any(|&next| has(&alive[next], slot)) {
                intervals.last[slot] = intervals.last[slot].max(block.end);
            }
        }
    }
    intervals
}

/// Which registers are alive where a block begins.
fn alive_at_entry(blocks: &[Block], reads: &[Set], kills: &[Set], words: usize) -> Vec<Set> {
    let mut alive: Vec<Set> = reads.to_vec();
    let mut changed = true;
    while changed {
        changed = false;
        for i in (0..blocks.len()).rev() {
            for word in 0..words {
                let after = blocks[i].next.iter().fold(0, |all, &next| all | alive[next][word]);
                let before = reads[i][word] | (after & !kills[i][word]);
                changed |= before != alive[i][word];
                alive[i][word] = before;
            }
        }
    }
    alive
}

/// The place of each register, and how many places there are. Places that are free again are taken last in, first out.
fn scan(intervals: &Intervals, pinned: &[bool]) -> (Vec<Slot>, usize) {
    let count = pinned.len();
    let mut order: Vec<usize> =
        (0..count).filter(|&slot| !pinned[slot] && intervals.first[slot] != usize::MAX).collect();
    order.sort_by_key(|&slot| intervals.first[slot]);
    let mut ends: std::collections::BinaryHeap<std::cmp::Reverse<(usize, Slot)>> = Default::default();
    let (mut places, mut free, mut used) = (vec![NONE; count], Vec::new(), 0);
    for slot in order {
        while let Some(&std::cmp::Reverse((end, place))) = ends.peek() {
            // An instruction that reads a register for the last time may not write another to its place: a list is written
            // piece by piece.
            if end >= intervals.first[slot] {
                break;
            }
            ends.pop();
            free.push(place);
        }
        let place = free.pop().unwrap_or_else(|| {
            used += 1;
            used - 1
        });
        places[slot] = place;
        ends.push(std::cmp::Reverse((intervals.last[slot], place)));
    }
    for slot in (0..count).filter(|&slot| pinned[slot]) {
        places[slot] = used;
        used += 1;
    }
    (places, used as usize)
}
