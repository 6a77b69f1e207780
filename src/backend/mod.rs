//! The operations of training and sampling, and what each promises. A backend owns one arena; operations take
//! spans of it. Implementations use the same names in the same order.
//!
//! A device may lag behind: operations are done in the order they were given, but possibly after they return.
//! [`Backend::download`] waits for them, and [`Backend::status`] says whether one failed.
//!
//! Dimension letters: `T` tokens of a batch (`T = B S`: batch, queries per sequence), `I` input and `O` output
//! features of a linear layer, `H` query heads, `K` key and value heads, `D` elements per head, `V` vocabulary.
//! All matrices are row-major. Activations are [`Sizes::activation_bytes`] wide (float32 on the CPU); losses,
//! gradients of parameters, norms' statistics and gains are float32; tokens are u32. Rows of activations of n features
//! lie `n.next_multiple_of(`[`Sizes::row_multiple`]`)` elements apart; what lies between is never read.

pub mod adam;
pub mod cpu;
pub mod cuda;
mod kinds;
mod param;
mod update;

pub use kinds::{Moment, Scheme, SecondMoment};
pub use param::{Param, State, StateTensor, Weight, WeightKind};
pub use update::{Axis, MomentumArgs, UpdateArgs, UpdateStats};

use crate::error::BackendError;
use crate::memory::{HomeMemory, MappedFile, Span};
use crate::quant::RngKey;
use adam::AdamArgs;

/// A target that counts neither in the loss nor in the gradient.
pub const IGNORE: u32 = u32::MAX;

/// Whether an operation replaces what its output holds or adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// The output's former content is not read.
    Overwrite,
    /// The result is added to the output.
    Accumulate,
}

/// Elements of a group of [`Backend::pack_rows`].
pub const PACK_GROUP: usize = 64;

/// Bytes of the codes and of the scales of `rows` packed rows.
pub fn packed_bytes(rows: usize, features: usize) -> (usize, usize) {
    let groups = rows * features.div_ceil(PACK_GROUP);
    (groups * PACK_GROUP / 2, 2 * groups)
}

/// Shapes of an attention: `q` and `out` are `[B, S, H, D]`; `k` and `v` are `[B, capacity, K, D]`, of which the
/// rows below `start + S` are filled; query `s` sits at position `start + s` and sees the keys up to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// B
    pub batch: usize,
    /// S
    pub queries: usize,
    /// Position of the first query; zero in training.
    pub start: usize,
    /// Rows of `k` and `v` per sequence.
    pub capacity: usize,
    /// H
    pub heads: usize,
    /// K
    pub kv_heads: usize,
    /// D
    pub head_dim: usize,
}

/// What [`Backend::rope`] rotates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Heads of a token: H for queries, K for keys.
    pub heads: usize,
    /// D, even.
    pub head_dim: usize,
    /// S
    pub queries: usize,
    /// Position of the first query; zero in training.
    pub start: usize,
    /// Whether to rotate back, as the gradient does.
    pub inverse: bool,
}

/// The largest shapes that a run will ask for; they decide a backend's scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Largest {
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
}

/// What a plan must know of a backend, device or not.
pub trait Sizes {
    /// Bytes of one element of an activation.
    fn activation_bytes(&self) -> usize;

    /// Each row of activations starts at a multiple of this many elements.
    fn row_multiple(&self) -> usize;

    /// Bytes of scratch that operations up to these shapes need.
    fn scratch_bytes(&self, largest: &Largest) -> usize;

    /// Bytes of logits that keep the device busy: how many exist at once where nothing else is said.
    fn logits_bytes(&self) -> usize;

    /// Whether heads of this many elements can be computed, each normed before it is rotated or not.
    ///
    /// # Errors
    /// The first number that is beyond what the kernels do.
    fn check_heads(&self, head_dim: usize, normed: bool) -> Result<(), BackendError>;

    /// Whether operations read a mapped file where it lies; if not, weights are uploaded from it.
    fn reads_mapped(&self) -> bool;

    /// Bytes of its own memory that a device has free; nothing if it uses this machine's, or is not there.
    fn free_memory(&self) -> Option<u64>;

    /// Whether operations work on the memory beside the arena where it lies; if not, it is fetched and given back.
    fn works_at_home(&self) -> bool;
}

/// The operations. Every method may be called only after [`Backend::allocate`], with spans of that arena, in the
/// shapes stated; anything else is a programmer's error and panics.
pub trait Backend: Sizes + Send {
    /// What computes, for the first line of a run: device, threads, instruction set.
    fn describe(&self) -> String;

