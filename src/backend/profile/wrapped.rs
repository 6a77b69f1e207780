//! The backend around another: every operation goes through once, with its cost.

use super::Profile;
use super::cost::Cost;
use crate::backend::adam::AdamArgs;
use crate::backend::ops::{
    ActivationPack, ActivationQuant, ActivationScaling, Attention, Bias, CrossEntropy, Embedding, Factors, Gaussian,
    Gelu, Linear, Magnitude, MatMul, Norm, PrefixAttention, Rope, Scaling, SwiGlu, Update,
};
use crate::backend::{
    Accumulate, ActivationCode, AdamUpdate, AttentionArgs, AttentionGradArgs, Axis, Backend, Compute, DeviceInfo,
    DirectionArgs, DivisorArgs, DropoutArgs, MatMulArgs, MaxShapes, Memory, MomentumArgs, NormGradArgs, Offload, Param,
    Peers, Precision, PrefixArgs, PrefixGradArgs, RelativeStepArgs, Rotation, RowDraws, StateTensor, UpdateArgs,
    UpdateStats, Weight,
};
use crate::error::BackendError;
use crate::memory::{HostMemory, MappedFile, Span};
use crate::quant::RngKey;

/// A backend whose operations are noted.
pub(super) struct Profiled {
    inner: Box<dyn Backend>,
    profile: Profile,
}

impl Profiled {
    pub(super) fn new(inner: Box<dyn Backend>, profile: Profile) -> Self {
        Self { inner, profile }
    }

    /// How many rows of `width` features an activation has.
    fn rows(&self, span: Span, width: usize) -> usize {
        span.bytes / (width.next_multiple_of(self.row_multiple()) * self.activation_bytes())
    }

    /// Activations `from` of `width` features times a weight, whichever of its sides they meet.
    fn linear(&self, (from, width): (Span, usize), w: &Weight, to: Span, accumulate: Accumulate) -> Cost {
        let bytes = Cost::of([from]) + Cost::read(w) + Cost::into(to, accumulate);
        Cost::product(self.rows(from, width), w.shape.rows, w.shape.cols, bytes)
    }

    /// The gradient of a weight of `rows` x `cols`, from the gradients of outputs and the inputs.
    fn grad_weight(&self, [dy, x, grad]: [Span; 3], (rows, cols): (usize, usize), accumulate: Accumulate) -> Cost {
        Cost::product(self.rows(dy, rows), rows, cols, Cost::of([dy, x]) + Cost::into(grad, accumulate))
    }
}

/// Implements the traits of operations, each of whose methods is given with its cost; `$of` is the wrapper there.
macro_rules! operations {
    ($($trait:ident($of:ident) { $(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $cost:expr;)* })*) => {
        $(impl $trait for Profiled {
            $(fn $name(&mut self, $($arg: $ty),*) $(-> $ret)? {
                let $of = &*self;
                let cost = $cost;
                let inner = &mut self.inner;
                self.profile.note(stringify!($name), cost, || inner.$name($($arg),*))
            })*
        })*
    };
}

