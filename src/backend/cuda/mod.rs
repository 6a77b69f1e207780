//! The operations on an NVIDIA GPU: the same files and names as [`super::cpu`], each a launch of kernels in
//! `kernels/`. Activations are bfloat16, accumulation is float32, the update of packed planes is the CPU's to the last
//! bit. All memory is one allocation; operations are given to one stream and return before they are done.
//!
//! CUDA is needed neither to build nor to start: the driver, NVRTC and cuBLASLt are looked for when a device is
//! opened.

pub mod ops;
pub mod runtime;

pub use runtime::{Args, Capability, Compiler, Cubin, Form, Gpu, HEADERS, Matrix, Output, Product, SOURCES, Search};
pub use runtime::{Source, Usage, probe, usages};

use super::adam::AdamArgs;
use super::{AttentionShape, Axis, Backend, Largest, MomentumArgs, Param, Rotation, StateTensor, Store};
use super::{UpdateArgs, UpdateStats, Weight};
use crate::error::BackendError;
use crate::memory::{ALIGN, HomeMemory, MappedFile, Span};
use crate::quant::RngKey;
use ops::{
    ROW_MULTIPLE, activation_pack, activation_quant, adam, attention, attention_grad, bias, embedding, linear,
    linear_grad_weight, loss, norm, normalize, rope, swiglu, update,
};

/// One GPU.
pub struct Cuda {
    gpu: Gpu,
}

/// The sizes that a plan needs to know, without a device.
pub struct Sizes;

impl super::Sizes for Sizes {
    fn activation_bytes(&self) -> usize {
        2
    }

    fn row_multiple(&self) -> usize {
        ROW_MULTIPLE
    }

    fn scratch_bytes(&self, largest: &Largest) -> usize {
        let needs = [
            linear::need(largest),
            norm::need(largest),
            attention::need(largest),
            attention_grad::need(largest),
            adam::need(largest),
        ];
        let most = needs.into_iter().max().expect("there are needs");
        (Gpu::OWN_BYTES + most).next_multiple_of(ALIGN)
    }

    /// Each chunk reads the whole head again, so a chunk has thousands of rows.
    fn logits_bytes(&self) -> usize {
        256 << 20
    }

    /// Attention's tiles hold heads of up to [`attention::MAX_HEAD_DIM`]; a norm of heads reads each as an aligned row.
    fn check_heads(&self, head_dim: usize, normed: bool) -> Result<(), BackendError> {
        let (found, least) = (head_dim, if normed { ROW_MULTIPLE } else { 2 });
        match found <= attention::MAX_HEAD_DIM && found.is_multiple_of(least) {
            true => Ok(()),
            false => Err(BackendError::HeadDim { found, most: attention::MAX_HEAD_DIM, multiple: least }),
        }
    }

    fn reads_mapped(&self) -> bool {
        false
    }

    /// These are a device's sizes, without the device.
    fn free_memory(&self) -> Option<u64> {
        None
    }

    fn works_at_home(&self) -> bool {
        false
    }
}

impl Cuda {
    /// Opens device number `ordinal`; without memory until [`Backend::allocate`].
    ///
    /// # Errors
    /// What is missing: driver, device, compiler, or one of them too old.
    pub fn open(ordinal: u32) -> Result<Self, BackendError> {
        Self::open_with(ordinal, &Search::usual())
    }

    /// The same, with libraries looked for where `search` says.
    ///
    /// # Errors
    /// As [`Cuda::open`].
    pub fn open_with(ordinal: u32, search: &Search) -> Result<Self, BackendError> {
        Ok(Self { gpu: Gpu::open_with(ordinal, search, SOURCES)? })
    }

    /// Seconds that the device takes for what `work` gives it.
    ///
    /// # Errors
    /// The first failure.
    pub fn time(&mut self, work: impl FnOnce(&mut Self)) -> Result<f64, BackendError> {
        self.gpu.start_timer();
        work(self);
        self.gpu.stop_timer()
    }

