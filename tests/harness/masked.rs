//! A CPU that leaves out of adapters' inputs what was recorded elsewhere, in place of what its own random numbers say.

use std::collections::HashMap;
use tetrad::backend::adam::AdamArgs;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::ops::{
    ActivationPack, ActivationQuant, ActivationScaling, Attention, Bias, CrossEntropy, Embedding, Factors, Gaussian,
    Gelu, Linear, Magnitude, MatMul, Norm, PrefixAttention, Rope, Scaling, SwiGlu, Update,
};
use tetrad::backend::{
    Accumulate, ActivationCode, AttentionArgs, AttentionGradArgs, Axis, Backend, Compute, DeviceInfo, DirectionArgs,
    DivisorArgs, DropoutArgs, MatMulArgs, MaxShapes, Memory, MomentumArgs, NormGradArgs, Offload, Param, Precision,
    PrefixArgs, PrefixGradArgs, RelativeStepArgs, Rotation, RowDraws, StateTensor, UpdateArgs, UpdateStats, Weight,
};
use tetrad::error::BackendError;
use tetrad::memory::{HostMemory, MappedFile, Span};
use tetrad::quant::RngKey;
use zerocopy::IntoBytes;

/// The CPU with masks, by the number of the tensor that the random numbers are of: 1 for each element that stays.
pub struct Masked {
    inner: Cpu,
    kept: HashMap<u32, Vec<f32>>,
}

impl Masked {
    pub fn new(kept: HashMap<u32, Vec<f32>>) -> Self {
        Self { inner: Cpu::new(), kept }
    }

    fn floats(&self, span: Span) -> Vec<f32> {
        let mut values = vec![0.0f32; span.bytes / 4];
        self.inner.download(span, values.as_mut_bytes());
        values
    }

    fn leave_out(&mut self, x: Span, out: Span, width: usize, args: &DropoutArgs, accumulate: Accumulate) {
        let (values, kept) = (self.floats(x), &self.kept[&args.key.tensor][args.first_row * width..]);
        let mut sum = if accumulate == Accumulate::Yes { self.floats(out) } else { vec![0.0; values.len()] };
        for (sum, (x, kept)) in sum.iter_mut().zip(values.iter().zip(kept)) {
            *sum += x * kept * args.factor();
        }
        self.inner.upload(sum.as_bytes(), out);
    }
}

macro_rules! operations {
    ($($trait:ident { $(fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)* })*) => {
        $(impl $trait for Masked {
            $(fn $name(&mut self, $($arg: $ty),*) $(-> $ret)? {
                operations!(call $name self $($arg),*)
            })*
        })*
    };
    (call dropout $of:ident $($arg:ident),*) => { $of.leave_out($($arg),*) };
    (call $name:ident $of:ident $($arg:ident),*) => { $of.inner.$name($($arg),*) };
}