operations! {
    ActivationPack(_of) {
        fn pack_rows(x: Span, codes: Span, scales: Span, features: usize, first_row: usize, key: &RngKey)
            = Cost::of([x, codes, scales]);
        fn unpack_rows(codes: Span, scales: Span, x: Span, features: usize) = Cost::of([x, codes, scales]);
    }
    ActivationQuant(_of) {
        fn quantize_activations(x: Span, features: usize, sequence: usize, code: ActivationCode) = Cost::changed(x);
    }
    ActivationScaling(_of) {
        fn scale_rows(x: Span, width: usize, factor: f32, learned: Option<Span>) = Cost::changed(x);
        fn scale_grad(x: Span, dy: Span, width: usize, factor: f32, grad: Span, accumulate: Accumulate)
            = Cost::of([x, dy]) + Cost::into(grad, accumulate);
        fn dropout(x: Span, out: Span, width: usize, args: &DropoutArgs, accumulate: Accumulate)
            = Cost::of([x]) + Cost::into(out, accumulate);
        fn sum_groups(x: Span, out: Span, width: usize, group: usize) = Cost::of([x, out]);
        fn sum_groups_grad(dout: Span, dx: Span, width: usize, group: usize, accumulate: Accumulate)
            = Cost::of([dout]) + Cost::into(dx, accumulate);
    }
    Attention(_of) {
        fn attention(args: &AttentionArgs)
            = Cost::attention(&args.shape, 2, Cost::of([args.q, args.k, args.v, args.out, args.lse]));
        // Scores are computed again; then the gradients of probabilities, values, queries and keys.
        fn attention_grad(args: &AttentionGradArgs)
            = Cost::attention(
                &args.shape,
                5,
                Cost::of([args.q, args.k, args.v, args.lse, args.dout, args.dq, args.dk, args.dv]),
            );
    }
    Bias(_of) {
        fn add_bias(x: Span, bias: Span, width: usize) = Cost::changed(x) + Cost::of([bias]);
        fn bias_grad(dy: Span, grad: Span, width: usize, accumulate: Accumulate)
            = Cost::of([dy]) + Cost::into(grad, accumulate);
    }
    CrossEntropy(_of) {
        fn cross_entropy(logits: Span, targets: Span, losses: Span, vocab: usize, gradient: Option<f32>)
            = Cost::of([logits, targets, losses]) + gradient.map_or(Cost::default(), |_| Cost::of([logits]));
    }
    Embedding(_of) {
        // As many bytes are read of a table in float32, fewer of codes.
        fn embedding(tokens: Span, table: &Weight, out: Span) = Cost::of([tokens, out]);
        fn embedding_grad(tokens: Span, dout: Span, grad: Span, features: usize)
            = Cost::of([tokens, dout]) + Cost::changed(grad);
    }
    Factors(_of) {
        fn squares(x: Span, rows: usize, cols: usize, axis: Axis, out: Span) = Cost::of([x, out]);
        fn sums(x: Span, length: usize, out: Span) = Cost::of([x, out]);
        fn scale_axis(x: Span, rows: usize, cols: usize, axis: Axis, factors: Span)
            = Cost::changed(x) + Cost::of([factors]);
        fn divide_by_root(x: Span, of_rows: Span, of_cols: Span, args: &DivisorArgs)
            = Cost::changed(x) + Cost::of([of_rows, of_cols]);
        fn ratio_of_roots(a: Span, b: Span, eps: f32) = Cost::changed(a) + Cost::of([b]);
        fn divide_by_mean(a: Span, b: Span, floor: f32) = Cost::changed(a) + Cost::of([b]);
        fn limit_growth(factor: Span, kept: &StateTensor, growth: f32, eps: f32)
            = Cost::changed(factor) + Cost::changed(kept.data);
        fn relative_step(factor: Span, weight: Span, args: &RelativeStepArgs)
            = Cost::changed(factor) + Cost::of([weight]);
    }
    Gaussian(_of) {
        fn gaussian(out: Span, key: &RngKey, deviation: f32) = Cost::of([out]);
    }
    Gelu(_of) {
        fn gelu(x: Span, out: Span) = Cost::of([x, out]);
        fn gelu_grad(x: Span, dout: Span) = Cost::of([x]) + Cost::changed(dout);
    }
    Linear(of) {
        fn linear(x: Span, w: &Weight, y: Span, accumulate: Accumulate)
            = of.linear((x, w.shape.cols), w, y, accumulate);
        fn linear_onto(x: Span, w: &Weight, onto: Span, y: Span)
            = of.linear((x, w.shape.cols), w, y, Accumulate::No) + Cost::of([onto]);
        fn linear_joined(x: Span, products: &[(&Weight, Span)])
            = products.iter().map(|&(w, y)| of.linear((x, w.shape.cols), w, y, Accumulate::No)).sum();
        fn linear_bf16(x: Span, products: &[(&Weight, Span)], accumulate: Accumulate)
            = products.iter().map(|&(w, y)| of.linear((x, w.shape.cols), w, y, accumulate)).sum();
        fn linear_int8(x: Span, products: &[(&Weight, Span)], accumulate: Accumulate)
            = products.iter().map(|&(w, y)| of.linear((x, w.shape.cols), w, y, accumulate)).sum();
        fn linear_fp8(x: Span, products: &[(&Weight, Span)], accumulate: Accumulate)
            = products.iter().map(|&(w, y)| of.linear((x, w.shape.cols), w, y, accumulate)).sum();
        fn linear_grad_input(dy: Span, w: &Weight, dx: Span, accumulate: Accumulate)
            = of.linear((dy, w.shape.rows), w, dx, accumulate);
        fn linear_grad_weight(dy: Span, x: Span, grad: Span, rows: usize, cols: usize, accumulate: Accumulate)
            = of.grad_weight([dy, x, grad], (rows, cols), accumulate);
        fn linear_grad_input_bf16(dy: Span, w: &Weight, dx: Span, accumulate: Accumulate)
            = of.linear((dy, w.shape.rows), w, dx, accumulate);
        fn linear_grad_weight_bf16(operands: [Span; 3], shape: (usize, usize), accumulate: Accumulate, sequence: usize)
            = of.grad_weight(operands, shape, accumulate);
        fn linear_grad_input_int8(dy: Span, w: &Weight, dx: Span, accumulate: Accumulate, draws: &RowDraws)
            = of.linear((dy, w.shape.rows), w, dx, accumulate);
        fn linear_grad_weight_int8(
            operands: [Span; 3],
            shape: (usize, usize),
            accumulate: Accumulate,
            sequence: usize,
            draws: &RowDraws,
        ) = of.grad_weight(operands, shape, accumulate);
        fn linear_grad_weight_joined(x: Span, grads: &[(Span, Span)], shape: (usize, usize), accumulate: Accumulate)
            = grads.iter().map(|&(dy, grad)| of.grad_weight([dy, x, grad], shape, accumulate)).sum();
    }
    Magnitude(_of) {
        fn row_norms(b: Span, r: Span, squares: Span, factor: f32, norms: Span) = Cost::of([b, r, squares, norms]);
        fn add_columns(x: Span, y: Span, magnitude: Span, norms: Span, factors: [f32; 2])
            = Cost::of([x, magnitude, norms]) + Cost::changed(y);
        fn magnitude_grad(x: Span, dy: Span, norms: Span, grad: Span, accumulate: Accumulate)
            = Cost::of([x, dy, norms]) + Cost::into(grad, accumulate);
    }
    MatMul(_of) {
        fn matmul(args: &MatMulArgs) = Cost::matmul(args);
    }
    Norm(_of) {
        fn rms_norm(x: Span, gain: Span, out: Span, inv_rms: Span, eps: f32) = Cost::of([x, gain, out, inv_rms]);
        fn rms_norm_grad(args: &NormGradArgs)
            = Cost::of([args.x, args.gain, args.inv_rms, args.dout, args.dgain]) + Cost::changed(args.dx);
    }
    PrefixAttention(_of) {
        fn prefix_attention(args: &PrefixArgs, out: Span, lse: Span, factor: f32)
            = Cost::prefix(args, 2, Cost::changed(out) + Cost::changed(lse));
        fn prefix_delta(args: &PrefixArgs, lse: Span, dout: Span, delta: Span)
            = Cost::prefix(args, 2, Cost::of([lse, dout, delta]));
        fn prefix_attention_grad(args: &PrefixArgs, grads: &PrefixGradArgs)
            = Cost::prefix(args, 5, Cost::of([grads.lse, grads.dout, grads.delta]) + Cost::changed(grads.dq));
        fn scaled_grad(grad: Span, values: Span, scale: Span, dscale: Span)
            = Cost::changed(grad) + Cost::of([values, scale, dscale]);
    }
    Rope(_of) {
        fn rope(x: Span, table: Span, rotation: Rotation, segment_start: Option<Span>) = Cost::changed(x);
    }
    Scaling(_of) {
        fn scale(x: Span, factor: f32, precision: Precision) = Cost::changed(x);
        fn unit_norm(x: Span, eps: f32, precision: Precision) = Cost::changed(x);
    }
    SwiGlu(_of) {
        fn swiglu(gate: Span, up: Span, out: Span) = Cost::of([gate, up, out]);
        fn swiglu_grad(gate: Span, up: Span, dout: Span) = Cost::changed(gate) + Cost::changed(up) + Cost::of([dout]);
    }
    Update(_of) {
        fn adam(param: &Param, grad: Span, args: &AdamArgs) = Cost::updated_with_state(param) + Cost::of([grad]);
        fn adam_group(updates: &[AdamUpdate])
            = updates.iter().fold(Cost::default(), |cost, update| {
                cost + Cost::updated_with_state(&update.param) + Cost::of([update.grad])
            });
        fn hold_updates_unless_finite(numbers: Span) = Cost::of([numbers]);
        fn begin_update(grad: Span, freeze_on_zero: bool) = Cost::of([grad]);
        fn momentum(param: &Param, state: &StateTensor, x: Span, args: &MomentumArgs)
            = Cost::changed(x) + Cost::state(state) + Cost::state(state);
        fn adam_direction(param: &Param, m: &StateTensor, v: &StateTensor, x: Span, args: &DirectionArgs)
            = Cost::changed(x) + Cost::state(m) + Cost::state(m) + Cost::state(v) + Cost::state(v);
        fn load_state(param: &Param, state: &StateTensor, out: Span) = Cost::state(state) + Cost::of([out]);
        fn store_state(param: &Param, state: &StateTensor, x: Span, key: &RngKey) = Cost::state(state) + Cost::of([x]);
        fn normalize(x: Span, rows: usize, cols: usize, axis: Axis, floor: f32) = Cost::changed(x);
        fn add_weight(param: &Param, x: Span, factor: f32) = Cost::read(&param.weight) + Cost::changed(x);
        fn weight_squares(param: &Param, out: Span) = Cost::read(&param.weight) + Cost::of([out]);
        fn apply_update(param: &Param, direction: Span, args: &UpdateArgs)
            = Cost::updated(&param.weight) + Cost::of([direction]);
        fn update_stats() -> UpdateStats = Cost::default();
    }
}

