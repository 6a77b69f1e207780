//! Planes: arrays of one element type, laid out over a matrix. The only computation of a plane's bytes.

use super::GroupedShape;

/// The type of a plane's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// 16-bit brain float.
    Bf16,
    /// Signed byte.
    I8,
    /// Unsigned byte.
    U8,
    /// Half a byte, in blocks of 32 elements.
    Nibble,
    /// A power of two, 2^(e - 127) for byte e; 255 is not a number. MX formats call it E8M0.
    PowerOfTwo,
}

impl Element {
    /// Its name in SPEC.md, in `dump` and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::Nibble => "nibble",
            Self::PowerOfTwo => "e8m0",
        }
    }

    /// Bits of one element.
    pub const fn bits(self) -> u64 {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::I8 | Self::U8 | Self::PowerOfTwo => 8,
            Self::Nibble => 4,
        }
    }

    /// Whether elements are codes: then the rows of a plane with one element per weight are padded to whole groups.
    pub const fn is_code(self) -> bool {
        matches!(self, Self::I8 | Self::U8 | Self::Nibble)
    }
}

/// What one element of a plane belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Per {
    /// One weight. Rows of codes are padded to whole groups, rows of floats are not.
    Weight,
    /// One group of a row.
    Group,
    /// One row.
    Row,
    /// One column.
    Col,
    /// The tensor, which has this many.
    Tensor(usize),
}

/// The type and layout of a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlaneLayout {
    /// Type of its elements.
    pub element: Element,
    /// What each of them belongs to.
    pub per: Per,
}

impl PlaneLayout {
    /// A layout.
    pub const fn new(element: Element, per: Per) -> Self {
        Self { element, per }
    }

    /// Bytes of the plane of a matrix.
    pub fn bytes(self, shape: GroupedShape) -> usize {
        self.bytes_of(shape.rows as u64, shape.cols as u64, shape.group as u64) as usize
    }

    /// Bytes of one row of the plane of a matrix; all of them where elements do not belong to rows.
    pub fn row_bytes(self, shape: GroupedShape) -> usize {
        self.bytes(GroupedShape { rows: 1, ..shape })
    }

    /// Bytes of the plane of a matrix `[rows, cols]` in groups of `group` elements (0: there are no groups). The
    /// matrix has at most 2^48 elements, padding included, so that nothing overflows.
    pub fn bytes_of(self, rows: u64, cols: u64, group: u64) -> u64 {
        let groups = if group == 0 { 0 } else { rows * cols.div_ceil(group) };
        let elements = match self.per {
            Per::Weight if self.element.is_code() => groups * group,
            Per::Weight => rows * cols,
            Per::Group => groups,
            Per::Row => rows,
            Per::Col => cols,
            Per::Tensor(count) => count as u64,
        };
        elements * self.element.bits() / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_padded_to_whole_groups_and_floats_are_not() {
        let shape = GroupedShape::new(3, 100, 64);
        let bytes = |element, per| PlaneLayout::new(element, per).bytes(shape);
        assert_eq!(bytes(Element::F32, Per::Weight), 3 * 100 * 4);
        assert_eq!(bytes(Element::Bf16, Per::Weight), 3 * 100 * 2);
        assert_eq!(bytes(Element::I8, Per::Weight), shape.padded_len());
        assert_eq!(bytes(Element::Nibble, Per::Weight), shape.nibble_bytes());
        assert_eq!(bytes(Element::F16, Per::Group), 2 * shape.groups());
        assert_eq!((bytes(Element::F32, Per::Row), bytes(Element::F32, Per::Col)), (12, 400));
        assert_eq!(bytes(Element::F32, Per::Tensor(8)), 32);
        assert_eq!(PlaneLayout::new(Element::Nibble, Per::Weight).row_bytes(shape), 64);
    }
}
