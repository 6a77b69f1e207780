//! Clipping by the norm of the whole gradient on a GPU.

use crate::harness::clip::every_rule_sees_the_scaled_gradient;
use crate::harness::gpu;

#[test]
fn every_rule_gets_one_scaled_gradient() {
    every_rule_sees_the_scaled_gradient(1, &|| Box::new(gpu::open()));
}
