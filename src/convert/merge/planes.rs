//! The planes of each tensor of a merged model.

use super::feed::Feed;
use super::round::{ByteRow, RowMerger};
use super::{Delta, Deltas};
use crate::format::{Decoder, File, PlaneKind, Role};
use crate::model::{ParamKind, ParamSpec};
use crate::quant::{GroupScale, GroupedShape, RngKey, RngUse, RowEncoder, RowPlanes, WeightFormat, WeightPlane};
use rayon::prelude::*;
use std::collections::HashMap;
use std::io;

/// The planes of one tensor, in the order of [`WeightPlane::ALL`], and how many of its groups got new scales.
pub(super) type MadePlanes = ([Vec<u8>; 4], u64);

/// Makes planes from a base and what is added to it.
pub(super) struct Maker<'a> {
    pub file: File<'a>,
    /// Of the merged model; the base has the same tensors in the same order, but for a head that was tied.
    pub entries: &'a [ParamSpec],
    pub deltas: Deltas,
    pub seed: u64,
}

impl Maker<'_> {
    /// The format of a tensor in the file: a residue where there is something to put in it.
    pub fn format(&self, entry: &ParamSpec) -> WeightFormat {
        entry.format.with_residue(self.has_residue(entry))
    }

    /// Whether a tensor of the merged model has a residue: of what is left over, or the base's own.
    pub fn has_residue(&self, entry: &ParamSpec) -> bool {
        entry.format.has_residue()
            && (self.deltas.contains_key(&entry.kind) || self.own(entry, PlaneKind::Residue).is_some())
    }

    fn tensor(&self, entry: &ParamSpec) -> usize {
        let tied = || self.file.tensor(&ParamKind::Embedding.name()).filter(|_| entry.kind == ParamKind::Head);
        let found = self.file.tensor(&entry.kind.name()).or_else(tied);
        found.expect("its tensors were checked when it was opened").0
    }

    /// A plane of the base.
    fn own(&self, entry: &ParamSpec, kind: PlaneKind) -> Option<&[u8]> {
        self.file.plane(self.tensor(entry), kind).map(|view| view.bytes)
    }

    /// Whether a tensor is the base's, byte for byte.
    fn is_kept(&self, entry: &ParamSpec) -> bool {
        self.file.tensors()[self.tensor(entry)].spec.storage == entry.format.codec()
            && !self.deltas.contains_key(&entry.kind)
    }

    /// The values of a row after merging.
    fn row(&self, decoder: &Decoder<'_>, kind: ParamKind, row: usize, out: &mut [f32]) {
        decoder.row(row, out);
        let deltas = || self.deltas.get(&kind).into_iter().flatten();
        let base = if deltas().any(|delta| delta.magnitude.is_some()) { out.to_vec() } else { Vec::new() };
        for delta in deltas() {
            let Some((magnitude, share)) = &delta.magnitude else {
                delta.add(row, out);
                continue;
            };
            let mut sum = base.clone();
            delta.add(row, &mut sum);
            let norm = sum.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt() as f32;
            let by = if norm > 0.0 { magnitude[row] / norm } else { 0.0 };
            out.iter_mut().zip(sum.iter().zip(&base)).for_each(|(x, (sum, base))| *x += share * (by * sum - base));
        }
    }

    /// All planes of a tensor that is not the base's.
    pub fn planes(&self, entry: &ParamSpec, feed: Option<&Feed>) -> MadePlanes {
        let (shape, format) = (entry.shape, self.format(entry));
        let decoder = Decoder::new(&self.file, self.tensor(entry), Role::Weight).expect("every tensor has a weight");
        let stays = self.file.tensors()[self.tensor(entry)].spec.storage == format.codec();
        let base = if stays { None } else { self.steps(entry) };
        let mut planes = WeightPlane::ALL.map(|plane| match plane {
            // They stay, but for groups that values leave.
            WeightPlane::Scales | WeightPlane::Offsets if stays && format.plane(plane).is_some() => {
                let kind = PlaneKind::of_weight(format.codec(), plane);
                self.own(entry, kind).map(<[u8]>::to_vec).unwrap_or_default()
            }
            _ => vec![0; format.plane_bytes(plane, shape)],
        });
        let key = RngKey { seed: self.seed, step: 0, tensor: entry.id, usage: RngUse::Merge };
        let refitted = RowPlanes::rows(&mut planes, shape.rows)
            .into_par_iter()
            .enumerate()
            .with_min_len(16)
            .map_init(
                || (Rounding::new(format, shape, stays), vec![0.0; shape.cols]),
                |(rounding, values), (row, mut out)| {
                    self.row(&decoder, entry.kind, row, values);
                    let scales = base.as_deref().map(|scales| &scales[row * shape.groups_per_row()..]);
                    rounding.round(values, (&key, row), (feed, scales), &mut out)
                },
            )
            .sum();
        (planes, refitted)
    }

    /// The scales of the base's groups, where they alone say what its codes are.
    fn steps(&self, entry: &ParamSpec) -> Option<Vec<f32>> {
        let spec = &self.file.tensors()[self.tensor(entry)].spec;
        let codec = spec.storage;
        if !codec.is_int4() || codec.has_offsets() || spec.group as usize != entry.shape.group {
            return None;
        }
        let scales = self.own(entry, PlaneKind::Scales)?;
        let element = WeightFormat::of(codec).scale();
        Some((0..entry.shape.groups()).map(|i| GroupScale::read(element, scales, &[], i).scale).collect())
    }
}