    /// Bytes of device memory that are free, and all there are, by the driver's figures.
    ///
    /// # Errors
    /// If the driver does not answer.
    pub fn memory(&self) -> Result<(u64, u64), BackendError> {
        self.gpu.free_memory()
    }

    /// Whether `needed` bytes are free now.
    ///
    /// # Errors
    /// If not, with the figures.
    pub fn check_memory(&self, needed: u64) -> Result<(), BackendError> {
        let (free, total) = self.memory()?;
        match needed <= free {
            true => Ok(()),
            false => Err(BackendError::Memory { device: self.gpu.name().into(), needed, free, total }),
        }
    }
}

impl super::Sizes for Cuda {
    fn activation_bytes(&self) -> usize {
        Sizes.activation_bytes()
    }

    fn row_multiple(&self) -> usize {
        ROW_MULTIPLE
    }

    fn scratch_bytes(&self, largest: &Largest) -> usize {
        Sizes.scratch_bytes(largest)
    }

    fn logits_bytes(&self) -> usize {
        Sizes.logits_bytes()
    }

    fn check_heads(&self, head_dim: usize, normed: bool) -> Result<(), BackendError> {
        Sizes.check_heads(head_dim, normed)
    }

    fn reads_mapped(&self) -> bool {
        Sizes.reads_mapped()
    }

    fn free_memory(&self) -> Option<u64> {
        self.memory().ok().map(|(free, _)| free)
    }

    fn works_at_home(&self) -> bool {
        Sizes.works_at_home()
    }
}

impl Backend for Cuda {
    fn describe(&self) -> String {
        format!("{}, {}", self.gpu.name(), self.gpu.libraries())
    }

    fn allocate(&mut self, bytes: usize, _: Option<MappedFile>, scratch: Span) -> Result<(), BackendError> {
        self.gpu.allocate(bytes, scratch)
    }

    fn attach(&mut self, home: HomeMemory) -> Result<(), BackendError> {
        self.gpu.attach(home)
    }

    fn fetch(&mut self, home: Span, to: Span) {
        self.gpu.fetch(home, to);
    }

    fn arrive(&mut self, home: Span, to: Span) {
        self.gpu.arrive(home, to);
    }

    fn leave(&mut self, from: Span, home: Span, changed: bool) {
        self.gpu.leave(from, home, changed);
    }

    fn rest(&self, span: Span) {
        self.gpu.rest(span);
    }

    fn status(&self) -> Result<(), BackendError> {
        self.gpu.status()
    }

    fn upload(&mut self, bytes: &[u8], to: Span) {
        self.gpu.upload(bytes, to);
    }

    fn download(&self, from: Span, bytes: &mut [u8]) {
        self.gpu.download(from, bytes);
    }

    fn zero(&mut self, span: Span) {
        self.gpu.zero(span);
    }

    fn copy(&mut self, from: Span, to: Span) {
        self.gpu.copy(from, to);
    }

    fn embedding(&mut self, tokens: Span, table: &Weight, out: Span) {
        embedding::embedding(&mut self.gpu, tokens, table, out);
    }

    fn embedding_grad(&mut self, tokens: Span, dout: Span, grad: Span, features: usize) {
        embedding::embedding_grad(&mut self.gpu, tokens, dout, grad, features);
    }

    fn rms_norm(&mut self, x: Span, gain: Span, out: Span, inv_rms: Span, eps: f32) {
        norm::rms_norm(&mut self.gpu, x, gain, out, inv_rms, eps);
    }

    fn rms_norm_grad(&mut self, x: Span, gain: Span, inv_rms: Span, dout: Span, dx: Span, dgain: Span, store: Store) {
        norm::rms_norm_grad(&mut self.gpu, x, gain, inv_rms, dout, dx, dgain, store);
    }

    fn quantize_activations(&mut self, x: Span, features: usize) {
        activation_quant::quantize_activations(&mut self.gpu, x, features);
    }