    /// Takes all memory that this backend will use: an arena of `bytes` zero bytes that holds all further spans,
    /// and the file that [`crate::memory::Place::Mapped`] spans refer to. `scratch` is as large as
    /// [`Sizes::scratch_bytes`] asked. Nothing is allocated afterwards.
    ///
    /// # Errors
    /// If the device does not have that much.
    fn allocate(&mut self, bytes: usize, mapped: Option<MappedFile>, scratch: Span) -> Result<(), BackendError>;

    /// Gives [`crate::memory::Place::Home`] spans their memory; after [`Backend::allocate`].
    ///
    /// # Errors
    /// If this machine does not have that much, or does not lend it to the device.
    fn attach(&mut self, home: HomeMemory) -> Result<(), BackendError>;

    /// Begins to make `to` hold what `home` holds; where operations work on home spans, both are the same and this is
    /// a hint. Nothing happens if `to` holds it already.
    fn fetch(&mut self, home: Span, to: Span);

    /// What [`Backend::fetch`] began is done for operations given later; it is begun if it was not.
    fn arrive(&mut self, home: Span, to: Span);

    /// Operations given so far are the last for a while that touch `from`, which `home` was fetched to. If they
    /// changed it, `home` is given its bytes.
    fn leave(&mut self, from: Span, home: Span, changed: bool);

    /// A span that was uploaded or downloaded is not needed for a while: a hint that matters where it lies in a file.
    fn rest(&self, span: Span);

    /// Whether all operations so far were carried out. After a failure, what is downloaded is zero.
    ///
    /// # Errors
    /// The first failure of the device.
    fn status(&self) -> Result<(), BackendError>;

    /// Copies bytes of this machine into a span.
    fn upload(&mut self, bytes: &[u8], to: Span);

    /// Copies a span into bytes of this machine.
    fn download(&self, from: Span, bytes: &mut [u8]);

    /// Sets all bytes of a span to zero.
    fn zero(&mut self, span: Span);

    /// `to = from`; both have the same length.
    fn copy(&mut self, from: Span, to: Span);

    /// `out[t] = table[tokens[t]]`; `tokens` is `[T]`, `table` is `[V, I]`, `out` is `[T, I]`.
    fn embedding(&mut self, tokens: Span, table: &Weight, out: Span);

    /// `grad[tokens[t]] += dout[t]` in the order of t; `grad` is float32 `[V, I]`.
    fn embedding_grad(&mut self, tokens: Span, dout: Span, grad: Span, features: usize);

    /// `out = x / rms(x) gain`, row by row; `inv_rms` `[T]` receives `1 / sqrt(mean(x^2) + eps)`.
    fn rms_norm(&mut self, x: Span, gain: Span, out: Span, inv_rms: Span, eps: f32);

    /// `dx += ` the gradient through the norm; `store` is for the gain's, `dgain`. Shapes as in [`Backend::rms_norm`].
    #[allow(clippy::too_many_arguments)]
    fn rms_norm_grad(&mut self, x: Span, gain: Span, inv_rms: Span, dout: Span, dx: Span, dgain: Span, store: Store);

    /// Quantizes rows of `features` elements in place to four bits: per group of 256 the two largest magnitudes
    /// stay exact, the others are rounded to nearest on a grid of 15 values, `absmax / 7` apart.
    fn quantize_activations(&mut self, x: Span, features: usize);

    /// Packs rows of `features` elements in groups of [`PACK_GROUP`] (the last of a row may be short, and is filled
    /// up with zeros): per group a bfloat16 scale s = absmax / 7, rounded up, and per element the nibble
    /// `8 + clamp(floor(x / s + u), -7, 7)`, in the order of the weights' nibbles. `u` is the number of `key` for
    /// the element of the padded rows, counted from row `first` on. Sizes are those of [`packed_bytes`].
    fn pack_rows(&mut self, x: Span, codes: Span, scales: Span, features: usize, first: usize, key: &RngKey);

    /// `x = s (nibble - 8)`, what [`Backend::pack_rows`] left of the rows.
    fn unpack_rows(&mut self, codes: Span, scales: Span, x: Span, features: usize);

    /// `y[T, O] = x[T, I] w[O, I]^T`.
    fn linear(&mut self, x: Span, w: &Weight, y: Span, store: Store);

    /// `dx[T, I] = dy[T, O] w[O, I]`.
    fn linear_grad_input(&mut self, dy: Span, w: &Weight, dx: Span, store: Store);

