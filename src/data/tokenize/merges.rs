//! Conversion between the scores of SentencePiece and the merges of `tokenizer.json`.

use std::collections::HashMap;

/// Most bytes of a piece for which merges are searched; longer ones are words added by hand.
const LONGEST: usize = 256;

/// The merges of a vocabulary with scores, best first. SentencePiece joins the two neighbours whose union has the
/// highest score, so every way of cutting a piece into two others is a merge of that piece's rank.
pub fn of_scores<'a>(pieces: &[(&'a str, f64)]) -> Vec<(&'a str, &'a str)> {
    let ids: HashMap<&str, usize> = pieces.iter().enumerate().map(|(id, piece)| (piece.0, id)).collect();
    let mut merges = Vec::new();
    for &(piece, score) in pieces.iter().filter(|piece| piece.0.len() <= LONGEST) {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                merges.push((score, l, r, (left, right)));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    merges.into_iter().map(|merge| merge.3).collect()
}

/// Scores in the order of merges: a piece has the negative rank of the first merge that produces it; pieces without a
/// merge come last.
pub fn to_scores(merges: &[(String, String)], tokens: &[String]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    tokens.iter().map(|token| -(*ranks.get(token).unwrap_or(&merges.len()) as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_become_merges_in_their_order_and_scores_again() {
        let pieces = [("a", -9.0), ("b", -9.0), ("c", -9.0), ("bc", -1.0), ("ab", -2.0), ("abc", -3.0), ("x1", 0.0)];
        let merges = of_scores(&pieces);
        assert_eq!(merges, [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")]);
        let owned: Vec<_> = merges.iter().map(|(l, r)| (l.to_string(), r.to_string())).collect();
        let tokens: Vec<String> = pieces.iter().map(|piece| piece.0.into()).collect();
        assert_eq!(to_scores(&owned, &tokens), [-4.0, -4.0, -4.0, 0.0, -1.0, -2.0, -4.0]);
    }
}
