//! What a plan needs to know about a backend.

use super::Compute;
use crate::error::BackendError;

/// The largest shapes that a run will ask for; they decide how much workspace a backend needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxShapes {
    /// T
    pub tokens: usize,
    /// The longest row of activations: hidden, intermediate or vocabulary.
    pub features: usize,
    /// The largest input width of a linear layer.
    pub inputs: usize,
    /// Keys that one query may see.
    pub keys: usize,
    /// Elements of the largest parameter.
    pub parameter: usize,
    /// D
    pub head_dim: usize,
    /// Elements of the keys of a block's prefix, `P K D`; 0 without one.
    pub prefix: usize,
    /// How inputs meet weights in forward products.
    pub compute: Compute,
}

/// Properties of a backend that a plan depends on; they are known without opening a device.
pub trait DeviceInfo {
    /// Bytes of one element of an activation.
    fn activation_bytes(&self) -> usize;

    /// Each row of activations starts at a multiple of this many elements.
    fn row_multiple(&self) -> usize;

    /// Bytes of workspace that operations up to these shapes need.
    fn workspace_bytes(&self, max: &MaxShapes) -> usize;

    /// Bytes of logits that keep the device busy with products in `compute`: the size of a chunk unless the configuration sets one.
    fn logits_bytes(&self, compute: Compute) -> usize;

    /// Whether attention with heads of `head_dim` elements can be computed, and, if `head_norm`, an RMSNorm of each head.
    ///
    /// # Errors
    /// If the kernels have no version for such heads.
    fn check_heads(&self, head_dim: usize, head_norm: bool) -> Result<(), BackendError>;

    /// Whether forward products can be computed so.
    ///
    /// # Errors
    /// If there is no such arithmetic on the device.
    fn check_compute(&self, compute: Compute) -> Result<(), BackendError>;

    /// Whether a product that goes on with sums forms its own first and adds them at the end. The bytes of a gradient then
    /// depend on how its tokens were cut into products; else they are one chain in the order of the tokens.
    fn sums_in_parts(&self) -> bool;

    /// Whether products of one shape that share an input are better started at once
    /// ([`linear_joined`](crate::backend::ops::Linear::linear_joined)).
    fn joins_products(&self) -> bool;

    /// Whether operations read a mapped file in place; otherwise weights are uploaded from it.
    fn reads_mapped(&self) -> bool;

    /// Bytes of its own memory that a plan may take: what a device has free, less what its libraries take later; `None` if it
    /// uses the host's memory or is not open.
    fn free_memory(&self) -> Option<u64>;

    /// Whether operations are queued and carried out later. Then it counts how many there are, so that several updates are one
    /// operation, and a question whose answer the host waits for empties the queue. Otherwise an update had better follow its
    /// gradient at once, which is still in the cache.
    fn queues(&self) -> bool;

    /// Whether operations work on host memory in place; otherwise it is copied to the device and back.
    fn in_place(&self) -> bool;
}
