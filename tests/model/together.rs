//! Gradients that are updated together take no memory that a step does not take anyway.

use tetrad::backend::{Compute, DeviceInfo, MaxShapes, cuda};
use tetrad::config::Config;
use tetrad::error::BackendError;
use tetrad::memory::{ALIGN, Category, Place, Plan};
use tetrad::model::{ActivationCheckpointing, Offload};
use tetrad::train::{fastest, plan};

/// A GPU, if it did each operation at once.
struct AtOnce;

impl DeviceInfo for AtOnce {
    fn activation_bytes(&self) -> usize {
        cuda::Info.activation_bytes()
    }

    fn row_multiple(&self) -> usize {
        cuda::Info.row_multiple()
    }

    fn workspace_bytes(&self, max: &MaxShapes) -> usize {
        cuda::Info.workspace_bytes(max)
    }

    fn logits_bytes(&self, compute: Compute) -> usize {
        cuda::Info.logits_bytes(compute)
    }

    fn check_heads(&self, head_dim: usize, head_norm: bool) -> Result<(), BackendError> {
        cuda::Info.check_heads(head_dim, head_norm)
    }

    fn check_compute(&self, compute: Compute) -> Result<(), BackendError> {
        cuda::Info.check_compute(compute)
    }

    fn sums_in_parts(&self) -> bool {
        cuda::Info.sums_in_parts()
    }

    fn joins_products(&self) -> bool {
        cuda::Info.joins_products()
    }

    fn reads_mapped(&self) -> bool {
        cuda::Info.reads_mapped()
    }

    fn free_memory(&self) -> Option<u64> {
        None
    }

    fn in_place(&self) -> bool {
        cuda::Info.in_place()
    }

    fn queues(&self) -> bool {
        false
    }
}

fn preset(name: &str) -> Config {
    let mut config = Config::preset(name).unwrap();
    (config.train.batch, config.train.micro_batch) = (16, 16);
    fastest(&config, &cuda::Info)
}

/// Bytes of the gradients of a block that are there together, if several are.
fn together(plan: &Plan) -> Option<usize> {
    plan.items().iter().find(|item| item.name == "gradients updated together").map(|item| item.span.bytes)
}

#[test]
fn plans_are_as_long_as_if_each_gradient_were_consumed_at_once() {
    let mut gathered = 0;
    for name in ["quickstart", "60m", "130m", "1b", "7b", "60m-compact"] {
        for tied in [false, true] {
            for checkpointing in [ActivationCheckpointing::None, ActivationCheckpointing::Block] {
                for offload in [Offload::Device, Offload::Host] {
                    let mut config = preset(name);
                    config.model.tied = tied;
                    config.run.activation_checkpointing = checkpointing;
                    (config.offload.weights, config.offload.optimizer) = (offload, offload);
                    let ((now, _), (before, _)) = (plan(&config, &cuda::Info), plan(&config, &AtOnce));
                    let what = format!("{name}, tied {tied}, {checkpointing:?}, {offload:?}");
                    assert_eq!((now.total(), now.host_total()), (before.total(), before.host_total()), "{what}");
                    for category in Category::ALL {
                        let most = |plan: &Plan| plan.category_at(category, Place::Arena);
                        assert!(most(&now) <= most(&before), "{what}: {category:?}");
                    }
                    assert_eq!(together(&before), None, "{what}");
                    gathered += usize::from(together(&now).is_some());
                }
            }
        }
    }
    assert!(gathered >= 24, "only {gathered} plans of 48 have gradients together");
}

/// Where the head's gradient is longer than those of a block, all of a block are there at once.
#[test]
fn a_block_of_a_small_model_has_all_its_gradients_at_once() {
    for name in ["60m", "130m", "350m", "1b"] {
        let (plan, model) = plan(&preset(name), &cuda::Info);
        let block = model.specs.iter().filter(|spec| spec.kind.block() == Some(0));
        let all: usize = block.map(|spec| (4 * spec.shape.len()).next_multiple_of(ALIGN)).sum();
        assert_eq!(together(&plan), Some(all), "{name}");
    }
    let (plan, _) = plan(&preset("7b"), &cuda::Info);
    assert_eq!(together(&plan), Some(4 * 32_000 * 4096), "7b: as long as the head's gradient");
}
