//! The threads of a warp run side by side while they are at the same instruction. Where they part, those that are furthest
//! behind go first, and threads that come to the same instruction go on together. What a warp does together waits for all
//! threads that it names.

use super::asynchronous::Copies;
use super::block::{Shared, place};
use super::registers::{Registers, lanes};
use super::{FULL, Fault, LANES, Problem};
use crate::code::{Instruction, Kernel, NONE, Op, Special};
use std::sync::atomic::Ordering;

/// Instructions of one warp between two barriers, after which it is taken for one that never ends.
const MOST_STEPS: u64 = 1 << 31;

/// Why a warp stopped.
pub(crate) enum Stop {
    /// At a barrier in this line.
    Barrier(u32),
    Done,
}

/// Threads that are at the same instruction.
#[derive(Clone, Copy)]
struct Fragment {
    at: usize,
    mask: u32,
    /// It waits for others to come where it is.
    waits: bool,
}

pub(crate) struct Warp {
    pub index: u32,
    pub registers: Registers,
    pub copies: Copies,
    /// Each lane's own memory, one after another.
    pub local: Vec<u8>,
    fragments: Vec<Fragment>,
    alive: u32,
}

impl Warp {
    pub(crate) fn new(index: u32) -> Self {
        let (registers, copies) = (Registers::default(), Copies::default());
        Self { index, registers, copies, local: Vec::new(), fragments: Vec::new(), alive: 0 }
    }

    /// For a new block in which the warp has at most this many threads.
    pub(crate) fn reset(&mut self, kernel: &Kernel, threads: u32, value: impl Fn(Special, usize) -> u32) {
        self.registers.reset(kernel, value);
        self.copies.reset();
        self.local.clear();
        self.local.resize(kernel.local as usize * LANES, super::POISON);
        self.alive = if threads >= LANES as u32 { FULL } else { (1 << threads) - 1 };
        self.fragments.clear();
        self.fragments.push(Fragment { at: 0, mask: self.alive, waits: false });
    }

    /// Runs to the next barrier or to the end.
    pub(crate) fn run(&mut self, shared: &mut Shared) -> Result<Stop, Fault> {
        let mut steps = 0;
        loop {
            let ready = self.fragments.iter().enumerate().filter(|(_, fragment)| !fragment.waits);
            let Some((chosen, _)) = ready.min_by_key(|(_, fragment)| fragment.at) else {
                return match self.fragments.first() {
                    None => Ok(Stop::Done),
                    Some(&fragment) => Err(self.stuck(shared, fragment)),
                };
            };
            let fragment = self.fragments.swap_remove(chosen);
            if let Some(stop) = self.advance(shared, fragment, &mut steps)? {
                return Ok(stop);
            }
        }
    }

    /// Runs these threads until others must go first, or they wait, or have returned.
    fn advance(&mut self, shared: &mut Shared, mut now: Fragment, steps: &mut u64) -> Result<Option<Stop>, Fault> {
        let kernel = shared.kernel;
        loop {
            if !self.fragments.is_empty() && self.join(&mut now) {
                self.fragments.push(now);
                return Ok(None);
            }
            let instruction = &kernel.code[now.at];
            kernel.reached[now.at].store(true, Ordering::Relaxed);
            *steps += 1;
            if *steps > MOST_STEPS {
                return Err(self.fault(shared, now, instruction.line, "does not end"));
            }
            let mask = now.mask & self.guarded(instruction);
            match instruction.op {
                Op::Branch if mask == now.mask => now.at = instruction.offset as usize,
                Op::Branch => {
                    if mask != 0 {
                        self.fragments.push(Fragment { at: instruction.offset as usize, mask, waits: false });
                    }
                    now.mask &= !mask;
                    now.at += 1;
                }
                Op::Exit => {
                    self.alive &= !mask;
                    now.mask &= !mask;
                    now.at += 1;
                    if now.mask == 0 {
                        return Ok(None);
                    }
                }
                _ => match self.named(kernel, instruction, mask) {
                    Some(named) if mask & named != named => {
                        if named & !self.alive != 0 && instruction.op != Op::Barrier {
                            let what = "waits for threads of its warp that have returned";
                            return Err(self.fault(shared, now, instruction.line, what));
                        }
                        self.fragments.push(Fragment { waits: true, ..now });
                        return Ok(None);
                    }
                    Some(named) if mask & !named != 0 => {
                        return Err(self.fault(
                            shared,
                            now,
                            instruction.line,
                            "is not among the threads that it names",
                        ));
                    }
                    _ if instruction.op == Op::Barrier => {
                        self.fragments.push(Fragment { at: now.at + 1, ..now });
                        return Ok(Some(Stop::Barrier(instruction.line)));
                    }
                    _ => {
                        if mask != 0 {
                            self.step(shared, instruction, mask)
                                .map_err(|problem| self.faulted(shared, instruction, problem))?;
                        }
                        now.at += 1;
                    }
                },
            }
        }
    }

    /// Takes in the threads that are at the same instruction; whether others have to go first.
    fn join(&mut self, now: &mut Fragment) -> bool {
        let mut first = false;
        let mut i = 0;
        while i < self.fragments.len() {
            let other = self.fragments[i];
            if other.at == now.at {
                now.mask |= other.mask;
                self.fragments.swap_remove(i);
            } else {
                first |= !other.waits && other.at < now.at;
                i += 1;
            }
        }
        first
    }

    /// The lanes whose guard holds.
    fn guarded(&self, instruction: &Instruction) -> u32 {
        if instruction.guard == NONE {
            return FULL;
        }
        let bits = self.registers.predicates[instruction.guard as usize];
        if instruction.negated { !bits } else { bits }
    }

    /// The threads that do this together, if any do.
    fn named(&self, kernel: &Kernel, instruction: &Instruction, mask: u32) -> Option<u32> {
        let of = |slot: u32| {
            let lane = lanes(mask).next()?;
            Some(self.registers.narrow(slot)[lane])
        };
        match instruction.op {
            Op::Barrier => Some(self.alive),
            Op::WarpBarrier | Op::Ballot => of(instruction.c),
            Op::Shuffle(_) => of(kernel.lists[instruction.offset as usize + 1]),
            Op::LoadMatrix { .. } | Op::Mma(_) => Some(FULL),
            _ => None,
        }
    }

    fn stuck(&self, shared: &Shared, fragment: Fragment) -> Fault {
        let line = shared.kernel.code[fragment.at].line;
        let others = self.fragments.iter().filter(|other| other.at != fragment.at);
        let lines: Vec<_> = others.map(|other| shared.kernel.code[other.at].line.to_string()).collect();
        let what = format!("waits for threads of its warp that wait elsewhere, in lines {}", lines.join(", "));
        self.fault(shared, fragment, line, &what)
    }

    fn fault(&self, shared: &Shared, fragment: Fragment, line: u32, what: &str) -> Fault {
        place(shared, self.index * LANES as u32 + fragment.mask.trailing_zeros(), line, what, false)
    }

    fn faulted(&self, shared: &Shared, instruction: &Instruction, problem: Problem) -> Fault {
        let thread = self.index * LANES as u32 + problem.lane as u32;
        place(shared, thread, instruction.line, &problem.message, problem.is_access)
    }
}