operations! {
    ActivationPack {
        fn pack_rows(x: Span, codes: Span, scales: Span, features: usize, first_row: usize, key: &RngKey);
        fn unpack_rows(codes: Span, scales: Span, x: Span, features: usize);
    }
    ActivationQuant {
        fn quantize_activations(x: Span, features: usize, sequence: usize, code: ActivationCode);
    }
    ActivationScaling {
        fn scale_rows(x: Span, width: usize, factor: f32, learned: Option<Span>);
        fn scale_grad(x: Span, dy: Span, width: usize, factor: f32, grad: Span, accumulate: Accumulate);
        fn dropout(x: Span, out: Span, width: usize, args: &DropoutArgs, accumulate: Accumulate);
        fn sum_groups(x: Span, out: Span, width: usize, group: usize);
        fn sum_groups_grad(dout: Span, dx: Span, width: usize, group: usize, accumulate: Accumulate);
    }
    Attention {
        fn attention(args: &AttentionArgs);
        fn attention_grad(args: &AttentionGradArgs);
    }
    Bias {
        fn add_bias(x: Span, bias: Span, width: usize);
        fn bias_grad(dy: Span, grad: Span, width: usize, accumulate: Accumulate);
    }
    CrossEntropy {
        fn cross_entropy(logits: Span, targets: Span, losses: Span, vocab: usize, gradient: Option<f32>);
    }
    Embedding {
        fn embedding(tokens: Span, table: &Weight, out: Span);
        fn embedding_grad(tokens: Span, dout: Span, grad: Span, features: usize);
    }
    Factors {
        fn squares(x: Span, rows: usize, cols: usize, axis: Axis, out: Span);
        fn sums(x: Span, length: usize, out: Span);
        fn scale_axis(x: Span, rows: usize, cols: usize, axis: Axis, factors: Span);
        fn divide_by_root(x: Span, of_rows: Span, of_cols: Span, args: &DivisorArgs);
        fn ratio_of_roots(a: Span, b: Span, eps: f32);
        fn divide_by_mean(a: Span, b: Span, floor: f32);
        fn limit_growth(factor: Span, kept: &StateTensor, growth: f32, eps: f32);
        fn relative_step(factor: Span, weight: Span, args: &RelativeStepArgs);
    }
    Gaussian {
        fn gaussian(out: Span, key: &RngKey, deviation: f32);
    }
    Gelu {
        fn gelu(x: Span, out: Span);
        fn gelu_grad(x: Span, dout: Span);
    }
    Linear {
        fn linear(x: Span, w: &Weight, y: Span, accumulate: Accumulate);
        fn linear_onto(x: Span, w: &Weight, onto: Span, y: Span);
        fn linear_joined(x: Span, products: &[(&Weight, Span)]);
        fn linear_bf16(x: Span, products: &[(&Weight, Span)], accumulate: Accumulate);
        fn linear_int8(x: Span, products: &[(&Weight, Span)], accumulate: Accumulate);
        fn linear_fp8(x: Span, products: &[(&Weight, Span)], accumulate: Accumulate);
        fn linear_grad_input(dy: Span, w: &Weight, dx: Span, accumulate: Accumulate);
        fn linear_grad_weight(dy: Span, x: Span, grad: Span, rows: usize, cols: usize, accumulate: Accumulate);
        fn linear_grad_input_bf16(dy: Span, w: &Weight, dx: Span, accumulate: Accumulate);
        fn linear_grad_weight_bf16(
            operands: [Span; 3], shape: (usize, usize), accumulate: Accumulate, sequence: usize
        );
        fn linear_grad_input_int8(dy: Span, w: &Weight, dx: Span, accumulate: Accumulate, draws: &RowDraws);
        fn linear_grad_weight_int8(
            operands: [Span; 3], shape: (usize, usize), accumulate: Accumulate, sequence: usize, draws: &RowDraws
        );
        fn linear_grad_weight_joined(
            x: Span, grads: &[(Span, Span)], shape: (usize, usize), accumulate: Accumulate
        );
    }
    Magnitude {
        fn row_norms(b: Span, r: Span, squares: Span, factor: f32, norms: Span);
        fn add_columns(x: Span, y: Span, magnitude: Span, norms: Span, factors: [f32; 2]);
        fn magnitude_grad(x: Span, dy: Span, norms: Span, grad: Span, accumulate: Accumulate);
    }
    MatMul {
        fn matmul(args: &MatMulArgs);
    }
    Norm {
        fn rms_norm(x: Span, gain: Span, out: Span, inv_rms: Span, eps: f32);
        fn rms_norm_grad(args: &NormGradArgs);
    }
    PrefixAttention {
        fn prefix_attention(args: &PrefixArgs, out: Span, lse: Span, factor: f32);
        fn prefix_delta(args: &PrefixArgs, lse: Span, dout: Span, delta: Span);
        fn prefix_attention_grad(args: &PrefixArgs, grads: &PrefixGradArgs);
        fn scaled_grad(grad: Span, values: Span, scale: Span, dscale: Span);
    }
    Rope {
        fn rope(x: Span, table: Span, rotation: Rotation, segment_start: Option<Span>);
    }
    Scaling {
        fn scale(x: Span, factor: f32, precision: Precision);
        fn unit_norm(x: Span, eps: f32, precision: Precision);
    }
    SwiGlu {
        fn swiglu(gate: Span, up: Span, out: Span);
        fn swiglu_grad(gate: Span, up: Span, dout: Span);
    }
    Update {
        fn adam(param: &Param, grad: Span, args: &AdamArgs);
        fn hold_updates_unless_finite(numbers: Span);
        fn begin_update(grad: Span, freeze_on_zero: bool);
        fn momentum(param: &Param, state: &StateTensor, x: Span, args: &MomentumArgs);
        fn adam_direction(param: &Param, m: &StateTensor, v: &StateTensor, x: Span, args: &DirectionArgs);
        fn load_state(param: &Param, state: &StateTensor, out: Span);
        fn store_state(param: &Param, state: &StateTensor, x: Span, key: &RngKey);
        fn normalize(x: Span, rows: usize, cols: usize, axis: Axis, floor: f32);
        fn add_weight(param: &Param, x: Span, factor: f32);
        fn weight_squares(param: &Param, out: Span);
        fn apply_update(param: &Param, direction: Span, args: &UpdateArgs);
        fn update_stats() -> UpdateStats;
    }
}

