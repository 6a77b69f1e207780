//! One row of a merged matrix: codes on the scales that the base has, and what they leave over.

use super::feed::Feed;
use crate::quant::{GroupScale, GroupedShape, QuantGrid, RngKey, RowEncoder, RowPlanes, WeightFormat};

/// Half of the distance between two uniform numbers.
const HALF_STEP: f32 = 1.0 / 131_072.0;

/// Rounds rows of one matrix.
///
/// The scales stay as they are: an adapter changes most weights by less than a step, and new scales would move the whole
/// lattice under them and round everything a second time. Only a group whose values have left its range gets a new scale.
/// Codes are rounded stochastically, so that a change far below a step survives in the mean; what a code leaves over goes to
/// the residue as far as that reaches, half a step to either side.
pub(super) struct RowMerger {
    format: WeightFormat,
    shape: GroupedShape,
    codes: QuantGrid,
    /// Of codes with their residue.
    whole: Option<QuantGrid>,
    encoder: RowEncoder,
    /// Uniform numbers, stored integers and scales of a row, padded.
    u: Vec<f32>,
    stored: Vec<f32>,
    groups: Vec<GroupScale>,
    rest: Vec<f32>,
}

impl RowMerger {
    /// For rows of a matrix of this format, which has groups.
    ///
    /// # Panics
    /// If it has none.
    pub fn new(format: WeightFormat, shape: GroupedShape) -> Self {
        let codes = format.with_residue(false).grid().expect("a format of codes");
        Self {
            format,
            shape,
            codes,
            whole: format.has_residue().then(|| format.grid().expect("codes with a residue have a grid")),
            encoder: RowEncoder::new(format, shape),
            u: vec![0.0; shape.padded_cols()],
            stored: vec![0.0; shape.padded_cols()],
            groups: Vec::with_capacity(shape.groups_per_row()),
            rest: Vec::new(),
        }
    }

    /// Rounds row `row` of values, which are used up, into planes that hold the base's scales and offsets of that row.
    /// With `feed` the error of each code is made up for by the codes after it, where that leaves less of it. Gives the groups that got new scales.
    pub fn merge(
        &mut self,
        values: &mut [f32],
        (key, row): (&RngKey, usize),
        feed: Option<&Feed>,
        out: &mut RowPlanes,
    ) -> usize {
        let refitted = self.scales(values, out);
        middles(key, (row, self.shape), &mut self.u);
        self.rest.clear();
        self.rest.extend_from_slice(values);
        self.round(values, None);
        if let Some(feed) = feed {
            // Feeding moves every code after the first that is off; a change so small that most codes stay where they are
            // does better without.
            let plain = std::mem::take(&mut self.stored);
            self.stored = vec![0.0; plain.len()];
            let cost = feed.cost(&self.errors(&plain));
            self.round(values, Some(feed));
            if feed.cost(&self.errors(&self.stored)) >= cost {
                self.stored = plain;
            }
        }
        let group = self.shape.group;
        if let Some(whole) = self.whole {
            for (i, value) in self.rest.iter().enumerate() {
                let high = whole.steps_per_scale * self.stored[i];
                let exact = (whole.exact(*value, self.groups[i / group]) + 0.5).floor();
                self.stored[i] = high + (exact - high).clamp(0.0, whole.steps_per_scale - 1.0);
            }
        }
        self.encoder.encode_stored(&self.stored, out);
        refitted
    }

    /// Rounds values to stored integers; with `feed` they are corrected on the way.
    fn round(&mut self, values: &mut [f32], feed: Option<&Feed>) {
        for i in 0..values.len() {
            let scale = self.groups[i / self.shape.group];
            let q = self.codes.store(values[i], scale, self.u[i]);
            self.stored[i] = q;
            if let Some(feed) = feed {
                feed.pass_on(i, values, self.codes.value(q, scale));
            }
        }
    }

    /// By how much each value of the row is off in what would be stored.
    fn errors(&self, stored: &[f32]) -> Vec<f32> {
        let value = |i: usize| self.codes.value(stored[i], self.groups[i / self.shape.group]);
        self.rest.iter().enumerate().map(|(i, exact)| exact - value(i)).collect()
    }

