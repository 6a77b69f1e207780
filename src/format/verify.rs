//! The contents of the planes: checksums, padding, invalid codes and values.

use super::decode::{brain_value, half_value};
use super::directory::Plane;
use super::plane::PlaneKind;
use super::read::{File, PlaneView, Tensor};
use crate::error::ContentsError;
use crate::quant::{Element, GroupedShape, PAD_NIBBLE, StateCodec, nibble};
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

impl File<'_> {
    /// Checks every byte that opening does not: R33 to R37. Returns at most one finding per plane and per gap between
    /// planes, in file order; none if the file is valid.
    pub fn verify(&self) -> Vec<ContentsError> {
        let head = self.head();
        let starts = head.planes.iter().skip(1).map(|p| p.offset).chain([head.file_len()]);
        let gaps: Vec<_> = head.planes.iter().zip(starts).map(|(plane, next)| plane.range().end..next).collect();
        let planes = head.planes.par_iter().zip(gaps);
        let findings = planes.map(|(plane, gap)| [self.check_plane(plane).err(), self.check_padding(gap).err()]);
        findings.collect::<Vec<_>>().into_iter().flatten().flatten().collect()
    }

    /// Checks the planes that products read, as [`File::verify`] does; returns the first finding.
    pub fn verify_weights(&self) -> Option<ContentsError> {
        let planes = self.head().planes.par_iter().filter(|plane| !plane.kind.is_optimizer());
        planes.find_map_first(|plane| self.check_plane(plane).err())
    }

    /// Checks one plane: R33, R35 to R37. The checksum comes first: damage must not be reported as a faulty writer.
    fn check_plane(&self, plane: &Plane) -> Result<(), ContentsError> {
        let tensor = &self.head().tensors[plane.tensor];
        let view = self.view(plane);
        let found = xxh3_64(view.bytes);
        if found != plane.checksum {
            let (tensor, kind) = (tensor.spec.name.clone(), tensor.plane_name(plane.kind));
            return Err(ContentsError::PlaneChecksum { tensor, kind, found, stated: plane.checksum });
        }
        let check = Check { tensor, plane };
        match plane.element() {
            // Nothing is known of the contents, nor that the length goes with the shape.
            _ if matches!(plane.kind, PlaneKind::Other(_)) => Ok(()),
            Some(Element::F32 | Element::F16 | Element::Bf16) => check.values(&view),
            Some(Element::I8 | Element::U8 | Element::Nibble) => check.codes(&view),
            Some(Element::PowerOfTwo) => check.powers(&view),
            None => Ok(()),
        }
    }
}

struct Check<'a> {
    tensor: &'a Tensor,
    plane: &'a Plane,
}

