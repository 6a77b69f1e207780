//! Some weights of a model, and what a step did to them.

use crate::backend::{Backend, Weight};
use crate::memory::Span;
use crate::model::{Model, ParamSpec};
use crate::quant::{Element, GroupScale, GroupedShape, Levels, WeightPlane, fp4, nibble};
use half::f16;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Pieces of rows in a sample: each costs a few small copies from the device.
const PIECES: usize = 32;

/// Weights of a piece at most.
const LONGEST: usize = 1024;

/// What the audit of one step found, on a sample of the matrices of the blocks. Shares are of the sampled weights or
/// groups. What the storage of the weights does not have is absent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AuditReport {
    /// Share of the stored values that the step changed; of packed weights, of the bytes of code and residue.
    pub moved_bytes: f64,
    /// Share of the codes that it changed.
    pub moved_codes: Option<f64>,
    /// Share of the codes that are others than at the start of the run, or where it was resumed.
    pub changed_codes: Option<f64>,
    /// Share of those code changes whose direction is opposite to the last one that was seen of the same weight.
    pub reversed_moves: Option<f64>,
    /// Share of the weights whose value the step left as it was: neither what is stored nor its scale changed.
    pub unmoved_updates: f64,
    /// Share of the groups whose scale rose since the last audit.
    pub rescaled_up: Option<f64>,
    /// Share of the groups whose scale fell since the last audit.
    pub rescaled_down: Option<f64>,
    /// Share of the codes at an end of their range.
    pub saturated_codes: Option<f64>,
    /// Median scale of the groups.
    pub median_scale: Option<f64>,
    /// Stable-SPAM: the median over all tensors of the factor that AdaGN multiplied the gradient by.
    pub adagn_factor: Option<f64>,
    /// Stable-SPAM: share of the tensors whose largest elements AdaClip cut.
    pub adaclip_share: Option<f64>,
}

impl AuditReport {
    /// From what changed in the step, and between it and the last audit.
    pub(super) fn new(step: &Change, since: &Change, median_scale: Option<f64>) -> Self {
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        Self {
            moved_bytes: share(step.moved, step.weights).unwrap_or(0.0),
            moved_codes: share(step.codes_moved, step.codes),
            changed_codes: None,
            reversed_moves: share(step.reversed, step.codes_moved),
            unmoved_updates: share(step.unmoved, step.weights).unwrap_or(1.0),
            rescaled_up: share(step.up + since.up, step.groups),
            rescaled_down: share(step.down + since.down, step.groups),
            saturated_codes: share(step.saturated, step.codes),
            median_scale,
            adagn_factor: None,
            adaclip_share: None,
        }
    }
}

/// In what two readings of a sample differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Weights that were compared, codes and groups among them.
    pub weights: u64,
    pub codes: u64,
    pub groups: u64,
    /// Stored values that differ.
    pub moved: u64,
    pub codes_moved: u64,
    /// Codes that went back.
    pub reversed: u64,
    /// Weights that kept both their stored value and their scale.
    pub unmoved: u64,
    /// Groups with a larger and with a smaller scale.
    pub up: u64,
    pub down: u64,
    /// Codes at an end of their range, in the second reading.
    pub saturated: u64,
}

/// A piece of one row of a weight: whole groups.
#[derive(Clone, Debug)]
struct Piece {
    element: Element,
    residue: bool,
    /// Type of the scales.
    scale: Element,
    /// Whether codes are four-bit floats, whose order is that of their ranks.
    floats: bool,
    /// Smallest and largest code.
    ends: Option<[i32; 2]>,
    /// Weights, and how many of them are in a group.
    weights: usize,
    group: usize,
    /// Where it lies in the planes (data, scales, offsets, residue).
    spans: [Span; 4],
    /// Where each begins in a reading.
    at: [usize; 4],
    /// Number of its first weight in the sample.
    first: usize,
}

/// Which weights are watched.
#[derive(Default)]
pub(super) struct Sample {
    pieces: Vec<Piece>,
    bytes: usize,
    /// Which part of a reading is of the weights that each rank updates.
    parts: Vec<Range<usize>>,
    /// The last direction in which each code moved: -1, 1, or 0 if none was seen.
    directions: Vec<i8>,
    /// Room for the scales of all groups.
    scales: Vec<f32>,
}

