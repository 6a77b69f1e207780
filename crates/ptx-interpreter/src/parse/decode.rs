//! Decodes the statements of one kernel.

use super::operands::{split, type_of};
use super::{Array, Declaration, ParseError, Statement, Surroundings, allocate, error, is_directive, without_comment};
use crate::code::{Instruction, Kernel, NONE, Op, Parameter, Slot, Special, Type, Width};
use std::collections::HashMap;
use std::sync::Arc;

/// Where an operand of an instruction lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    D,
    A,
    B,
    C,
    Guard,
    /// An index into the kernel's lists.
    List(usize),
}

/// An operand that is a register or a constant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    pub place: Place,
    pub width: Width,
    pub write: bool,
}

/// An instruction, and which of its operands are registers.
pub(crate) struct Draft {
    pub instruction: Instruction,
    pub uses: Vec<Use>,
}

pub(crate) struct Decoder<'a> {
    pub(super) around: &'a Surroundings,
    pub(super) line: u32,
    /// Declared registers: their width, the first, and how many there are.
    pub(super) registers: HashMap<String, (Width, Slot, u32)>,
    /// Registers of each width so far, constants and special ones among them.
    pub(super) counts: [u32; 3],
    constants: HashMap<(Width, u64), Slot>,
    specials: HashMap<Special, Slot>,
    /// Its address in registers of 32 and 64 bits, which is known at the end.
    dynamic: [Option<Slot>; 2],
    shared: HashMap<String, u32>,
    shared_used: u32,
    own_shared: HashMap<String, Array>,
    pub(super) local_arrays: HashMap<String, Array>,
    local: u32,
    pub(super) parameters: Vec<Parameter>,
    labels: HashMap<String, usize>,
    /// Instructions that go to a label.
    jumps: Vec<(usize, String, u32)>,
    pub(super) code: Vec<Draft>,
    pub(super) lists: Vec<Slot>,
    /// The instruction that is being decoded.
    pub(super) now: Instruction,
    pub(super) uses: Vec<Use>,
    pub(super) narrow_address: bool,
}

pub(super) fn kernel(
    name: &str,
    lines: &[&str],
    first: u32,
    text: &Arc<str>,
    around: &Surroundings,
) -> Result<Kernel, ParseError> {
    let (header, body) = statements(lines, first);
    let mut decoder = Decoder::new(around, first);
    let (max_threads, parameter_bytes) = decoder.header(&header)?;
    for statement in &body {
        decoder.statement(statement)?;
    }
    decoder.link()?;
    let static_shared = decoder.shared_used;
    let dynamic_offset = static_shared.next_multiple_of(128);
    let (mut constants32, mut constants64, mut constants_predicate) = (Vec::new(), Vec::new(), Vec::new());
    for (&(width, bits), &slot) in &decoder.constants {
        match width {
            Width::W32 => constants32.push((slot, bits as u32)),
            Width::W64 => constants64.push((slot, bits)),
            Width::Predicate => constants_predicate.push((slot, bits != 0)),
        }
    }
    // The dynamic array lies behind the static ones.
    constants32.extend(decoder.dynamic[0].map(|slot| (slot, dynamic_offset)));
    constants64.extend(decoder.dynamic[1].map(|slot| (slot, dynamic_offset.into())));
    let mut kernel = Kernel {
        name: name.to_owned(),
        text: text.clone(),
        code: Vec::new(),
        reached: Vec::new(),
        lists: std::mem::take(&mut decoder.lists),
        parameters: std::mem::take(&mut decoder.parameters),
        parameter_bytes,
        max_threads,
        static_shared,
        dynamic_offset,
        local: decoder.local,
        registers: [0; 3],
        constants32,
        constants64,
        constants_predicate,
        specials: decoder.specials.iter().map(|(&special, &slot)| (slot, special)).collect(),
        data: around.data.clone(),
    };
    allocate::registers(&mut kernel, decoder.code, decoder.counts);
    Ok(kernel)
}

