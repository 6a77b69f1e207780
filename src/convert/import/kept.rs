//! Groups of 32 that keep their bits.

use crate::convert::quants::{GroupBits, Kind, group_bits};
use crate::quant::{QuantGrid, Rounding, RowPlanes};
use half::f16;

/// Copies the `groups` groups of a row of type `kind` into its planes, with offsets of their own where `offsets`. False
/// if a group holds what no group of ours can.
pub(super) fn keep_row(kind: Kind, offsets: bool, groups: usize, row: &[u8], out: &mut RowPlanes) -> bool {
    (0..groups).all(|i| {
        let bits = group_bits(kind, row, i).expect("only rows of such groups are kept");
        let bits = if offsets { bits.with_offset() } else { bits };
        let bits = match bits {
            GroupBits::Bytes { .. } if !bits.is_sound() => rounded_bytes(kind, row, i),
            bits => bits,
        };
        put(i, bits, out);
        bits.is_sound()
    })
}

fn put(i: usize, bits: GroupBits, out: &mut RowPlanes) {
    let mut set = |scale: &[u8], codes: &[u8]| {
        out.data[i * codes.len()..][..codes.len()].copy_from_slice(codes);
        out.scales[i * scale.len()..][..scale.len()].copy_from_slice(scale);
    };
    match bits {
        GroupBits::Symmetric { scale, codes } => set(&scale.to_le_bytes(), &codes),
        GroupBits::Floats { scale, codes } => set(&[scale], &codes),
        GroupBits::Bytes { scale, codes } => set(&scale.to_le_bytes(), &codes),
        GroupBits::Asymmetric { scale, offset, codes } => {
            set(&scale.to_le_bytes(), &codes);
            out.offsets[2 * i..][..2].copy_from_slice(&offset.to_le_bytes());
        }
    }
}

/// A Q8_0 group that our format has no bits for (code -128, negative scale), rounded; still unsound if its scale is
/// not finite.
fn rounded_bytes(kind: Kind, row: &[u8], i: usize) -> GroupBits {
    let (mut values, mut stored) = ([0.0; 32], [0.0; 32]);
    let size = kind.block_bytes();
    kind.decode(&row[i * size..][..size], &mut values);
    let sound = values.iter().all(|x| x.is_finite());
    let group_scale = QuantGrid::INT8.quantize(&values, false, Rounding::Nearest, &mut stored);
    let scale = if sound { f16::from_f32(group_scale.scale) } else { f16::NAN };
    GroupBits::Bytes { scale: scale.to_bits(), codes: stored.map(|q| q as i32 as u8) }
}
