//! In which order other programs keep the rows of queries and keys. What they call parameters is in the model's specs.

/// Order of the rows of a tensor. Rotary embeddings rotate pairs of elements: here and in Hugging Face's files the pairs
/// are `i` and `i + D/2` of a head, in GGUF's `llama` architecture `2 i` and `2 i + 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// The same as ours.
    Same,
    /// Pairs side by side, in heads of this many rows.
    Paired(usize),
}

impl RowOrder {
    /// The row of the other format that is our row `row`.
    pub fn theirs(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Paired(size) => {
                let (head, i) = (row / size, row % size);
                head * size + i % (size / 2) * 2 + i / (size / 2)
            }
        }
    }

    /// The elements of a vector with one for each row, such as a bias, in our order.
    pub fn vector<T: Copy>(self, theirs: &[T]) -> Vec<T> {
        (0..theirs.len()).map(|row| theirs[self.theirs(row)]).collect()
    }

    /// The inverse: our row that is row `row` of the other format.
    pub fn ours(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Paired(size) => {
                let (head, i) = (row / size, row % size);
                head * size + i % 2 * (size / 2) + i / 2
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_there_and_back() {
        let order = RowOrder::Paired(6);
        // Ours: 0 1 2 | 3 4 5 are the first and second elements of the pairs.
        let theirs: Vec<usize> = (0..12).map(|row| order.ours(row)).collect();
        assert_eq!(theirs, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        assert_eq!(order.vector(&theirs), (0..12).collect::<Vec<_>>(), "a bias goes the way of its rows");
        assert!((0..12).all(|row| order.theirs(order.ours(row)) == row && order.ours(order.theirs(row)) == row));
    }
}
