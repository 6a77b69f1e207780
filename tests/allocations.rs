//! All memory of a run is allocated before step 0: no step and no evaluation allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use tetrad::backend::cpu::Cpu;
use tetrad::config::{ActivationQuant, Config};
use tetrad::train::Trainer;

static CALLS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator as it came; the counter touches no memory of theirs.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = CALLS.load(Ordering::SeqCst);
    work();
    CALLS.load(Ordering::SeqCst) - before
}

/// One test, so that no other runs beside it and is counted with it.
#[test]
fn no_step_and_no_evaluation_allocates() {
    assert!(allocations(|| drop(std::hint::black_box(vec![1u8; 100]))) > 0, "the counter counts");
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            for (tied, quant) in [(false, ActivationQuant::None), (true, ActivationQuant::Int4)] {
                let mut config = Config::default();
                (config.model.tied, config.activations.quant) = (tied, quant);
                (config.train.batch, config.train.sequence) = (4, 64);
                let mut trainer = Trainer::new(&config, Box::new(Cpu::new()));
                trainer.initialize();
                let inputs: Vec<u32> = (0..256).collect();
                let targets: Vec<u32> = (0..256).rev().collect();
                // The first steps let the pool's own queues grow.
                for _ in 0..3 {
                    trainer.step(&inputs, &targets);
                }
                let count = allocations(|| {
                    for _ in 0..3 {
                        trainer.step(&inputs, &targets);
                    }
                    trainer.evaluate(4, &inputs, &targets);
                });
                assert_eq!(count, 0, "with {threads} threads, tied {tied}");
            }
        });
    }
}
