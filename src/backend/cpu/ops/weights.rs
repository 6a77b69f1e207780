//! Reads a weight: a piece of one row as float32, from any format. A packed weight is never dequantized as a whole.

use crate::backend::Weight;
use crate::backend::cpu::simd::isa::Isa;
use crate::backend::cpu::simd::nibbles;
use crate::memory::ArenaBorrow;
use crate::quant::RowDecoder;
use std::ops::Range;

/// Pieces start at multiples of this many columns: whole groups of every size.
pub(crate) const PIECE: usize = 256;

/// The planes of a weight.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a>(RowDecoder<'a>);

impl<'a> Rows<'a> {
    /// ArenaBorrow the planes that products read.
    ///
    /// # Panics
    /// If a plane's length does not fit the shape.
    pub fn claim(slices: &mut ArenaBorrow<'a>, w: &Weight) -> Self {
        Self(RowDecoder::new(w.format.with_residue(false), w.shape, |plane| slices.read(w.span(plane))))
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.0.shape().rows
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.0.shape().cols
    }

    /// The decoder of the rows.
    pub fn decoder(&self) -> &RowDecoder<'a> {
        &self.0
    }

    /// Asks for columns `from..from + len` of some rows, which are read soon; only a hint.
    pub fn prefetch(&self, rows: Range<usize>, from: usize, len: usize) {
        nibbles::prefetch(&self.0, rows, from, len);
    }

    /// Elements `from..from + out.len()` of a row.
    ///
    /// # Panics
    /// If `from` is not a multiple of [`PIECE`], or the piece is neither whole groups nor the row's end.
    pub fn read(&self, isa: Isa, row: usize, from: usize, out: &mut [f32]) {
        assert!(from.is_multiple_of(PIECE), "column {from}");
        nibbles::read(isa, &self.0, row, from, out);
    }
}