impl Sample {
    /// Pieces of rows of the blocks' matrices, which the seed alone chooses: as many of each matrix as the number of
    /// matrices allows. Those that one rank updates lie together.
    pub fn choose(model: &Model, seed: u64) -> Self {
        let entries = model.specs.iter().zip(&model.stored);
        let blocks =
            entries.filter(|(spec, _)| spec.trainable && spec.kind.block().is_some() && !spec.kind.is_vector());
        let random = |id: u32, what: u32| xxh3_64_with_seed(&[id.to_le_bytes(), what.to_le_bytes()].concat(), seed);
        let mut matrices: Vec<_> = blocks.map(|(spec, param)| (random(spec.id, 0), spec, param.weight)).collect();
        matrices.sort_unstable_by_key(|&(order, spec, _)| (order, spec.id));
        matrices.truncate(PIECES);
        matrices.sort_by_key(|(_, spec, _)| spec.owner);
        let mut sample = Self::default();
        let each = PIECES / matrices.len().max(1);
        for (_, ParamSpec { id, owner, .. }, weight) in matrices {
            let (id, rows) = (*id, weight.shape.rows);
            sample.begin_parts(owner + 1);
            let each = each.min(rows);
            let (from, stride) = (random(id, 1) as usize % rows, rows / each);
            for i in 0..each {
                sample.add(&weight, (from + i * stride) % rows, random(id, 2 + i as u32) as usize);
            }
        }
        sample.begin_parts(model.settings.execution.ranks);
        sample
    }

    /// The parts of so many ranks have begun: what is added from now on is of the last of them.
    fn begin_parts(&mut self, count: usize) {
        if let Some(last) = self.parts.last_mut() {
            last.end = self.bytes;
        }
        self.parts.resize(count, self.bytes..self.bytes);
    }

    /// See [`Sample::read`].
    pub fn parts(&self) -> &[Range<usize>] {
        &self.parts
    }

    /// Adds a piece of a row, which `random` chooses.
    fn add(&mut self, weight: &Weight, row: usize, random: usize) {
        let Weight { shape, format, .. } = *weight;
        let GroupedShape { cols, group, .. } = shape;
        let count = (LONGEST / group).max(1).min(shape.groups_per_row());
        let first_group = random % (shape.groups_per_row() - count + 1);
        let from = first_group * group;
        let weights = (count * group).min(cols - from);
        let mut at = [0; 4];
        let mut spans = [Span::NONE; 4];
        for (plane, layout) in format.planes() {
            let width = |weights: usize| layout.row_bytes(GroupedShape { cols: weights, ..shape });
            // A piece is a row that begins later and ends earlier.
            let begin = if from == 0 { 0 } else { width(from) };
            let span = weight.span(plane).part(row * layout.row_bytes(shape) + begin, width(weights));
            (spans[plane as usize], at[plane as usize]) = (span, self.bytes);
            self.bytes += span.bytes;
        }
        let element = format.planes().find(|(plane, _)| *plane == WeightPlane::Data).map(|(_, data)| data.element);
        let element = element.expect("every weight has data");
        // Of nibbles the grid may count the residue's steps; codes end where nibbles do.
        let ends = format.grid().map(|grid| match element {
            Element::Nibble if grid.levels == Levels::E2m1 => [0, 14],
            Element::Nibble => [0, 15],
            _ => [grid.min as i32, grid.max as i32],
        });
        let (first, residue) = (self.directions.len(), format.has_residue());
        self.directions.resize(first + weights, 0);
        if ends.is_some() {
            self.scales.resize(self.scales.len() + count, 0.0);
        }
        let floats = format.grid().is_some_and(|grid| grid.levels == Levels::E2m1);
        let scale = format.scale();
        self.pieces.push(Piece { element, residue, scale, floats, ends, weights, group, spans, at, first });
    }

    /// Bytes of a reading.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to watch.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Reads what lies here of the sample: the [part](Sample::parts) of this rank is whole.
    pub fn read(&self, backend: &dyn Backend, out: &mut [u8]) {
        for piece in &self.pieces {
            let here = |span: &Span| !span.is_none() && !span.is_away();
            for (&span, &at) in piece.spans.iter().zip(&piece.at).filter(|(span, _)| here(span)) {
                backend.download(span, &mut out[at..at + span.bytes]);
            }
        }
    }