impl Delta {
    /// Adds its product's row to `out`.
    fn add(&self, row: usize, out: &mut [f32]) {
        for (share, a) in self.b[row * self.rank..][..self.rank].iter().zip(self.a.chunks_exact(out.len())) {
            let share = self.factor * share;
            out.iter_mut().zip(a).for_each(|(x, a)| *x += share * a);
        }
    }
}

/// How rows of a tensor are rounded.
enum Rounding {
    /// On the base's scales.
    Own(Box<RowMerger>),
    /// To signed bytes.
    Bytes(RowEncoder, Box<ByteRow>, GroupedShape),
    /// To floats.
    Floats(RowEncoder),
}

impl Rounding {
    fn new(format: WeightFormat, shape: GroupedShape, stays: bool) -> Self {
        match (format.is_quantized(), stays) {
            (false, _) => Self::Floats(RowEncoder::new(format, shape)),
            (true, true) => Self::Own(Box::new(RowMerger::new(format, shape))),
            (true, false) => Self::Bytes(RowEncoder::new(format, shape), Box::new(ByteRow::new(shape)), shape),
        }
    }

    fn round(
        &mut self,
        values: &mut [f32],
        at: (&RngKey, usize),
        (feed, base): (Option<&Feed>, Option<&[f32]>),
        out: &mut RowPlanes,
    ) -> u64 {
        match self {
            Self::Own(merger) => merger.merge(values, at, feed, out) as u64,
            Self::Floats(encoder) => {
                encoder.encode(values, out);
                0
            }
            Self::Bytes(encoder, bytes, shape) => {
                bytes.draw(at, *shape);
                let element = WeightFormat::INT8.scale();
                for (i, values) in values.chunks(shape.group).enumerate() {
                    let scale = bytes.round(values, base.map(|scales| scales[i]), i * shape.group);
                    scale.write(element, out.scales, &mut [], i);
                }
                encoder.encode_stored(bytes.stored(), out);
                0
            }
        }
    }
}

/// Sends planes to the file.
pub(super) struct Source<'a, 'b> {
    pub maker: &'a Maker<'b>,
    /// Those that were made beforehand.
    pub fed: HashMap<usize, MadePlanes>,
    /// The tensor that was asked for last, with its planes: they are asked for one after the other.
    pub latest: Option<(usize, MadePlanes)>,
    /// Groups with new scales, by tensor.
    pub refitted: HashMap<usize, u64>,
}

impl Source<'_, '_> {
    /// Sends one plane of a tensor to `sink`.
    pub fn send(
        &mut self,
        tensor: usize,
        kind: PlaneKind,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let entry = &self.maker.entries[tensor];
        if self.maker.is_kept(entry) {
            return sink(self.maker.own(entry, kind).expect("the layout was made from its planes"));
        }
        let planes = match self.fed.get(&tensor) {
            Some(fed) => fed,
            None => {
                if self.latest.as_ref().is_none_or(|(latest, _)| *latest != tensor) {
                    // Frees the old planes before the new ones are made.
                    self.latest = None;
                    self.latest = Some((tensor, self.maker.planes(entry, None)));
                }
                &self.latest.as_ref().expect("filled above").1
            }
        };
        self.refitted.insert(tensor, planes.1);
        let codec = entry.format.codec();
        let plane = WeightPlane::ALL.into_iter().find(|plane| PlaneKind::of_weight(codec, *plane) == kind);
        sink(&planes.0[plane.expect("the layout has planes of weights only") as usize])
    }
}
