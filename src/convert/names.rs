//! Names of our parameters in other formats, and the order of the rows of queries and keys there.

use crate::model::Role;

/// A parameter's name in a GGUF file.
pub fn gguf_name(role: Role) -> String {
    let (layer, part) = match role {
        Role::Embedding => return "token_embd.weight".into(),
        Role::FinalNorm => return "output_norm.weight".into(),
        Role::Head => return "output.weight".into(),
        Role::AttentionNorm(l) => (l, "attn_norm.weight"),
        Role::Query(l) => (l, "attn_q.weight"),
        Role::Key(l) => (l, "attn_k.weight"),
        Role::Value(l) => (l, "attn_v.weight"),
        Role::QueryBias(l) => (l, "attn_q.bias"),
        Role::KeyBias(l) => (l, "attn_k.bias"),
        Role::ValueBias(l) => (l, "attn_v.bias"),
        Role::QueryNorm(l) => (l, "attn_q_norm.weight"),
        Role::KeyNorm(l) => (l, "attn_k_norm.weight"),
        Role::Output(l) => (l, "attn_output.weight"),
        Role::FeedForwardNorm(l) => (l, "ffn_norm.weight"),
        Role::Gate(l) => (l, "ffn_gate.weight"),
        Role::Up(l) => (l, "ffn_up.weight"),
        Role::Down(l) => (l, "ffn_down.weight"),
    };
    format!("blk.{layer}.{part}")
}

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