    /// In what two readings differ; directions of codes are remembered.
    pub fn compare(&mut self, before: &[u8], after: &[u8]) -> Change {
        let mut change = Change::default();
        for piece in &self.pieces {
            let directions = &mut self.directions[piece.first..][..piece.weights];
            for (g, directions) in directions.chunks_mut(piece.group).enumerate() {
                piece.compare_group(g, [before, after], directions, &mut change);
            }
        }
        change
    }

    /// Share of the codes in which two readings differ, if there are codes.
    pub fn changed_codes(&self, before: &[u8], after: &[u8]) -> Option<f64> {
        let (mut codes, mut changed) = (0u64, 0u64);
        for piece in self.pieces.iter().filter(|piece| piece.ends.is_some()) {
            let code = |reading, i| piece.code(piece.stored(reading, i));
            codes += piece.weights as u64;
            changed += (0..piece.weights).filter(|&i| code(before, i) != code(after, i)).count() as u64;
        }
        (codes > 0).then(|| changed as f64 / codes as f64)
    }

    /// Median scale of all groups in a reading.
    pub fn median_scale(&mut self, reading: &[u8]) -> Option<f64> {
        let mut at = 0;
        for piece in self.pieces.iter().filter(|piece| piece.ends.is_some()) {
            for g in 0..piece.weights.div_ceil(piece.group) {
                self.scales[at] = piece.scale(reading, g);
                at += 1;
            }
        }
        median(&mut self.scales)
    }
}

/// The median, the upper one of an even number; nothing of nothing. Reorders the values.
pub(crate) fn median(values: &mut [f32]) -> Option<f64> {
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| f64::from(*values.select_nth_unstable_by(middle, f32::total_cmp).1))
}

impl Piece {
    fn compare_group(&self, g: usize, readings: [&[u8]; 2], directions: &mut [i8], change: &mut Change) {
        let mut same_scale = true;
        if self.ends.is_some() {
            let [before, after] = readings.map(|reading| self.scale(reading, g));
            same_scale = before == after && self.offset(readings[0], g) == self.offset(readings[1], g);
            change.groups += 1;
            change.up += u64::from(after > before);
            change.down += u64::from(after < before);
        }
        for (i, direction) in (g * self.group..).zip(directions) {
            let [before, after] = readings.map(|reading| self.stored(reading, i));
            change.weights += 1;
            change.moved += u64::from(before != after);
            change.unmoved += u64::from(before == after && same_scale);
            if let Some([lowest, highest]) = self.ends {
                let [before, after] = [before, after].map(|stored| self.code(stored));
                let way = (after - before).signum() as i8;
                change.codes += 1;
                change.saturated += u64::from(after == lowest || after == highest);
                if way != 0 {
                    change.codes_moved += 1;
                    change.reversed += u64::from(*direction == -way);
                    *direction = way;
                }
            }
        }
    }

    fn plane<'a>(&self, reading: &'a [u8], plane: WeightPlane) -> &'a [u8] {
        &reading[self.at[plane as usize]..][..self.spans[plane as usize].bytes]
    }

    /// The bits that are stored of weight `i`: of its residue the lowest four, if there is one.
    fn stored(&self, reading: &[u8], i: usize) -> u32 {
        let data = self.plane(reading, WeightPlane::Data);
        match self.element {
            Element::Nibble if self.residue => {
                u32::from(nibble(data, i)) << 4 | u32::from(nibble(self.plane(reading, WeightPlane::Residue), i))
            }
            Element::Nibble => u32::from(nibble(data, i)),
            Element::I8 | Element::U8 | Element::PowerOfTwo => u32::from(data[i]),
            Element::F16 | Element::Bf16 => u32::from(u16::from_le_bytes([data[2 * i], data[2 * i + 1]])),
            Element::F32 => u32::from_le_bytes([data[4 * i], data[4 * i + 1], data[4 * i + 2], data[4 * i + 3]]),
        }
    }

    /// The code among stored bits.
    fn code(&self, stored: u32) -> i32 {
        match self.element {
            Element::Nibble => {
                let code = if self.residue { (stored >> 4) as u8 } else { stored as u8 };
                i32::from(if self.floats { fp4::rank(code) } else { code })
            }
            Element::I8 => i32::from(stored as u8 as i8),
            _ => stored as i32,
        }
    }

    fn scale(&self, reading: &[u8], g: usize) -> f32 {
        GroupScale::read(self.scale, self.plane(reading, WeightPlane::Scales), &[], g).scale
    }

    fn offset(&self, reading: &[u8], g: usize) -> Option<f32> {
        let offsets = self.plane(reading, WeightPlane::Offsets);
        (!offsets.is_empty()).then(|| half_at(offsets, g))
    }
}

