//! What every backend must pass, on the emulated device and on a real one.

use crate::harness::gpu::{emulated, required, set_order};
use tetrad::backend::cuda::{Cuda, Search};
use tetrad::backend::ops::conformance;

#[test]
fn every_operation_conforms_to_its_reference() {
    for order in [0, 3] {
        set_order(order);
        let search = if required() { Search::usual() } else { emulated() };
        conformance::check(&|| Box::new(Cuda::open_with(0, &search).expect("a device that opens")));
    }
}
