//! The reductions of the optimizer step, element by element in the stated order.

use tetrad::backend::adam::{AdamArgs, Clip};

/// Sum of squares in the stated order: 256 lanes, then halves; for tensors of one leaf.
pub fn squares(grad: &[f32], clip: Clip) -> f32 {
    sum::<256>(&grad.iter().map(|&x| clip.apply(x) * clip.apply(x)).collect::<Vec<f32>>())
}

/// Means of rows and columns after a step, from the gradient as it enters the moments; gives each element's v. The
/// order is the stated one: 32 lanes and their halves in a row, 64 rows and then these sums in a column, 256 lanes and
/// their halves over all rows. If `sparse`, rows of zeros keep their means.
pub fn means(kept: &mut [Vec<f32>; 2], grad: &[f32], sparse: bool, c: &AdamArgs) -> Vec<f32> {
    let [rows, cols] = kept;
    let (count, width) = (rows.len(), grad.len() / rows.len());
    let average =
        |old: f32, mean: f32| c.beta2 * if c.reset_before != 0 { 0.0 } else { old } + c.one_minus_beta2 * mean;
    let of_rows: Vec<f32> = (0..count)
        .map(|i| {
            let squares: Vec<f32> = grad[i * width..][..width].iter().map(|g| g * g).collect();
            match sparse && squares.iter().all(|&square| square == 0.0) {
                true => rows[i],
                false => average(rows[i], sum::<32>(&squares) / width as f32),
            }
        })
        .collect();
    let mean = sum::<256>(&of_rows) / count as f32;
    let of_cols: Vec<f32> = (0..cols.len())
        .map(|j| {
            let square = |i: usize| grad[i * width + j] * grad[i * width + j];
            let blocks = (0..count).step_by(64).map(|from| (from..count.min(from + 64)).map(square).fold(0.0, add));
            average(cols[j], blocks.fold(0.0, add) / count as f32)
        })
        .collect();
    let factor = |j: usize| if mean > 0.0 { of_cols[j] / mean } else { 0.0 };
    let v = |k: usize| of_rows[k / width] * if of_cols.is_empty() { 1.0 } else { factor(k % width) };
    let all = (0..grad.len()).map(v).collect();
    let after = |new: Vec<f32>| if c.reset_after != 0 { vec![0.0; new.len()] } else { new };
    *kept = [after(of_rows), after(of_cols)];
    all
}

fn add(a: f32, b: f32) -> f32 {
    a + b
}

fn sum<const LANES: usize>(values: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    values.iter().enumerate().for_each(|(i, x)| lanes[i % LANES] += x);
    let mut count = LANES;
    while count > 1 {
        count /= 2;
        (0..count).for_each(|i| lanes[i] += lanes[i + count]);
    }
    lanes[0]
}