    /// `grad[O, I] = dy[T, O]^T x[T, I]`, float32.
    fn linear_grad_weight(&mut self, dy: Span, x: Span, grad: Span, rows: usize, cols: usize, store: Store);

    /// Rotates each head of `x` `[B, S, heads, D]` in place (half-split order): sequence position `start + s` uses
    /// row `start + s` of `table`, float32 `[positions, D/2, 2]` of cosine and sine.
    fn rope(&mut self, x: Span, table: Span, rotation: Rotation);

    /// Causal attention scaled by `1 / sqrt(D)`; `lse` float32 `[B, H, S]` receives the log of each row's sum.
    ///
    /// `first`, if given, is u32 `[B, S]`: query `s` of a sequence sees the keys from position `first[s]` on, where its
    /// sample begins. It is at most the query's own position and does not decrease within a sequence.
    #[allow(clippy::too_many_arguments)]
    fn attention(
        &mut self,
        q: Span,
        k: Span,
        v: Span,
        out: Span,
        lse: Span,
        first: Option<Span>,
        shape: AttentionShape,
    );

    /// Overwrites `dq`, `dk`, `dv` with the gradients for `dout`; only for `start = 0`, `capacity = S`. `out` is what
    /// [`Backend::attention`] gave, if it was kept as it was: it saves a backend from computing it again. `first` is what
    /// it was told.
    #[allow(clippy::too_many_arguments)]
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
    );

    /// `out = silu(gate) up`, element by element.
    fn swiglu(&mut self, gate: Span, up: Span, out: Span);

    /// Replaces `gate` and `up` by their gradients for `dout`.
    fn swiglu_grad(&mut self, gate: Span, up: Span, dout: Span);

    /// `losses[t] = -log softmax(logits[t])[targets[t]]`, zero where the target is [`IGNORE`]; with
    /// `gradient = Some(scale)` the logits `[T, V]` are replaced by their gradient times `scale`.
    fn cross_entropy(&mut self, logits: Span, targets: Span, losses: Span, vocab: usize, gradient: Option<f32>);

    /// One update of a parameter in place by Adam, AdamW, SPAM or Stable-SPAM, which `args` tells apart, from its
    /// complete gradient (float32, unpadded, read only). The state has `m`, either `v` or `v_rows` (and `v_cols`), and
    /// `scalars` (see [`adam`]).
    /// A gradient that is not finite changes nothing but is counted. Of a sparse parameter, rows whose gradient is zero
    /// are left as they are, unless moments are reset in this step.
    fn adam(&mut self, param: &Param, grad: Span, args: &AdamArgs);

    /// Takes the gradient of a parameter (float32) into account, before any of the operations that follow. If it is not
    /// finite, [`Backend::momentum`] and [`Backend::apply_update`] do nothing until the next call, which is counted; if it
    /// is all zero and `freeze_on_zero`, momentum does nothing and the update only decays the weight.
    fn begin_update(&mut self, grad: Span, freeze_on_zero: bool);

    /// A recurrence of a state tensor with one element per weight and `x`, float32 in the weight's shape, which becomes
    /// the result; see [`MomentumArgs`]. Compact state is rounded stochastically.
    fn momentum(&mut self, param: &Param, state: &StateTensor, x: Span, args: &MomentumArgs);

    /// Divides each row or column of `x`, float32 `[rows, cols]`, by its root mean square, or by `floor` if that is
    /// larger.
    fn normalize(&mut self, x: Span, rows: usize, cols: usize, axis: Axis, floor: f32);

    /// `x += factor w`: the weight as the optimizer sees it, residue included. `x` is float32 in the weight's shape.
    fn add_weight(&mut self, param: &Param, x: Span, factor: f32);

    /// `w = w - lr direction - decay w`, in place on the stored planes, rounded as in [`Backend::adam`]. `direction` is
    /// float32 in the weight's shape.
    fn apply_update(&mut self, param: &Param, direction: Span, args: &UpdateArgs);

    /// What the updates since the last call did, together: one question to the device for a whole step.
    fn update_stats(&mut self) -> UpdateStats;

    /// `x[t] += bias`, row by row; `x` is `[T, width]`, `bias` float32 `[width]`.
    fn add_bias(&mut self, x: Span, bias: Span, width: usize);

    /// `grad = sum over t of dy[t]`; `dy` is `[T, width]`, `grad` float32 `[width]`.
    fn bias_grad(&mut self, dy: Span, grad: Span, width: usize, store: Store);
}
