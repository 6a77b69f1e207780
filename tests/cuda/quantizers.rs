//! The recorded four-bit numbers of the published code.

use crate::harness::gpu::open;
use crate::harness::quantizers::{check_activations, check_weights};

#[test]
fn golden_four_bit_weights() {
    check_weights(&|| Box::new(open()));
}

#[test]
fn golden_four_bit_activations() {
    check_activations(&|| Box::new(open()));
}
