//! What rules do with a whole weight or state tensor, where it is large enough to be cut among threads.

use crate::harness::operands::{FORMATS, Harness, Random};
use tetrad::backend::{Param, State};
use tetrad::quant::{GroupedShape, RngKey, RngUse, StateCodec, StateFormat, StateShape, StateSpec, WeightFormat};

/// Several blocks of rows, each row with padding.
const SHAPE: GroupedShape = GroupedShape { rows: 301, cols: 130, group: 64 };

fn param(weight: tetrad::backend::Weight, state: State) -> Param {
    Param { id: 5, group: 0, decay: true, sparse: false, weight, state }
}

#[test]
fn a_weight_is_added_and_its_squares_are_summed_block_by_block() {
    for format in FORMATS.into_iter().filter(|format| format.simulates().is_none()) {
        let (mut random, mut harness) = (Random(1), Harness::default());
        let planes = random.planes(SHAPE, format);
        let x = random.floats(SHAPE.len());
        let param = param(harness.weight(&planes), State::default());
        let (sum, squares) = (harness.add(&x[..]), harness.out(SHAPE.padded_len() / 32));
        let w = planes.values();
        let expected = w.iter().zip(&x).map(|(w, &x)| f64::from(x) + 0.5 * w).collect();
        let blocks = |row: &[f64]| (0..SHAPE.padded_cols() / 32).map(|b| square(row, 32 * b)).collect::<Vec<_>>();
        let of_blocks = w.chunks(SHAPE.cols).flat_map(blocks).collect();
        harness.check(&[(sum, expected), (squares, of_blocks)], 1e-5, |cpu| {
            cpu.add_weight(&param, sum, 0.5);
            cpu.weight_squares(&param, squares);
        });
    }
}

/// The sum of the squares of 32 elements of a row, or of as many as there are.
fn square(row: &[f64], from: usize) -> f64 {
    row.iter().skip(from).take(32).map(|x| x * x).sum()
}

#[test]
fn a_state_tensor_comes_back_as_it_was_stored() {
    for codec in [StateCodec::F32, StateCodec::Int8 { signed: true }, StateCodec::Int4 { signed: true }] {
        let (rows, cols) = (SHAPE.cols, SHAPE.rows);
        let (mut random, mut harness) = (Random(2), Harness::default());
        let weight = harness.weight(&random.planes(SHAPE, WeightFormat::F32));
        let format = StateFormat::new(codec, StateShape::Matrix { rows, cols });
        let state =
            State::place(&[StateSpec { name: "p", format }], SHAPE, &mut |_, bytes| harness.add(&vec![0u8; bytes]));
        let param = param(weight, state);
        // Whole numbers up to what a group's codes hold, the largest in each group, so that nothing is rounded.
        let most = codec.moment().map_or(7, |moment| i32::from(moment.max));
        let number = |i: usize| if (i % cols).is_multiple_of(32) { most } else { i as i32 * 7 % (2 * most + 1) - most };
        let x: Vec<f32> = (0..rows * cols).map(|i| number(i) as f32).collect();
        let (x_at, out) = (harness.add(&x[..]), harness.out(rows * cols));
        let key = RngKey { seed: 4, step: 5, tensor: param.id, usage: RngUse::StoredProjection };
        harness.check(&[(out, x.iter().map(|&x| x.into()).collect())], 0.0, |cpu| {
            let tensor = *param.state.get("p").expect("placed above");
            cpu.store_state(&param, &tensor, x_at, &key);
            cpu.load_state(&param, &tensor, out);
        });
    }
}
