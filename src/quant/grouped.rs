//! Where an element of a matrix lies in its planes.
//!
//! A matrix `[rows, cols]` is cut along `cols` into groups of `group` elements; every row is padded to whole
//! groups. One group has one scale (and one offset, if asymmetric). In a nibble plane each block of 32 elements is
//! 16 bytes: byte `j` holds element `j` in its low nibble and element `j + 16` in its high nibble (the order of
//! GGUF's Q4_0).

/// Elements in one block of a nibble plane: the block of GGUF.
pub const BLOCK: usize = 32;

/// The supported group sizes.
pub const GROUPS: [usize; 4] = [32, 64, 128, 256];

/// The byte of a padding element: code 8, residue 8.
pub const PAD_NIBBLE: u8 = 8;

/// Shape of a grouped matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupedShape {
    /// Output features.
    pub rows: usize,
    /// Input features, the axis that is cut into groups.
    pub cols: usize,
    /// Elements per group, one of [`GROUPS`].
    pub group: usize,
}

impl GroupedShape {
    /// A shape.
    ///
    /// # Panics
    /// If `group` is not one of [`GROUPS`] or a dimension is zero.
    pub fn new(rows: usize, cols: usize, group: usize) -> Self {
        assert!(GROUPS.contains(&group), "group size {group} is not one of {GROUPS:?}");
        assert!(rows > 0 && cols > 0, "an empty matrix {rows} x {cols}");
        Self { rows, cols, group }
    }

    /// Groups in one row, the last of them padded.
    pub fn groups_per_row(&self) -> usize {
        self.cols.div_ceil(self.group)
    }

    /// Elements in one padded row.
    pub fn padded_cols(&self) -> usize {
        self.groups_per_row() * self.group
    }

    /// Groups in the matrix.
    pub fn groups(&self) -> usize {
        self.rows * self.groups_per_row()
    }

    /// Elements in all planes, padding included.
    pub fn padded_len(&self) -> usize {
        self.rows * self.padded_cols()
    }

    /// Elements without padding.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Never: both dimensions are at least one.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes of one nibble plane.
    pub fn nibble_bytes(&self) -> usize {
        self.padded_len() / 2
    }
}

/// The byte of a nibble plane that holds padded element `i`, and the shift of its nibble (0 or 4).
#[inline(always)]
pub const fn nibble_place(i: usize) -> (usize, u32) {
    let (block, k) = (i / BLOCK, i % BLOCK);
    (block * 16 + k % 16, (k / 16) as u32 * 4)
}

/// Nibble `i` of a plane.
#[inline(always)]
pub fn nibble(plane: &[u8], i: usize) -> u8 {
    let (byte, shift) = nibble_place(i);
    plane[byte] >> shift & 15
}

/// Sets nibble `i` of a plane to `value` (0..=15).
#[inline(always)]
pub fn set_nibble(plane: &mut [u8], i: usize, value: u8) {
    let (byte, shift) = nibble_place(i);
    plane[byte] = plane[byte] & !(15 << shift) | value << shift;
}

/// Unpacks whole blocks: `plane` holds `out.len()` nibbles.
///
/// # Panics
/// If `out.len()` is not a multiple of [`BLOCK`] or the plane is shorter.
#[inline(always)]
pub fn unpack(plane: &[u8], out: &mut [u8]) {
    assert!(out.len().is_multiple_of(BLOCK));
    let (planes, blocks) = (plane[..out.len() / 2].as_chunks::<16>().0, out.as_chunks_mut::<BLOCK>().0);
    for (&bytes, block) in planes.iter().zip(blocks) {
        let mut nibbles = [0; BLOCK];
        for j in 0..16 {
            nibbles[j] = bytes[j] & 15;
            nibbles[j + 16] = bytes[j] >> 4;
        }
        *block = nibbles;
    }
}

/// The inverse of [`unpack`]; nibbles above 15 are a programming error and spill into their neighbour.
///
/// # Panics
/// If `nibbles.len()` is not a multiple of [`BLOCK`] or the plane is shorter.
#[inline(always)]
pub fn pack(nibbles: &[u8], plane: &mut [u8]) {
    assert!(nibbles.len().is_multiple_of(BLOCK));
    let (blocks, planes) = (nibbles.as_chunks::<BLOCK>().0, plane[..nibbles.len() / 2].as_chunks_mut::<16>().0);
    for (block, bytes) in blocks.iter().zip(planes) {
        let mut packed = [0; 16];
        for j in 0..16 {
            packed[j] = block[j] | block[j + 16] << 4;
        }
        *bytes = packed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_that_of_q4_0() {
        let nibbles: Vec<u8> = (0..64).map(|i| (i * 7 % 16) as u8).collect();
        let mut plane = vec![0; 32];
        pack(&nibbles, &mut plane);
        assert_eq!(plane[0], nibbles[0] | nibbles[16] << 4);
        assert_eq!(plane[16], nibbles[32] | nibbles[48] << 4);
        let mut back = vec![0; 64];
        unpack(&plane, &mut back);
        assert_eq!(back, nibbles);
        for (i, &wanted) in nibbles.iter().enumerate() {
            assert_eq!(nibble(&plane, i), wanted);
            set_nibble(&mut plane, i, 15 - wanted);
            assert_eq!(nibble(&plane, i), 15 - wanted);
        }
    }

    #[test]
    fn rows_are_padded_to_whole_groups() {
        let g = GroupedShape::new(3, 5461, 256);
        assert_eq!((g.groups_per_row(), g.padded_cols(), g.groups()), (22, 5632, 66));
        assert_eq!(g.nibble_bytes(), 3 * 5632 / 2);
    }
}
