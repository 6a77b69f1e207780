//! One allocation of device memory serves a whole run. Alone in its process, whose allocations are counted.

use crate::alone;
use crate::harness::adapter;
use crate::harness::gpu::{self, emulator};
use crate::harness::small::{batch, config, trainer, write};
use tetrad::model::{Generator, Offload};

/// One allocation for steps, evaluation, a sample and a save.
#[test]
fn nothing_is_allocated_on_the_device_after_the_arena() {
    alone("device::nothing_is_allocated_on_the_device_after_the_arena", || gpu::checked(false, count));
}

fn count() {
    if gpu::required() {
        // The driver's own figures stand in the report of benches/gpu.sh.
        eprintln!("SKIPPED: only the emulated driver counts allocations");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for offload in [Offload::Device, Offload::Host] {
        let mut config = config();
        (config.offload.weights, config.offload.optimizer) = (offload, offload);
        let (before, bytes) = (emulator().allocations(), emulator().live_bytes());
        let mut cuda = trainer(&config, Box::new(gpu::open()));
        assert_eq!(emulator().allocations() - before, 1, "the arena");
        assert_eq!(emulator().live_bytes() - bytes, cuda.plan().total() as u64, "of the planned size");
        let (inputs, targets) = batch(1);
        for _ in 0..2 {
            cuda.step(&inputs, &targets);
            cuda.evaluate(3, &inputs, &targets);
            let model = cuda.model().clone();
            Generator::new(&model).feed(cuda.backend_mut(), &[1, 2, 3]);
            write(&cuda, &folder.path().join("checkpoint"));
        }
        assert_eq!(cuda.backend().status(), Ok(()));
        assert_eq!(emulator().allocations() - before, 1, "after the arena");
    }
}

/// The same beside the frozen base of an adapter of every kind.
#[test]
fn adapters_on_the_device_are_in_the_one_allocation() {
    alone("device::adapters_on_the_device_are_in_the_one_allocation", || gpu::checked(false, count_adapters));
}

fn count_adapters() {
    if gpu::required() {
        eprintln!("SKIPPED: only the emulated driver counts allocations");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let base = adapter::base(folder.path());
    for (name, config) in adapter::kinds() {
        let (before, bytes) = (emulator().allocations(), emulator().live_bytes());
        let mut cuda = adapter::trainer(&config, &base, Box::new(gpu::open()));
        assert_eq!(emulator().live_bytes() - bytes, cuda.plan().total() as u64, "{name}: of the planned size");
        let (inputs, targets) = batch(1);
        cuda.step(&inputs, &targets);
        cuda.evaluate(3, &inputs, &targets);
        let model = cuda.model().clone();
        Generator::new(&model).feed(cuda.backend_mut(), &[1, 2, 3]);
        assert_eq!(cuda.backend().status(), Ok(()), "{name}");
        assert_eq!(emulator().allocations() - before, 1, "{name}: the arena alone");
    }
}