/// The text before the body, and the statements of the body.
fn statements(lines: &[&str], first: u32) -> (String, Vec<Statement>) {
    let (mut header, mut body, mut inside) = (String::new(), Vec::new(), false);
    let mut open = Statement { line: first, text: String::new() };
    for (at, line) in lines.iter().enumerate() {
        let mut rest = without_comment(line).trim();
        if is_directive(rest) {
            continue;
        }
        if !inside {
            let (before, after) = rest.split_once('{').unwrap_or((rest, ""));
            header += before;
            header.push(' ');
            inside = rest.contains('{');
            rest = after.trim();
        }
        while !rest.is_empty() {
            if open.text.is_empty() {
                open.line = first + at as u32;
                // Scopes: names in them are not used again.
                if rest.starts_with(['{', '}']) {
                    rest = rest[1..].trim();
                    continue;
                }
            }
            let label = rest.find(':').filter(|&at| {
                // `L2::128B` is a part of an instruction.
                open.text.is_empty() && !rest[..at].contains([' ', '\t', ';']) && !rest[at + 1..].starts_with(':')
            });
            let end = label.or_else(|| rest.find(';'));
            open.text += &rest[..end.map_or(rest.len(), |end| end + usize::from(label.is_some()))];
            open.text.push(' ');
            if end.is_some() {
                body.push(std::mem::replace(&mut open, Statement { line: 0, text: String::new() }));
            }
            rest = end.map_or("", |end| rest[end + 1..].trim());
        }
    }
    (header, body)
}

impl<'a> Decoder<'a> {
    fn new(around: &'a Surroundings, line: u32) -> Self {
        Self {
            around,
            line,
            registers: HashMap::new(),
            counts: [0; 3],
            constants: HashMap::new(),
            specials: HashMap::new(),
            dynamic: [None; 2],
            shared: HashMap::new(),
            shared_used: 0,
            own_shared: HashMap::new(),
            local_arrays: HashMap::new(),
            local: 0,
            parameters: Vec::new(),
            labels: HashMap::new(),
            jumps: Vec::new(),
            code: Vec::new(),
            lists: Vec::new(),
            now: blank(line),
            uses: Vec::new(),
            narrow_address: false,
        }
    }

