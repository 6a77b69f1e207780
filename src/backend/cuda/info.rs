//! What a plan needs to know about a GPU, with or without one.

use super::Cuda;
use super::ops::{
    ROW_MULTIPLE, activation_scaling, adam, attention, attention_grad, bytes, linear, linear_grad_int8, norm, prefix,
    scaling,
};
use super::runtime::{Capability, Gpu};
use crate::backend::{Compute, DeviceInfo, MaxShapes};
use crate::error::BackendError;
use crate::memory::ALIGN;

/// A GPU that need not be there.
pub struct Info;

/// What differs between a device and the mere idea of one.
trait Opened {
    fn free(&self) -> Option<u64>;

    fn capability(&self) -> Option<Capability>;
}

impl Opened for Info {
    fn free(&self) -> Option<u64> {
        None
    }

    fn capability(&self) -> Option<Capability> {
        None
    }
}

impl Opened for Cuda {
    fn capability(&self) -> Option<Capability> {
        Some(self.gpu.capability())
    }

    fn free(&self) -> Option<u64> {
        self.memory().ok().map(|(free, total)| free.saturating_sub(Self::slack(total)))
    }
}

impl<D: Opened> DeviceInfo for D {
    fn activation_bytes(&self) -> usize {
        2
    }

    fn row_multiple(&self) -> usize {
        ROW_MULTIPLE
    }

    fn workspace_bytes(&self, max: &MaxShapes) -> usize {
        let needed = [
            linear::workspace_bytes(max),
            bytes::workspace_bytes(max),
            linear_grad_int8::workspace_bytes(max),
            norm::workspace_bytes(max),
            attention::workspace_bytes(max),
            attention_grad::workspace_bytes(max),
            adam::workspace_bytes(max),
            scaling::workspace_bytes(max),
            activation_scaling::workspace_bytes(max),
            prefix::workspace_bytes(max),
        ];
        let most = needed.into_iter().max().expect("there are operations");
        (Gpu::OWN_BYTES + most).next_multiple_of(ALIGN)
    }

    /// Each chunk reads the whole head again, so a chunk has thousands of rows.
    fn logits_bytes(&self, _: Compute) -> usize {
        256 << 20
    }

    /// Attention's tiles hold heads of up to `attention::MAX_HEAD_DIM`; a norm of heads reads each as an aligned row.
    fn check_heads(&self, head_dim: usize, head_norm: bool) -> Result<(), BackendError> {
        let multiple = if head_norm { ROW_MULTIPLE } else { 2 };
        match head_dim <= attention::MAX_HEAD_DIM && head_dim.is_multiple_of(multiple) {
            true => Ok(()),
            false => Err(BackendError::HeadDim { found: head_dim, most: attention::MAX_HEAD_DIM, multiple }),
        }
    }

    fn check_compute(&self, compute: Compute) -> Result<(), BackendError> {
        match self.capability() {
            Some(found) if compute == Compute::Fp8 && found < bytes::FP8_DEVICE => {
                Err(BackendError::NoFp8 { found: found.to_string() })
            }
            _ => Ok(()),
        }
    }

    fn sums_in_parts(&self) -> bool {
        true
    }

    fn joins_products(&self) -> bool {
        true
    }

    fn reads_mapped(&self) -> bool {
        false
    }

    fn free_memory(&self) -> Option<u64> {
        self.free()
    }

    fn queues(&self) -> bool {
        true
    }

    fn in_place(&self) -> bool {
        false
    }
}