impl Memory for Masked {
    fn allocate(&mut self, bytes: usize, mapped: Option<MappedFile>, workspace: Span) -> Result<(), BackendError> {
        self.inner.allocate(bytes, mapped, workspace)
    }

    fn status(&self) -> Result<(), BackendError> {
        self.inner.status()
    }

    fn upload(&mut self, bytes: &[u8], to: Span) {
        self.inner.upload(bytes, to);
    }

    fn download(&self, from: Span, bytes: &mut [u8]) {
        self.inner.download(from, bytes);
    }

    fn zero(&mut self, span: Span) {
        self.inner.zero(span);
    }

    fn copy(&mut self, from: Span, to: Span) {
        self.inner.copy(from, to);
    }
}

impl Offload for Masked {
    fn attach(&mut self, host: HostMemory) -> Result<(), BackendError> {
        self.inner.attach(host)
    }

    fn prefetch(&mut self, host: Span, to: Span) {
        self.inner.prefetch(host, to);
    }

    fn wait(&mut self, host: Span, to: Span) {
        self.inner.wait(host, to);
    }

    fn write_back(&mut self, from: Span, host: Span, changed: bool) {
        self.inner.write_back(from, host, changed);
    }

    fn advise_cold(&self, span: Span) {
        self.inner.advise_cold(span);
    }
}

impl DeviceInfo for Masked {
    fn activation_bytes(&self) -> usize {
        self.inner.activation_bytes()
    }

    fn row_multiple(&self) -> usize {
        self.inner.row_multiple()
    }

    fn workspace_bytes(&self, max: &MaxShapes) -> usize {
        self.inner.workspace_bytes(max)
    }

    fn logits_bytes(&self, compute: Compute) -> usize {
        self.inner.logits_bytes(compute)
    }

    fn check_heads(&self, head_dim: usize, head_norm: bool) -> Result<(), BackendError> {
        self.inner.check_heads(head_dim, head_norm)
    }

    fn check_compute(&self, compute: Compute) -> Result<(), BackendError> {
        self.inner.check_compute(compute)
    }

    fn sums_in_parts(&self) -> bool {
        self.inner.sums_in_parts()
    }

    fn joins_products(&self) -> bool {
        self.inner.joins_products()
    }

    fn reads_mapped(&self) -> bool {
        self.inner.reads_mapped()
    }

    fn free_memory(&self) -> Option<u64> {
        self.inner.free_memory()
    }

    fn queues(&self) -> bool {
        self.inner.queues()
    }

    fn in_place(&self) -> bool {
        self.inner.in_place()
    }
}

impl Backend for Masked {
    fn describe(&self) -> String {
        self.inner.describe()
    }
}
