//! `dump --stats` of an adapter: how much each pair of matrices adds, and how far its offline module is from that.

use crate::cli::number::{self, short};
use crate::cli::table::Table;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::Path;
use tetrad::checkpoint::{Adapter, Checkpoint};
use tetrad::convert::adapter::{Pair, pairs};
use tetrad::error::CheckpointError;

/// What a pair adds to its matrix.
pub(super) struct Added {
    module: String,
    rank: usize,
    factor: f64,
    /// Root mean square of the elements of f B A.
    rms: f64,
    /// That of what the offline module adds less, or more, over `rms`.
    offline: Option<f64>,
}

/// Of every pair of an adapter's file; nothing of adapters that are no pairs.
///
/// # Errors
/// A file that is no adapter, or whose metadata do not describe its tensors.
pub(super) fn of(path: &Path) -> Result<Vec<Added>, CheckpointError> {
    let file = Checkpoint::open(path)?;
    let online = Adapter::of_module(&file, false)?;
    let offline = file.meta.has_offline().then(|| Adapter::of_module(&file, true)).transpose()?;
    let (online, offline) = (pairs(&online), offline.as_ref().map(pairs));
    let one = |(i, pair): (usize, &Pair<'_>)| {
        let count = (pair.a.len() / pair.site.rank * (pair.b_transposed.len() / pair.site.rank)) as f64;
        let factor = pair.site.factor * f64::from(pair.learned);
        let norm = norm(&[(pair, factor)]);
        let apart = offline.as_ref().map(|pairs| {
            let other = &pairs[i];
            self::norm(&[(pair, factor), (other, -other.site.factor * f64::from(other.learned))]) / norm
        });
        let (module, rank) = (pair.site.matrix.path(), pair.site.rank);
        Added { module, rank, factor, rms: norm / count.sqrt(), offline: apart }
    };
    Ok(online.par_iter().enumerate().map(one).collect())
}

/// The Frobenius norm of the sum of pairs' products, each with its factor: of C D that of C^T C times D D^T, element by element,
/// which are as small as the ranks.
fn norm(pairs: &[(&Pair<'_>, f64)]) -> f64 {
    let mut rows: Vec<(f64, &[f32], &[f32])> = Vec::new();
    for (pair, factor) in pairs {
        let rank = pair.site.rank;
        let of_b = pair.b_transposed.chunks(pair.b_transposed.len() / rank);
        rows.extend(pair.a.chunks(pair.a.len() / rank).zip(of_b).map(|(a, b)| (*factor, a, b)));
    }
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    let with = |(f, a, b): &(f64, &[f32], &[f32])| -> f64 {
        rows.iter().map(|(other_f, other_a, other_b)| f * other_f * dot(a, other_a) * dot(b, other_b)).sum()
    };
    let sum: f64 = rows.iter().map(with).sum();
    // A difference of equals may end just below 0.
    sum.max(0.0).sqrt()
}

/// A line for each pair.
pub(super) fn text(out: &mut dyn Write, found: &Result<Vec<Added>, CheckpointError>) -> io::Result<()> {
    let pairs = match found {
        Ok(pairs) if pairs.is_empty() => return Ok(()),
        Ok(pairs) => pairs,
        Err(error) => return writeln!(out, "\nwhat pairs of matrices add is not known: {error}"),
    };
    writeln!(
        out,
        "\nwhat pairs of matrices add (f B A); offline: how far the offline module's is from that, of its size"
    )?;
    let mut table = Table::new(&["module", "rank", "factor", "rms", "offline"], &[1, 2, 3, 4]);
    for pair in pairs {
        table.row([
            pair.module.clone(),
            pair.rank.to_string(),
            short(pair.factor),
            short(pair.rms),
            pair.offline.map_or_else(|| "-".into(), short),
        ]);
    }
    table.print(out)
}

/// The same as JSON.
pub(super) fn json(pairs: &[Added]) -> Value {
    let one = |pair: &Added| {
        let mut value = json!({
            "module": pair.module, "rank": pair.rank, "factor": number::json(pair.factor), "rms": number::json(pair.rms),
        });
        if let Some(apart) = pair.offline {
            value["offline"] = number::json(apart);
        }
        value
    };
    pairs.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetrad::model::{LowRankSite, MatrixSite};

    #[test]
    fn norms_are_those_of_the_products() {
        let pair = |a: &[f32], b: &[f32]| Pair {
            site: LowRankSite { matrix: MatrixSite::Head, rank: 2, factor: 0.5 },
            a: a.to_vec().into(),
            b_transposed: b.to_vec().into(),
            learned: 1.0,
            magnitude: None,
        };
        // B A = [[1, 2], [0, 3], [0, 0]] with B = [[1, 0], [0, 1], [0, 0]].
        let first = pair(&[1.0, 2.0, 0.0, 3.0], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        let second = pair(&[1.0, 0.0, 0.0, 3.0], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        assert!((norm(&[(&first, 0.5)]) - 0.5 * 14f64.sqrt()).abs() < 1e-12);
        assert!((norm(&[(&first, 0.5), (&second, -0.5)]) - 1.0).abs() < 1e-12, "they are 2 apart in one element");
        assert_eq!(norm(&[(&first, 0.5), (&first, -0.5)]), 0.0);
    }
}
