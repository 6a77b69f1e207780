//! Operations on the CPU, with every instruction set and several numbers of threads.

use super::operands::{Harness, assert_near};
use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::backend::{Backend, Compute, MaxShapes, Memory as _};
use tetrad::memory::Span;
use zerocopy::IntoBytes;

/// The largest shapes of the tests.
const MAX: MaxShapes = MaxShapes {
    tokens: 600,
    features: 6000,
    inputs: 6000,
    keys: 300,
    parameter: 1 << 20,
    head_dim: 320,
    prefix: 0,
    compute: Compute::F32,
};

impl Harness {
    /// Runs `op` and returns the floats of `spans`.
    pub fn run(&self, isa: Isa, threads: usize, spans: &[Span], op: impl Fn(&mut dyn Backend) + Sync) -> Vec<Vec<f32>> {
        self.run_in(Compute::F32, isa, threads, spans, op)
    }

    /// The same with workspace for products in `compute`.
    pub fn run_in(
        &self,
        compute: Compute,
        isa: Isa,
        threads: usize,
        spans: &[Span],
        op: impl Fn(&mut dyn Backend) + Sync,
    ) -> Vec<Vec<f32>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            let mut cpu = Cpu::with_isa(isa);
            self.start(&mut cpu, &MaxShapes { compute, ..MAX });
            op(&mut cpu);
            let read = |span: &Span| {
                let mut out = vec![0f32; span.bytes / 4];
                cpu.download(*span, out.as_mut_bytes());
                out
            };
            spans.iter().map(read).collect()
        })
    }

    /// Runs `op` on every instruction set with 1, 2 and 3 threads: the same bits for any number of threads, and
    /// within `tolerance` (absolute, and relative to the expected value) of what is expected.
    pub fn check(&self, expected: &[(Span, Vec<f64>)], tolerance: f64, op: impl Fn(&mut dyn Backend) + Sync) {
        let spans: Vec<Span> = expected.iter().map(|(span, _)| *span).collect();
        for isa in Isa::available() {
            let found = self.run(isa, 1, &spans, &op);
            for threads in [2, 3] {
                let again = self.run(isa, threads, &spans, &op);
                assert_eq!(found.concat().as_bytes(), again.concat().as_bytes(), "{threads} threads");
            }
            for (number, (found, (_, expected))) in found.iter().zip(expected).enumerate() {
                assert_near(found, expected, tolerance, tolerance, &format!("output {number}, {}", isa.name()));
            }
        }
    }
}