impl Check<'_> {
    /// R37: values are finite, and not negative where a sign has no meaning.
    fn values(&self, view: &PlaneView<'_>) -> Result<(), ContentsError> {
        use PlaneKind as P;
        // Four-bit codes reach further on one side of zero; the sign of their scale tells which.
        let signed_scale = self.plane.kind == P::Scales && self.tensor.spec.storage.takes_residue();
        let unsigned = match self.plane.kind {
            P::Scales => !signed_scale,
            P::MScales | P::VScales | P::StateScales(_) | P::V | P::VRows | P::VCols => true,
            _ => false,
        };
        let allowed = if unsigned { "finite and not negative" } else { "finite" };
        let bad = |x: &f32| !x.is_finite() || (unsigned && *x < 0.0);
        let at = match (view.f32s(), view.u16s(), self.plane.element()) {
            (Some(values), _, _) => first(values.iter().map(|x| x.get()), bad),
            (_, Some(values), Some(Element::F16)) => first(values.iter().map(|x| half_value(*x)), bad),
            (_, Some(values), _) => first(values.iter().map(|x| brain_value(*x)), bad),
            _ => None,
        };
        match at {
            None => Ok(()),
            Some((index, found)) => {
                let (tensor, kind) = self.names();
                Err(ContentsError::Value { tensor, kind, index, found, allowed })
            }
        }
    }

    /// R37 for powers of two, one of which is not a number.
    fn powers(&self, view: &PlaneView<'_>) -> Result<(), ContentsError> {
        match view.bytes.iter().position(|&byte| byte == u8::MAX) {
            None => Ok(()),
            Some(index) => {
                let (tensor, kind) = self.names();
                let (index, found) = (index as u64, f32::NAN);
                Err(ContentsError::Value { tensor, kind, index, found, allowed: "a power of two, of a byte below 255" })
            }
        }
    }

    /// R35 and R36: padding elements and invalid codes.
    fn codes(&self, view: &PlaneView<'_>) -> Result<(), ContentsError> {
        use PlaneKind as P;
        let bytes = view.bytes;
        let signed_nibbles = match self.plane.kind {
            P::M => self.plane.element() == Some(Element::Nibble),
            P::State(_) => self.named().is_some_and(|(_, codec)| codec == StateCodec::Int4 { signed: true }),
            _ => false,
        };
        let (padding, forbidden, allowed): (u8, Option<u8>, _) = match (self.plane.kind, self.plane.element()) {
            (P::Codes | P::Residue, _) => (PAD_NIBBLE, None, ""),
            _ if signed_nibbles => (PAD_NIBBLE, Some(0), "1 to 15"),
            (_, Some(Element::I8)) => (0, Some(0x80), "-127 to 127"),
            _ => (0, None, ""),
        };
        let nibbles = self.plane.element() == Some(Element::Nibble);
        let element = |i: usize| if nibbles { nibble(bytes, i) } else { bytes[i] };
        // The record's length agrees with the shape (R23), so every index below is inside.
        let Some(g) = self.shape() else { return Ok(()) };
        if g.cols < g.padded_cols() {
            for row in 0..g.rows {
                let pads = row * g.padded_cols() + g.cols..(row + 1) * g.padded_cols();
                if let Some(i) = pads.into_iter().find(|&i| element(i) != padding) {
                    let (tensor, kind) = self.names();
                    let (found, expected) = (self.shown(element(i)), padding.into());
                    return Err(ContentsError::PaddingElement { tensor, kind, index: i as u64, found, expected });
                }
            }
        }
        let Some(forbidden) = forbidden else { return Ok(()) };
        match (0..g.padded_len()).find(|&i| element(i) == forbidden) {
            None => Ok(()),
            Some(i) => {
                let (tensor, kind) = self.names();
                Err(ContentsError::Code { tensor, kind, index: i as u64, found: self.shown(forbidden), allowed })
            }
        }
    }

    /// Shape and codec of the state tensor that the file names.
    fn named(&self) -> Option<(GroupedShape, StateCodec)> {
        let (entry, _) = self.plane.kind.named_state()?;
        let state = self.tensor.state.get(entry)?;
        Some((state.grouped_shape(&self.tensor.spec), state.format.codec))
    }

    /// The shape that the plane's codes are laid out in.
    fn shape(&self) -> Option<GroupedShape> {
        match self.named() {
            Some((shape, _)) => Some(shape),
            None => self.tensor.spec.grouped_shape(),
        }
    }

    /// A code as the signed or unsigned number it is.
    fn shown(&self, code: u8) -> i16 {
        if self.plane.element() == Some(Element::I8) { (code as i8).into() } else { code.into() }
    }

    fn names(&self) -> (String, String) {
        (self.tensor.spec.name.clone(), self.tensor.plane_name(self.plane.kind))
    }
}

/// The first value that is bad, with its index.
fn first(values: impl Iterator<Item = f32>, bad: impl Fn(&f32) -> bool) -> Option<(u64, f32)> {
    values.enumerate().find(|(_, x)| bad(x)).map(|(i, x)| (i as u64, x))
}
