//! What every backend must pass, for every instruction set and from any pool of threads.

use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::backend::ops::conformance;

#[test]
fn every_operation_conforms_to_its_reference() {
    for isa in Isa::available() {
        for threads in [1, 3] {
            conformance::check(&|| Box::new(Cpu::with_threads(isa, threads)));
        }
    }
}

/// The caller has a pool of one thread, which is not the backend's.
#[test]
fn a_caller_may_have_a_pool_of_another_size() {
    let caller = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    caller.install(|| conformance::check(&|| Box::new(Cpu::with_threads(Isa::best(), 2))));
}