impl Memory for Profiled {
    fn allocate(&mut self, bytes: usize, mapped: Option<MappedFile>, workspace: Span) -> Result<(), BackendError> {
        self.inner.allocate(bytes, mapped, workspace)
    }

    fn status(&self) -> Result<(), BackendError> {
        self.inner.status()
    }

    fn upload(&mut self, bytes: &[u8], to: Span) {
        let inner = &mut self.inner;
        self.profile.note("upload", Cost::changed(to), || inner.upload(bytes, to));
    }

    fn download(&self, from: Span, bytes: &mut [u8]) {
        self.profile.note("download", Cost::changed(from), || self.inner.download(from, bytes));
    }

    fn zero(&mut self, span: Span) {
        let inner = &mut self.inner;
        self.profile.note("zero", Cost::of([span]), || inner.zero(span));
    }

    fn copy(&mut self, from: Span, to: Span) {
        let inner = &mut self.inner;
        self.profile.note("copy", Cost::of([from, to]), || inner.copy(from, to));
    }
}

impl Offload for Profiled {
    fn attach(&mut self, host: HostMemory) -> Result<(), BackendError> {
        self.inner.attach(host)
    }

    fn prefetch(&mut self, host: Span, to: Span) {
        let inner = &mut self.inner;
        self.profile.note("prefetch", Cost::of([host]), || inner.prefetch(host, to));
    }

    fn wait(&mut self, host: Span, to: Span) {
        let inner = &mut self.inner;
        self.profile.note("wait", Cost::default(), || inner.wait(host, to));
    }

    fn write_back(&mut self, from: Span, host: Span, changed: bool) {
        let inner = &mut self.inner;
        let cost = if changed { Cost::of([host]) } else { Cost::default() };
        self.profile.note("write_back", cost, || inner.write_back(from, host, changed));
    }

    fn advise_cold(&self, span: Span) {
        self.inner.advise_cold(span);
    }
}

impl DeviceInfo for Profiled {
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

impl Backend for Profiled {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn peak_flops(&self) -> Option<f64> {
        self.inner.peak_flops()
    }

    fn record_graphs(&mut self, on: bool) -> bool {
        self.inner.record_graphs(on)
    }

    fn cut_graph(&mut self) {
        self.inner.cut_graph();
    }

    fn peers(&mut self) -> Option<&mut dyn Peers> {
        self.inner.peers()
    }
}