fn half_at(plane: &[u8], i: usize) -> f32 {
    f16::from_le_bytes([plane[2 * i], plane[2 * i + 1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::set_nibble;

    /// Forty weights in groups of 32: two bytes of scales, a block and a half of codes and of residues.
    fn sample() -> Sample {
        let plane = |bytes| Span { bytes, ..Span::NONE };
        let piece = Piece {
            element: Element::Nibble,
            residue: true,
            scale: Element::F16,
            floats: false,
            ends: Some([0, 15]),
            weights: 40,
            group: 32,
            spans: [plane(32), plane(4), Span::NONE, plane(32)],
            at: [0, 64, 0, 32],
            first: 0,
        };
        Sample { pieces: vec![piece], bytes: 68, directions: vec![0; 40], scales: vec![0.0; 2], ..Sample::default() }
    }

    fn reading(codes: &[(usize, u8)], residues: &[(usize, u8)], scales: [f32; 2]) -> Vec<u8> {
        let mut bytes = vec![0x88; 68];
        codes.iter().for_each(|&(i, code)| set_nibble(&mut bytes[..32], i, code));
        residues.iter().for_each(|&(i, low)| set_nibble(&mut bytes[32..64], i, low));
        let scales = scales.map(|scale| f16::from_f32(scale).to_le_bytes()).concat();
        bytes[64..].copy_from_slice(&scales);
        bytes
    }

    #[test]
    fn moves_are_counted_and_moves_back_are_told() {
        let mut sample = sample();
        let readings = [
            reading(&[], &[], [0.5, 0.25]),
            // Codes 3 and 39 rise, residue 5 falls, the second group's scale rises.
            reading(&[(3, 9), (39, 15)], &[(5, 7)], [0.5, 0.5]),
            // Nothing; then code 3 goes on to rise, and 39 falls; then 3 falls too, and the first scale.
            reading(&[(3, 9), (39, 15)], &[(5, 7)], [0.5, 0.5]),
            reading(&[(3, 10), (39, 14)], &[(5, 7)], [0.5, 0.5]),
            reading(&[(3, 9), (39, 14)], &[(5, 7)], [0.25, 0.5]),
        ];
        let changes: Vec<Change> = readings.windows(2).map(|pair| sample.compare(&pair[0], &pair[1])).collect();
        let all = Change { weights: 40, codes: 40, groups: 2, ..Change::default() };
        // Of the second group's eight weights none keeps its value, nor do 3 and 5 of the first.
        assert_eq!(changes[0], Change { moved: 3, codes_moved: 2, unmoved: 30, up: 1, saturated: 1, ..all });
        assert_eq!(changes[1], Change { unmoved: 40, saturated: 1, ..all });
        assert_eq!(changes[2], Change { moved: 2, codes_moved: 2, reversed: 1, unmoved: 38, ..all });
        assert_eq!(changes[3], Change { moved: 1, codes_moved: 1, reversed: 1, unmoved: 8, down: 1, ..all });
        assert_eq!(sample.median_scale(&readings[4]), Some(0.5));
        let changed = |from: usize, to: usize| sample.changed_codes(&readings[from], &readings[to]).unwrap();
        assert_eq!([changed(0, 1), changed(1, 2), changed(0, 4)], [0.05, 0.0, 0.05], "residues are no codes");
        let report = AuditReport::new(&changes[3], &changes[0], Some(0.5));
        assert_eq!((report.moved_bytes, report.unmoved_updates), (1.0 / 40.0, 8.0 / 40.0));
        assert_eq!((report.rescaled_up, report.rescaled_down), (Some(0.5), Some(0.5)));
        assert_eq!((report.moved_codes, report.reversed_moves), (Some(1.0 / 40.0), Some(1.0)));
    }
}
