//! The recorded four-bit numbers of the published code.

use crate::harness::quantizers::{check_activations, check_weights};
use tetrad::backend::cpu::{Cpu, Isa};

#[test]
fn golden_four_bit_weights() {
    Isa::available().for_each(|isa| check_weights(&|| Box::new(Cpu::with_isa(isa))));
}

#[test]
fn golden_four_bit_activations() {
    Isa::available().for_each(|isa| check_activations(&|| Box::new(Cpu::with_isa(isa))));
}