    /// Reads the scales of a row, and replaces those of groups that values have left.
    fn scales(&mut self, values: &[f32], out: &mut RowPlanes) -> usize {
        let (codes, element, mut refitted) = (self.codes, self.format.scale(), 0);
        self.groups.clear();
        for (i, values) in values.chunks(self.shape.group).enumerate() {
            let mut scale = GroupScale::read(element, out.scales, out.offsets, i);
            let inside = |value: &f32| (codes.min - 0.5..=codes.max + 0.5).contains(&codes.exact(*value, scale));
            if !values.iter().all(inside) {
                // As near to the values as the codes allow, unless there is a residue that will be trained.
                let target = if self.whole.is_some() { codes.target } else { codes.tight };
                scale = QuantGrid { target, ..codes }.rescale(values, self.format.codec().has_offsets());
                scale.write(element, out.scales, out.offsets, i);
                refitted += 1;
            }
            self.groups.push(scale);
        }
        refitted
    }
}

/// A row as signed bytes, rounded stochastically: a light adapter moves most weights by less than a step, and to the nearest of them
/// nothing of it would be left.
pub(super) struct ByteRow {
    u: Vec<f32>,
    stored: Vec<f32>,
}

impl ByteRow {
    /// For rows of a matrix of this shape.
    pub fn new(shape: GroupedShape) -> Self {
        Self { u: vec![0.0; shape.padded_cols()], stored: vec![0.0; shape.padded_cols()] }
    }

    /// The stored integers, padded.
    pub fn stored(&self) -> &[f32] {
        &self.stored
    }

    /// Draws what a row is rounded by.
    pub fn draw(&mut self, (key, row): (&RngKey, usize), shape: GroupedShape) {
        middles(key, (row, shape), &mut self.u);
    }

    /// Rounds a group of values, from column `first` on, under the better of two scales: a sixteenth of the base's, on which every
    /// code of the base lies exactly, and the one that puts the largest magnitude at 127.
    pub fn round(&mut self, values: &[f32], base: Option<f32>, first: usize) -> GroupScale {
        let grid = QuantGrid::INT8;
        let own = QuantGrid { target: grid.max, ..grid }.rescale(values, false);
        let fine = base.map(|scale| half::f16::from_f32(scale / 16.0).to_f32()).filter(|scale| *scale > 0.0);
        let error = |scale: GroupScale| -> f32 {
            let wrong = values.iter().map(|&x| grid.value(grid.store(x, scale, 0.5), scale) - x);
            wrong.map(|x| x * x).sum()
        };
        let fine = fine.map(|scale| GroupScale { scale, offset: None }).filter(|&fine| error(fine) <= error(own));
        let scale = fine.unwrap_or(own);
        let here = first..first + values.len();
        for ((stored, u), &value) in self.stored[here.clone()].iter_mut().zip(&self.u[here]).zip(values) {
            *stored = grid.store(value, scale, *u);
        }
        scale
    }
}

/// Uniform numbers of a row, in the middle of their steps: a code that stays is not lost to a division that ends just below it.
fn middles(key: &RngKey, (row, shape): (usize, GroupedShape), u: &mut [f32]) {
    key.uniform((row * shape.padded_cols()) as u64, u);
    u.iter_mut().for_each(|u| *u += HALF_STEP);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::RngUse;

    /// A change of a tenth of a step, on the codes of a base: nothing of it to the nearest, all of it in the mean.
    #[test]
    fn light_changes_survive_in_bytes_and_codes_that_stay_are_exact() {
        let (shape, scale, rows) = (GroupedShape::new(4000, 64, 64), 1.0 / 16.0, 4000);
        let base: Vec<f32> = (0..64).map(|i| scale * ((i % 15) as f32 - 7.0)).collect();
        let key = RngKey { seed: 1, step: 0, tensor: 0, usage: RngUse::Merge };
        let mut bytes = ByteRow::new(shape);
        let mut mean_change = |change: f32| {
            let values: Vec<f32> = base.iter().map(|base| base + change).collect();
            let sum: f64 = (0..rows)
                .map(|row| {
                    bytes.draw((&key, row), shape);
                    let scale = bytes.round(&values, Some(scale), 0);
                    let found = bytes.stored().iter().zip(&base);
                    found.map(|(q, base)| f64::from(QuantGrid::INT8.value(*q, scale) - base)).sum::<f64>()
                })
                .sum();
            sum / (64 * rows) as f64
        };
        let step = scale / 16.0;
        assert_eq!(mean_change(0.0), 0.0);
        let kept = mean_change(0.1 * step) / f64::from(0.1 * step);
        assert!((kept - 1.0).abs() < 0.03, "{kept}: five standard errors");
    }
}
