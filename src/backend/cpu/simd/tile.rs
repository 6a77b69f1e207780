//! Rectangles of a row-major matrix that several threads write at once: what `chunks_mut` is to a slice.

use std::marker::PhantomData;

/// A rectangle of a float32 matrix, borrowed for writing.
pub struct TileMut<'a> {
    base: *mut f32,
    stride: usize,
    rows: usize,
    cols: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: a tile is an exclusive borrow of its elements, and f32 is Send.
unsafe impl Send for TileMut<'_> {}

impl<'a> TileMut<'a> {
    /// The first `cols` elements of each of the `rows` rows that start `stride` elements apart.
    ///
    /// # Panics
    /// If `data` does not hold them or rows overlap.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(cols <= stride, "{cols} columns in rows {stride} apart");
        let end = rows.checked_sub(1).map_or(Some(0), |last| last.checked_mul(stride)?.checked_add(cols));
        assert!(end.is_some_and(|end| end <= data.len()), "{rows} x {cols} in {} elements", data.len());
        Self { base: data.as_mut_ptr(), stride, rows, cols, life: PhantomData }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements between the starts of two rows.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The first element; row `i` starts `i * stride` elements after it.
    pub fn as_mut_ptr(&mut self) -> *mut f32 {
        self.base
    }

    /// A row.
    ///
    /// # Panics
    /// If there is none.
    #[inline]
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: `new` (or the tile this was cut from) proved that all rows lie in the borrowed slice; the borrow
        // of `self` excludes every other access to this tile, and tiles of one grid share no element.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(row * self.stride), self.cols) }
    }

    /// The rectangle of `rows` x `cols` at (`row`, `col`).
    ///
    /// # Panics
    /// If it is not inside.
    #[inline]
    pub fn part(&mut self, row: usize, col: usize, rows: usize, cols: usize) -> TileMut<'_> {
        let inside = |from: usize, count: usize, all: usize| from <= all && count <= all - from;
        assert!(inside(row, rows, self.rows) && inside(col, cols, self.cols), "a part outside of its tile");
        self.cut(row, col, rows, cols)
    }

    /// The first `cols` columns, and the rest.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_cols(self, cols: usize) -> (TileMut<'a>, TileMut<'a>) {
        assert!(cols <= self.cols, "{cols} columns of {}", self.cols);
        (self.cut(0, 0, self.rows, cols), self.cut(0, cols, self.rows, self.cols - cols))
    }

    /// [`TileMut::part`] without a check and without tying the result to `self`.
    fn cut(&self, row: usize, col: usize, rows: usize, cols: usize) -> TileMut<'a> {
        // `wrapping_add`: an empty part may start past the end; nothing is ever read through it.
        let base = self.base.wrapping_add(row * self.stride + col);
        TileMut { base, stride: self.stride, rows, cols, life: PhantomData }
    }

    /// Cuts it into rectangles of `rows` x `cols` (smaller at the edges), row by row of the grid.
    ///
    /// # Panics
    /// If `rows` or `cols` is zero.
    pub fn grid(self, rows: usize, cols: usize) -> Grid<'a> {
        assert!(rows > 0 && cols > 0, "a grid of empty tiles");
        Grid { across: self.cols.div_ceil(cols), down: self.rows.div_ceil(rows), next: 0, whole: self, rows, cols }
    }
}

/// The tiles of a grid with the row and column of their first elements; no two share an element.
pub struct Grid<'a> {
    whole: TileMut<'a>,
    rows: usize,
    cols: usize,
    across: usize,
    down: usize,
    next: usize,
}

impl<'a> Iterator for Grid<'a> {
    type Item = (usize, usize, TileMut<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.across * self.down {
            return None;
        }
        let (row, col) = (self.next / self.across * self.rows, self.next % self.across * self.cols);
        self.next += 1;
        let (rows, cols) = (self.rows.min(self.whole.rows - row), self.cols.min(self.whole.cols - col));
        Some((row, col, self.whole.cut(row, col, rows, cols)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.across * self.down - self.next;
        (left, Some(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_covers_every_element_once_and_nothing_beside() {
        for (rows, cols, stride) in [(1, 1, 1), (5, 7, 9), (12, 32, 32), (13, 33, 40), (0, 4, 4), (4, 0, 4)] {
            let mut data = vec![0.0; rows * stride];
            for (row, col, mut tile) in TileMut::new(&mut data, rows, cols, stride).grid(4, 6) {
                assert!(tile.rows() <= 4 && tile.cols() <= 6);
                for i in 0..tile.rows() {
                    for (j, x) in tile.row(i).iter_mut().enumerate() {
                        *x += (1 + (row + i) * stride + col + j) as f32;
                    }
                }
            }
            for (i, &x) in data.iter().enumerate() {
                assert_eq!(x, if i % stride < cols { (i + 1) as f32 } else { 0.0 });
            }
        }
    }

    #[test]
    fn a_tile_is_split_into_columns_that_share_no_element() {
        let mut data = [0.0; 12];
        let (mut left, mut right) = TileMut::new(&mut data, 3, 4, 4).split_cols(1);
        for i in 0..3 {
            left.row(i).fill(1.0);
            right.row(i).fill(2.0);
        }
        assert_eq!((left.cols(), right.cols()), (1, 3));
        assert_eq!(data, [1.0, 2.0, 2.0, 2.0, 1.0, 2.0, 2.0, 2.0, 1.0, 2.0, 2.0, 2.0]);
    }

    #[test]
    #[should_panic(expected = "outside of its tile")]
    fn a_part_outside_is_refused() {
        TileMut::new(&mut [0.0; 12], 3, 4, 4).part(1, 1, 2, 4);
    }

    #[test]
    #[should_panic(expected = "in 11 elements")]
    fn a_tile_past_the_end_is_refused() {
        TileMut::new(&mut [0.0; 11], 3, 4, 4);
    }
}
