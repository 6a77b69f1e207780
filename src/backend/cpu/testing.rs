//! The harness of the CPU's tests: a plan, the operands in it, and one check for every instruction set and number of
//! threads.

use super::{Cpu, Isa};
use crate::backend::ops::reference::Planes;
use crate::backend::testing::close;
use crate::backend::{Backend, DeviceInfo, MaxShapes, Memory, Weight};
use crate::memory::{Category, Lifetime, Plan, Span};
use zerocopy::IntoBytes;

/// Operands of an operation under test.
#[derive(Default)]
pub(crate) struct Rig {
    plan: Plan,
    uploads: Vec<(Span, Vec<u8>)>,
}

impl Rig {
    pub fn add(&mut self, content: &(impl IntoBytes + zerocopy::Immutable + ?Sized)) -> Span {
        let bytes = content.as_bytes();
        let span = self.plan.add("", Category::Scratch, bytes.len(), Lifetime::ALWAYS);
        self.uploads.push((span, bytes.to_vec()));
        span
    }

    /// Room for `n` floats, filled with what an operation must not take for a result.
    pub fn out(&mut self, n: usize) -> Span {
        self.add(&vec![12345.0f32; n][..])
    }

    pub fn weight(&mut self, planes: &Planes) -> Weight {
        Weight {
            shape: planes.shape,
            kind: planes.kind,
            scheme: planes.scheme,
            data: self.add(&planes.data[..]),
            scales: self.add(&planes.scales[..]),
            offsets: self.add(&planes.offsets[..]),
            residue: Span::NONE,
        }
    }

    /// Runs `op` and returns the floats of `spans`.
    pub fn run(&self, isa: Isa, threads: usize, spans: &[Span], op: impl Fn(&mut dyn Backend) + Sync) -> Vec<Vec<f32>> {
        let max = MaxShapes { tokens: 600, features: 6000, inputs: 6000, keys: 300, parameter: 1 << 20, head_dim: 320 };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            let mut cpu = Cpu::with_isa(isa);
            let mut plan = self.plan.clone();
            let scratch = plan.add("", Category::Scratch, cpu.workspace_bytes(&max), Lifetime::ALWAYS);
            cpu.allocate(plan.total(), None, scratch).expect("memory");
            // Scratch that starts as NaN shows in a result if anything reads it before it is written.
            cpu.upload(&vec![0xff; scratch.bytes], scratch);
            self.uploads.iter().filter(|(span, _)| !span.is_none()).for_each(|(span, bytes)| cpu.upload(bytes, *span));
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
                assert_eq!(
                    found.as_slice().concat().as_bytes(),
                    again.as_slice().concat().as_bytes(),
                    "{threads} threads"
                );
            }
            for (number, (found, (_, expected))) in found.iter().zip(expected).enumerate() {
                close(found, expected, tolerance, &format!("output {number}, {}", isa.name()));
            }
        }
    }
}
