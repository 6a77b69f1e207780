//! Clipping by the norm of the whole gradient on a GPU.

use crate::harness::clip::every_rule_sees_the_scaled_gradient;
use crate::harness::gpu;

#[test]
fn every_rule_gets_one_scaled_gradient() {
    // What kernels may touch is checked where each is alone.
    gpu::checked(false, || every_rule_sees_the_scaled_gradient(1, &|| Box::new(gpu::open())));
}
