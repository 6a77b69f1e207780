//! The planes of each tensor, made from the rows of the source.

use super::ImportMode;
use super::kept::keep_row;
use crate::convert::source::{Source, Stored};
use crate::error::ConvertError;
use crate::format::PlaneKind;
use crate::model::ParamSpec;
use crate::quant::{Element, GroupedShape, RowEncoder, RowPlanes, WeightFormat, WeightPlane};
use half::{bf16, f16};
use rayon::prelude::*;
use std::io;
use zerocopy::IntoBytes;

/// Why a plane was not produced.
pub(super) enum Stop {
    Io(io::Error),
    Fault(ConvertError),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The planes of one tensor, in the order of [`WeightPlane::ALL`]; those that its format lacks are empty.
type Planes = [Vec<u8>; 4];

/// Makes planes from a source.
pub(super) struct Reader<'a> {
    pub source: &'a Source,
    pub entries: &'a [ParamSpec],
    pub modes: &'a [ImportMode],
    /// The tensor that was asked for last, with its planes: they are asked for one after the other.
    pub latest: Option<(usize, Planes)>,
}

/// Bytes of floats that are sent at once.
const PIECE: usize = 1 << 20;

impl Reader<'_> {
    /// Sends one plane of a tensor to `sink`.
    pub fn send(
        &mut self,
        tensor: usize,
        kind: PlaneKind,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Stop> {
        let entry = &self.entries[tensor];
        let stored = &self.source.tensors[&entry.kind];
        if self.modes[tensor] == ImportMode::Floats {
            return self.send_floats(entry, stored, sink);
        }
        if self.latest.as_ref().is_none_or(|(latest, _)| *latest != tensor) {
            // Frees the old planes before the new ones are made.
            self.latest = None;
            let planes = self.planes(entry, stored, self.modes[tensor]).map_err(|row| self.fault(stored, row))?;
            self.latest = Some((tensor, planes));
        }
        let planes = &self.latest.as_ref().expect("filled above").1;
        let codec = entry.format.codec();
        let plane = WeightPlane::ALL.into_iter().find(|plane| PlaneKind::of_weight(codec, *plane) == kind);
        sink(&planes[plane.expect("the layout has planes of weights only") as usize])?;
        Ok(())
    }

    fn fault(&self, stored: &Stored, row: usize) -> Stop {
        let path = self.source.files[stored.file].0.clone();
        let row = stored.order.theirs(row);
        Stop::Fault(ConvertError::NotFinite { path, tensor: stored.info.name.clone(), row })
    }

    /// Floats become floats as in every other converter: halves go to the even neighbour.
    fn send_floats(
        &self,
        entry: &ParamSpec,
        stored: &Stored,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Stop> {
        let shape = entry.shape;
        let mut values = vec![0.0f32; shape.cols];
        let mut piece: Vec<u8> = Vec::with_capacity(PIECE + 4 * shape.cols);
        for row in 0..shape.rows {
            stored.info.kind.decode(self.source.row(stored, row), &mut values);
            if !values.iter().all(|x| x.is_finite()) {
                return Err(self.fault(stored, row));
            }
            if entry.kind.is_vector() {
                // The bias of a product whose rows are in another order is in that order too.
                values = stored.order.vector(&values);
            }
            if entry.format.codec().element() == Element::Bf16 {
                piece.extend(values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()));
            } else {
                piece.extend_from_slice(values.as_bytes());
            }
            if piece.len() >= PIECE || row + 1 == shape.rows {
                sink(&piece)?;
                piece.clear();
            }
        }
        Ok(())
    }

    /// All planes of a tensor, or the first row that cannot be imported.
    fn planes(&self, entry: &ParamSpec, stored: &Stored, mode: ImportMode) -> Result<Planes, usize> {
        let (shape, kind) = (entry.shape, stored.info.kind);
        let residue = mode == ImportMode::Rounded && entry.format.has_residue();
        let format = entry.format.with_residue(residue);
        let mut planes = WeightPlane::ALL.map(|plane| vec![0; format.plane_bytes(plane, shape)]);
        RowPlanes::rows(&mut planes, shape.rows)
            .into_par_iter()
            .enumerate()
            .with_min_len(16)
            .map_init(
                || (encoder(format, shape), vec![0.0; shape.cols]),
                |(encoder, values), (row, mut out)| {
                    let bytes = self.source.row(stored, row);
                    let sound = match mode {
                        ImportMode::Kept => {
                            keep_row(kind, format.codec().has_offsets(), shape.groups_per_row(), bytes, &mut out)
                        }
                        _ => {
                            kind.decode(bytes, values);
                            // No scale reaches beyond the range of f16.
                            let sound = values.iter().all(|x| x.abs() <= f16::MAX.to_f32());
                            if sound {
                                encoder.encode(values, &mut out);
                            }
                            sound
                        }
                    };
                    if sound { Ok(()) } else { Err(row) }
                },
            )
            .collect::<Result<(), usize>>()?;
        Ok(planes)
    }
}

fn encoder(format: WeightFormat, shape: GroupedShape) -> RowEncoder {
    let encoder = RowEncoder::new(format, shape);
    encoder.tight()
}