    fn pack_rows(&mut self, x: Span, codes: Span, scales: Span, features: usize, first: usize, key: &RngKey) {
        activation_pack::pack_rows(&mut self.gpu, x, codes, scales, features, first, key);
    }

    fn unpack_rows(&mut self, codes: Span, scales: Span, x: Span, features: usize) {
        activation_pack::unpack_rows(&mut self.gpu, codes, scales, x, features);
    }

    fn linear(&mut self, x: Span, w: &Weight, y: Span, store: Store) {
        linear::linear(&mut self.gpu, x, w, y, store);
    }

    fn linear_grad_input(&mut self, dy: Span, w: &Weight, dx: Span, store: Store) {
        linear::linear_grad_input(&mut self.gpu, dy, w, dx, store);
    }

    fn linear_grad_weight(&mut self, dy: Span, x: Span, grad: Span, rows: usize, cols: usize, store: Store) {
        linear_grad_weight::linear_grad_weight(&mut self.gpu, dy, x, grad, rows, cols, store);
    }

    fn rope(&mut self, x: Span, table: Span, rotation: Rotation) {
        rope::rope(&mut self.gpu, x, table, rotation);
    }

    fn attention(
        &mut self,
        q: Span,
        k: Span,
        v: Span,
        out: Span,
        lse: Span,
        first: Option<Span>,
        shape: AttentionShape,
    ) {
        attention::attention(&mut self.gpu, q, k, v, out, lse, first, shape);
    }

    fn attention_grad(
        &mut self,
        q: Span,
        k: Span,
        v: Span,
        out: Option<Span>,
        lse: Span,
        dout: Span,
        dq: Span,
        dk: Span,
        dv: Span,
        first: Option<Span>,
        shape: AttentionShape,
    ) {
        attention_grad::attention_grad(&mut self.gpu, q, k, v, out, lse, dout, dq, dk, dv, first, shape);
    }

    fn swiglu(&mut self, gate: Span, up: Span, out: Span) {
        swiglu::swiglu(&mut self.gpu, gate, up, out);
    }

    fn swiglu_grad(&mut self, gate: Span, up: Span, dout: Span) {
        swiglu::swiglu_grad(&mut self.gpu, gate, up, dout);
    }

    fn cross_entropy(&mut self, logits: Span, targets: Span, losses: Span, vocab: usize, gradient: Option<f32>) {
        loss::cross_entropy(&mut self.gpu, logits, targets, losses, vocab, gradient);
    }

    fn adam(&mut self, param: &Param, grad: Span, args: &AdamArgs) {
        adam::step(&mut self.gpu, param, grad, args);
    }

    fn begin_update(&mut self, grad: Span, freeze_on_zero: bool) {
        update::begin(&mut self.gpu, grad, freeze_on_zero);
    }

    fn momentum(&mut self, param: &Param, state: &StateTensor, x: Span, args: &MomentumArgs) {
        update::momentum(&mut self.gpu, param, state, x, args);
    }

    fn normalize(&mut self, x: Span, rows: usize, cols: usize, axis: Axis, floor: f32) {
        normalize::normalize(&mut self.gpu, x, rows, cols, axis, floor);
    }

    fn add_weight(&mut self, param: &Param, x: Span, factor: f32) {
        update::add_weight(&mut self.gpu, param, x, factor);
    }

    fn apply_update(&mut self, param: &Param, direction: Span, args: &UpdateArgs) {
        update::apply(&mut self.gpu, param, direction, args);
    }

    fn update_stats(&mut self) -> UpdateStats {
        adam::update_stats(&mut self.gpu)
    }

    fn add_bias(&mut self, x: Span, bias: Span, width: usize) {
        bias::add_bias(&mut self.gpu, x, bias, width);
    }

    fn bias_grad(&mut self, dy: Span, grad: Span, width: usize, store: Store) {
        bias::bias_grad(&mut self.gpu, dy, grad, width, store);
    }
}
