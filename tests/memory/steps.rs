//! All memory of a run is allocated before step 0: no step and no evaluation allocates.

use crate::alone;
use crate::counting::allocations;
use crate::harness::{adapter, small};
use tetrad::backend::SecondMoment;
use tetrad::backend::cpu::Cpu;
use tetrad::config::Config;
use tetrad::model::{ActivationQuant, AdapterScale};
use tetrad::optim::{EmbeddingUpdate, OptimizerConfig, Rule};
use tetrad::train::{Audit, Trainer};

#[test]
fn no_step_and_no_evaluation_allocates() {
    alone("steps::no_step_and_no_evaluation_allocates", count);
}

fn count() {
    assert!(allocations(|| drop(std::hint::black_box(vec![1u8; 100]))) > 0, "the counter counts");
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            for (tied, quant, v) in [
                (false, ActivationQuant::None, SecondMoment::Int4),
                (true, ActivationQuant::Int4, SecondMoment::Factored),
                (false, ActivationQuant::None, SecondMoment::Row),
            ] {
                let mut config = Config::default();
                (config.model.tied, config.activations.quant, config.storage.v) = (tied, quant, v);
                if v == SecondMoment::Row {
                    config.optimizer.embedding = EmbeddingUpdate::Sparse;
                }
                (config.train.batch, config.train.sequence, config.train.audit_every) = (4, 64, 1);
                let mut trainer = Trainer::new(&config, Box::new(Cpu::new())).unwrap();
                trainer.initialize();
                let inputs: Vec<u32> = (0..256).collect();
                let targets: Vec<u32> = (0..256).rev().collect();
                // The first steps let the pool's own queues grow.
                for _ in 0..3 {
                    trainer.step(&inputs, &targets);
                }
                let mut audit = Audit::new(&mut trainer);
                let count = allocations(|| {
                    for _ in 0..3 {
                        audit.before(&mut trainer);
                        let mut report = trainer.step(&inputs, &targets);
                        audit.after(&mut trainer, &mut report);
                        assert!(report.audit.is_some());
                    }
                    trainer.evaluate(4, &inputs, &targets);
                });
                assert_eq!(count, 0, "with {threads} threads, tied {tied}, v {v:?}");
            }
        });
    }
}

#[test]
fn no_step_beside_a_frozen_base_allocates() {
    alone("steps::no_step_beside_a_frozen_base_allocates", count_beside_a_base);
}

fn count_beside_a_base() {
    let folder = tempfile::tempdir().unwrap();
    let base = adapter::base(folder.path());
    let mut config = adapter::lora();
    (config.adapter.dropout, config.adapter.scale, config.adapter.group) = (0.1, AdapterScale::Learned, true);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        let mut trainer = adapter::trainer(&config, &base, Box::new(Cpu::new()));
        let (inputs, targets) = small::batch(1);
        // The first steps let the pool's own queues grow.
        for _ in 0..3 {
            trainer.step(&inputs, &targets);
        }
        let count = allocations(|| {
            trainer.step(&inputs, &targets);
            trainer.evaluate(3, &inputs, &targets);
        });
        assert_eq!(count, 0);
    });
}

/// GaLore and Fira keep what their first search for projections allocated.
#[test]
fn no_step_of_a_rule_allocates_nor_does_a_later_search_for_projections() {
    alone("steps::no_step_of_a_rule_allocates_nor_does_a_later_search_for_projections", count_of_every_rule);
}

fn count_of_every_rule() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        for &rule in Rule::ALL {
            let mut config = Config { optimizer: OptimizerConfig::of(rule), ..Config::default() };
            (config.train.batch, config.train.sequence, config.model.layers) = (2, 32, 1);
            if rule.reads("update_proj_gap") {
                config.optimizer.update_proj_gap = 2;
            }
            let mut trainer = Trainer::new(&config, Box::new(Cpu::new())).unwrap();
            trainer.initialize();
            let inputs: Vec<u32> = (0..64).collect();
            let targets: Vec<u32> = (0..64).rev().collect();
            let mut searched = false;
            let counts =
                [(); 6].map(|()| allocations(|| searched |= trainer.step(&inputs, &targets).search_seconds.is_some()));
            // The first steps let the pool's own queues grow.
            assert_eq!(counts[2..], [0; 4], "{rule:?}");
            assert_eq!(searched, matches!(rule, Rule::Galore | Rule::Fira), "{rule:?}");
        }
    });
}