    /// Parameters and bounds; gives the most threads of a block and the bytes of all parameters.
    fn header(&mut self, header: &str) -> Result<(u32, u32), ParseError> {
        let (head, tail) = header.split_once(')').unwrap_or((header, ""));
        let list = head.split_once('(').map_or("", |(_, list)| list);
        let mut used = 0u32;
        for parameter in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            // As an array in a space of its own.
            let declared = Declaration::parse(self.line, &parameter.replacen(".param", ".local", 1))?;
            let align = declared.align.max(if parameter.contains(".align") { 1 } else { declared.bytes });
            used = used.next_multiple_of(align);
            self.parameters.push(Parameter { name: declared.name, offset: used, bytes: declared.bytes });
            used += declared.bytes;
        }
        let mut words = tail.split([' ', ',', '\t']).filter(|word| !word.is_empty());
        let mut most = 1024;
        while let Some(word) = words.next() {
            if word == ".maxntid" {
                let Some(Ok(count)) = words.next().map(str::parse) else {
                    return error(self.line, "no number of threads");
                };
                most = count;
            }
        }
        Ok((most, used))
    }

    fn statement(&mut self, Statement { line, text }: &Statement) -> Result<(), ParseError> {
        self.line = *line;
        let text = text.trim();
        if let Some(label) = text.strip_suffix(':') {
            self.labels.insert(label.to_owned(), self.code.len());
            return Ok(());
        }
        if text.starts_with(".reg") {
            return self.declare(text);
        }
        if text.starts_with(".shared") || text.starts_with(".local") {
            let declared = Declaration::parse(*line, text)?;
            let array = Array { offset: 0, bytes: declared.bytes, align: declared.align };
            if declared.space == "shared" {
                self.own_shared.insert(declared.name, array);
            } else {
                let offset = self.local.next_multiple_of(declared.align);
                self.local = offset + declared.bytes;
                self.local_arrays.insert(declared.name, Array { offset, ..array });
            }
            return Ok(());
        }
        if text.starts_with(".pragma") {
            return Ok(());
        }
        self.instruction(text)
    }

    /// `.reg .b32 %r<12>;` or `.reg .b64 %SP;`
    fn declare(&mut self, text: &str) -> Result<(), ParseError> {
        let mut words = text.split_whitespace().skip(1);
        let ty = type_of(self.line, words.next().unwrap_or_default().trim_start_matches('.'))?;
        for name in words.flat_map(|word| word.split(',')).filter(|name| !name.is_empty()) {
            let (name, count) = match name.split_once('<') {
                Some((name, count)) => (name, count.trim_end_matches('>').parse::<u32>().unwrap_or(0)),
                None => (name, 1),
            };
            let first = self.counts[ty.width() as usize];
            self.counts[ty.width() as usize] += count;
            self.registers.insert(name.to_owned(), (ty.width(), first, count));
        }
        Ok(())
    }

    fn instruction(&mut self, text: &str) -> Result<(), ParseError> {
        self.now = blank(self.line);
        self.uses.clear();
        self.narrow_address = false;
        let mut text = text;
        if let Some(rest) = text.strip_prefix('@') {
            let (guard, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let name = guard.trim_start_matches('!');
            self.read(Place::Guard, name, Type::Predicate)?;
            self.now.negated = name.len() < guard.len();
            text = rest.trim();
        }
        let (mnemonic, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let words: Vec<&str> = mnemonic.split('.').collect();
        let operands = split(rest);
        if words[0] == "bra" {
            let Some(&target) = operands.first() else { return error(self.line, "a branch to nowhere") };
            self.jumps.push((self.code.len(), target.to_owned(), self.line));
            self.now.op = Op::Branch;
        } else if !(self.arithmetic(&words, &operands)? || self.memory(&words, &operands)?) {
            return error(self.line, format!("the instruction {mnemonic} is not known"));
        }
        let (instruction, uses) = (self.now, std::mem::take(&mut self.uses));
        self.code.push(Draft { instruction, uses });
        Ok(())
    }

    /// Branches get their targets. The end of the code is an exit.
    fn link(&mut self) -> Result<(), ParseError> {
        for (at, label, line) in std::mem::take(&mut self.jumps) {
            let Some(&target) = self.labels.get(&label) else {
                return error(line, format!("there is no label {label}"));
            };
            self.code[at].instruction.offset = target as i64;
        }
        self.code.push(Draft { instruction: Instruction { op: Op::Exit, ..blank(self.line) }, uses: Vec::new() });
        Ok(())
    }

    pub(super) fn place(&mut self, used: Use, slot: Slot) {
        match used.place {
            Place::D => self.now.d = slot,
            Place::A => self.now.a = slot,
            Place::B => self.now.b = slot,
            Place::C => self.now.c = slot,
            Place::Guard => self.now.guard = slot,
            Place::List(at) => self.lists[at] = slot,
        }
        self.uses.push(used);
    }

    /// Room for `count` operands in the lists; gives the index of the first.
    pub(super) fn list(&mut self, count: usize) -> usize {
        let first = self.lists.len();
        self.lists.resize(first + count, NONE);
        first
    }

    pub(super) fn fresh(&mut self, width: Width) -> Slot {
        self.counts[width as usize] += 1;
        self.counts[width as usize] - 1
    }

    pub(super) fn constant(&mut self, width: Width, bits: u64) -> Slot {
        let bits = if width == Width::W32 { u64::from(bits as u32) } else { bits };
        if let Some(&slot) = self.constants.get(&(width, bits)) {
            return slot;
        }
        let slot = self.fresh(width);
        self.constants.insert((width, bits), slot);
        slot
    }

    pub(super) fn special(&mut self, special: Special) -> Slot {
        if let Some(&slot) = self.specials.get(&special) {
            return slot;
        }
        let slot = self.fresh(Width::W32);
        self.specials.insert(special, slot);
        slot
    }

    /// The address of the dynamic array, if that is its name.
    pub(super) fn dynamic_array(&mut self, name: &str, width: Width) -> Option<Slot> {
        self.around.dynamic.iter().find(|dynamic| *dynamic == name)?;
        let at = width as usize;
        let slot = self.dynamic[at].unwrap_or_else(|| self.fresh(width));
        self.dynamic[at] = Some(slot);
        Some(slot)
    }

    /// The offset of an array in shared memory, which takes room when it is first named.
    pub(super) fn shared_array(&mut self, name: &str) -> Option<u32> {
        if let Some(&offset) = self.shared.get(name) {
            return Some(offset);
        }
        let outside = self.around.shared.iter().find(|(known, _)| known == name).map(|(_, array)| *array);
        let array = self.own_shared.get(name).copied().or(outside)?;
        let offset = self.shared_used.next_multiple_of(array.align.max(1));
        self.shared_used = offset + array.bytes;
        self.shared.insert(name.to_owned(), offset);
        Some(offset)
    }
}

fn blank(line: u32) -> Instruction {
    Instruction { op: Op::Fence, guard: NONE, negated: false, d: NONE, a: NONE, b: NONE, c: NONE, offset: 0, line }
}
