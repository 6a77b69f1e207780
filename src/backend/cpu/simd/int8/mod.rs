//! Products of activations in eight bits with weights that are unsigned integers: sums of a group's products are exact
//! integers, and groups are added in float32, one fused multiplication and addition each, in their order. The result is the
//! same bits on every instruction set that fuses, and however rows and columns are divided.

#[cfg(target_arch = "x86_64")]
mod avx2_dots;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_dots;
mod columns;
mod portable;
mod quantize;

pub(crate) use columns::{LeftTiles, WIDTH, WORDS, ZERO, columns_to_panels, columns_to_rows};
pub(crate) use quantize::{lay_by_quads, quantize_row, quantize_row_at_random};

use super::isa::Isa;
#[cfg(target_arch = "x86_64")]
use super::isa::Level;
use super::tile::TileMut;
use crate::quant::RowDecoder;

/// Rows of a tile.
pub(crate) const ROWS: usize = 6;
/// Columns of a tile.
pub(crate) const COLS: usize = 32;
/// Integers of a word, which is as long as a float32 and lies where one does: scratch is float32, and what is copied as such keeps
/// its bits.
pub(crate) const WORD: usize = 4;

/// How long the parts of an operand are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Groups {
    /// Groups of a row.
    pub count: usize,
    /// Words of a group.
    pub words: usize,
    /// Whether the weight's groups have offsets.
    pub offsets: bool,
}

/// Blocks of 32 integers that [`dots`] takes at once.
pub(crate) const QUAD: usize = 4;
/// Rows of a weight that [`dots`] takes at once: they share what is read of the inputs, and their sums are folded together.
const AT_ONCE: usize = 4;

impl Groups {
    /// Blocks of 32 integers of a row.
    fn blocks(self) -> usize {
        self.count * self.words / 8
    }

    /// Numbers of a row's scales in whole registers.
    fn row_scales(self) -> usize {
        self.count.next_multiple_of(16)
    }

    /// Room for the numbers of [`dots`], in words: four rows of them, and four numbers that are read past them.
    pub fn dots_room(self) -> usize {
        AT_ONCE * self.row_scales() + 4
    }
}

/// Some of the groups.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub first: usize,
    pub count: usize,
    /// Whether sums go on from what the output holds; else they begin.
    pub goes_on: bool,
}

/// A row of activations: signed bytes, four to a word, and then for each group the scale, minus the weight's zero times the
/// sum of the bytes (an integer), and scale times sum.
#[derive(Clone, Copy)]
pub(crate) struct LeftRow(Groups);

impl LeftRow {
    pub fn of(groups: Groups) -> Self {
        Self(groups)
    }

    /// Words of whole quads of blocks.
    fn codes(self) -> usize {
        (self.0.count * self.0.words).next_multiple_of(8 * QUAD)
    }

    /// Words of a row. Rows that are a power of two apart would compete for the same lines of the first cache.
    pub fn len(self) -> usize {
        self.codes() + 3 * self.0.count + 16
    }

    /// Where the scales begin.
    pub fn scales(self) -> usize {
        self.codes()
    }

    /// Where what sums begin with does.
    pub fn starts(self) -> usize {
        self.codes() + self.0.count
    }

    fn means(self) -> usize {
        self.codes() + 2 * self.0.count
    }
}

/// [`COLS`] rows of a weight side by side: for each word of them one row `[COLS]` of words, then for each group the scales
/// `[COLS]` and, if there are any, the offsets.
#[derive(Clone, Copy)]
pub(crate) struct Panel(Groups);

impl Panel {
    pub fn of(groups: Groups) -> Self {
        Self(groups)
    }

    /// Words of a panel's integers.
    pub fn codes(self) -> usize {
        self.0.count * self.0.words * COLS
    }

    /// Where the offsets begin.
    pub fn offsets(self) -> usize {
        self.codes() + self.0.count * COLS
    }

    /// Words of a panel.
    pub fn len(self) -> usize {
        self.offsets() + if self.0.offsets { self.0.count * COLS } else { 0 }
    }
}

/// `out = left panel` over the first of its groups, or `out += left panel` over others; `left` holds rows of [`LeftRow`] up to
/// the next multiple of [`ROWS`].
pub(crate) fn tile(isa: Isa, groups: Groups, left: &[f32], panel: &[f32], range: Range, out: TileMut<'_>) {
    let Range { first, count, .. } = range;
    assert!(out.rows() <= ROWS && out.cols() <= COLS, "a tile of {} x {}", out.rows(), out.cols());
    let inside = count <= groups.count && first <= groups.count - count;
    assert!(inside, "groups {first} and {count} more of {}", groups.count);
    assert!(ROWS * LeftRow(groups).len() <= left.len(), "a left operand cut short");
    assert!(Panel(groups).len() <= panel.len(), "a panel cut short");
    match isa.level() {
        // SAFETY: both features were detected, and the assertions above are what the kernel asks for.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if has_vnni() => unsafe { avx512::tile(groups, left, panel, range, out) },
        _ => portable::tile(isa, groups, left, panel, range, out),
    }
}

/// Rows of activations ([`LeftRow`], [laid by quads](lay_by_quads)) and rows `first..` of a weight as they are stored.
pub(crate) struct Dots<'a> {
    pub groups: Groups,
    pub left: &'a [f32],
    pub w: &'a RowDecoder<'a>,
    pub first: usize,
    /// Room for [`Groups::dots_room`].
    pub numbers: &'a mut [f32],
    /// A product for each element.
    pub out: TileMut<'a>,
    /// Whether products are added to what the output holds; else they replace it.
    pub goes_on: bool,
}

/// Dot products.
///
/// Of a product sixteen sums are kept apart until the end, lane `4 b + w` those of block `b` of each quad and of its words `w` and
/// `w + 4`, which are added as integers. So are sixteen of what the offsets give and of what corrects the weights' zero, lane `l`
/// those of groups `l, l + 16, ...`: (offset - zero scale) mean.
pub(crate) fn dots(isa: Isa, dots: Dots<'_>) {
    let Dots { groups, left, w, first, numbers, out, .. } = &dots;
    let shape = w.shape();
    assert!(out.rows() * LeftRow(*groups).len() <= left.len(), "a left operand cut short");
    assert!(numbers.len() >= groups.dots_room(), "room for {} numbers of {} groups", numbers.len(), groups.count);
    let inside = out.cols() <= shape.rows && *first <= shape.rows - out.cols();
    assert!(inside, "rows {first} and {} more of {}", out.cols(), shape.rows);
    assert!((shape.groups_per_row(), shape.group) == (groups.count, groups.words * WORD), "{groups:?} of {shape:?}");
    match isa.level() {
        // SAFETY: the features were detected, and the assertions above are what the kernel asks for; every group is whole blocks
        // of 32.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if has_vnni() => unsafe { avx512_dots::dots(dots) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx2 if w.integers().nibbles.is_some() => unsafe { avx2_dots::dots(dots) },
        _ => portable::dots(isa, dots),
    }
}

#[cfg(target_arch = "x86_64")]
fn has_vnni() -> bool {
    is_x86_feature_detected!("avx512vnni")
}
