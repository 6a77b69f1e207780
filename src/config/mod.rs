//! What a run is: the TOML tables, their defaults and presets, overrides, and the checks made before step 0.

mod defaults;
mod load;
mod presets;
mod run;
mod schema;
mod validate;
mod write;

pub use presets::PRESETS;
pub use run::{GradientBuffer, KeptActivations, Residence, Run};
pub use validate::SHORTEST_PARTED;

use crate::data::{DataConfig, TokenizerSettings};
use serde::{Deserialize, Serialize};

/// A whole configuration; every table and key is optional in the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The architecture.
    pub model: Model,
    /// The text.
    pub data: DataConfig,
    /// How text becomes tokens.
    pub tokenizer: TokenizerSettings,
    /// How weights and optimizer state are stored.
    pub storage: Storage,
    /// How activations enter the packed products.
    pub activations: Activations,
    /// The update rule.
    pub optimizer: Optimizer,
    /// Steps, batch, schedule, cadences.
    pub train: Train,
    /// Where and how the run executes.
    pub run: Run,
}

/// `[model]`: a LLaMA.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the SwiGLU block.
    pub intermediate: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Vocabulary size.
    pub vocab: usize,
    /// Longest sequence the model is meant for, in tokens.
    pub context: usize,
    /// Elements per head; absent: hidden / heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Whether queries, keys and values have biases (Qwen2).
    #[serde(skip_serializing_if = "is_default")]
    pub qkv_bias: bool,
    /// Whether each head of queries and keys is normed before it is rotated (Qwen3).
    #[serde(skip_serializing_if = "is_default")]
    pub qk_norm: bool,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// How the rotary embedding's frequencies are stretched for long texts.
    #[serde(skip_serializing_if = "is_default")]
    pub rope_scaling: RopeScaling,
    /// By how much they are stretched, where they are.
    #[serde(skip_serializing_if = "is_default_factor")]
    pub rope_factor: f64,
    /// `llama3`: the context that the model was trained on before, in tokens.
    #[serde(skip_serializing_if = "is_default_original")]
    pub rope_original_context: usize,
    /// `llama3`: waves longer than the old context divided by this are stretched in full.
    #[serde(skip_serializing_if = "is_default_low")]
    pub rope_low: f64,
    /// `llama3`: waves shorter than the old context divided by this are left as they are.
    #[serde(skip_serializing_if = "is_default_high")]
    pub rope_high: f64,
    /// Epsilon of every RMSNorm.
    pub norm_eps: f64,
    /// Whether the head shares the embedding's weights.
    pub tied: bool,
    /// Standard deviation of the initial normal distribution.
    pub init_std: f64,
}

/// How the frequencies of the rotary embedding are stretched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All of them alike.
    Linear,
    /// The long waves only, as LLaMA 3.1 does.
    Llama3,
}

// Keys that older files do not have are written only where they say something, so that those files stay readable
// and new ones of the same model stay the same.

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_default_factor(value: &f64) -> bool {
    *value == Model::default().rope_factor
}

fn is_default_original(value: &usize) -> bool {
    *value == Model::default().rope_original_context
}

fn is_default_low(value: &f64) -> bool {
    *value == Model::default().rope_low
}

fn is_default_high(value: &f64) -> bool {
    *value == Model::default().rope_high
}

impl Model {
    /// Elements per head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden / self.heads)
    }

    /// Width of the queries and of the heads' output.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim()
    }

    /// Width of the keys and of the values.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim()
    }
}

/// How the seven matrices of a block are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weights {
    /// Packed nibbles: `codes`, and `residue` unless switched off.
    Int4,
    /// Four-bit values in the products over a float32 master copy: the published simulation.
    Int4Simulated,
    /// bfloat16, stochastically rounded.
    Bf16,
    /// float32.
    F32,
}

/// How embedding and head are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableStorage {
    /// Packed like a matrix.
    Int4,
    /// One signed byte per weight.
    Int8,
    /// bfloat16, stochastically rounded.
    Bf16,
    /// float32.
    F32,
}

/// Whether a group has an offset beside its scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// value = scale (code - 8): GGUF's Q4_0.
    Symmetric,
    /// value = scale code + offset: GGUF's Q4_1.
    Asymmetric,
}

/// How the first moment is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// float32.
    F32,
    /// One byte per element, one scale per group.
    Int8,
    /// One nibble per element, one scale per group.
    Int4,
}

/// How the second moment is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecondMoment {
    /// float32.
    F32,
    /// One byte per element for its root, one scale per group.
    Int8,
    /// One nibble per element for its root, one scale per group.
    Int4,
    /// One float32 per row of a matrix, as in Adam-mini: the mean over the row. Vectors keep float32.
    Row,
    /// One float32 per row and one per column of a matrix, as in Adafactor. Vectors keep float32.
    Factored,
}

impl SecondMoment {
    /// How each element is stored; nothing if only means are.
    pub fn per_element(self) -> Option<Moment> {
        match self {
            Self::F32 => Some(Moment::F32),
            Self::Int8 => Some(Moment::Int8),
            Self::Int4 => Some(Moment::Int4),
            Self::Row | Self::Factored => None,
        }
    }
}

/// `[storage]`: bits of weights and state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// The matrices of the blocks.
    pub weights: Weights,
    /// The embedding (and the head, if tied).
    pub embedding: TableStorage,
    /// The untied head.
    pub head: TableStorage,
    /// Elements per group: 32, 64, 128 or 256.
    pub group: usize,
    /// Symmetric or asymmetric groups.
    pub scheme: Scheme,
    /// Whether packed weights keep the four bits below their code.
    pub residue: bool,
    /// Whether rounding errors are fed back into the momentum.
    pub feedback: bool,
    /// First moment.
    pub m: Moment,
    /// Second moment.
    pub v: SecondMoment,
}

/// `[activations]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Activations {
    /// Quantization of the inputs of packed products.
    pub quant: ActivationQuant,
}

/// Quantization of the inputs of packed products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationQuant {
    /// As they are.
    #[default]
    None,
    /// Groups of 256, the two largest kept exactly, the rest in four bits; straight-through gradients.
    Int4,
}

/// The update rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// arXiv 2502.17055.
    StableSpam,
    /// arXiv 2501.06842.
    Spam,
    /// Adam with decoupled weight decay.
    Adamw,
    /// Adam; weight decay is added to the gradient.
    Adam,
}

/// The two readings of Stable-SPAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// As the paper means it.
    Paper,
    /// As the published code behaves at and after a reset.
    Reference,
}

/// Which rows of an untied embedding a step updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmbeddingUpdate {
    /// All: moments of tokens that did not occur decay, and their weights go on moving by them.
    #[default]
    Dense,
    /// Those with a gradient, which are those of tokens that occurred; all others keep weights and moments as they are,
    /// without weight decay, as in PyTorch's SparseAdam. A reset of the moments is one of all rows.
    Sparse,
}

/// `[optimizer]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    /// The rule.
    pub name: Rule,
    /// Peak learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay (never on norms).
    pub weight_decay: f64,
    /// Stable-SPAM: which reading.
    pub variant: Variant,
    /// Stable-SPAM: decay of AdaGN's mean norm.
    pub gamma1: f64,
    /// Stable-SPAM: decay of AdaGN's mean squared norm.
    pub gamma2: f64,
    /// Stable-SPAM: decay of AdaClip's threshold.
    pub gamma3: f64,
    /// Steps between resets of the moments; 0: never (Stable-SPAM, SPAM).
    pub reset_interval: u64,
    /// Stable-SPAM: steps over which a cosine lowers beta1 and gamma1 towards `momentum_decay_floor`; 0: off.
    pub momentum_decay: u64,
    /// Stable-SPAM: the cosine's floor.
    pub momentum_decay_floor: f64,
    /// SPAM: a spike is an element whose square exceeds this many times its second moment.
    pub spike_threshold: f64,
    /// SPAM: steps after the start and after each reset in which no spike is clipped.
    pub spike_quiet: u64,
    /// SPAM: steps of the warm-up after a reset.
    pub reset_warmup: u64,
    /// SPAM: share of the elements that receive updates between two resets.
    pub density: f64,
    /// Which rows of an untied embedding are updated.
    #[serde(skip_serializing_if = "is_default")]
    pub embedding: EmbeddingUpdate,
}

/// `[train]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// Optimizer steps.
    pub steps: u64,
    /// Sequences per step.
    pub batch: usize,
    /// Sequences that a block computes at once; 0: as many as fit into memory. On a CPU results do not
    /// depend on it; on a GPU gradients are summed in another order.
    pub micro_batch: usize,
    /// Tokens per sequence.
    pub sequence: usize,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// What follows the warm-up.
    pub schedule: Schedule,
    /// Last learning rate as a share of the peak.
    pub final_lr: f64,
    /// Steps between validations; 0: only at the end.
    pub eval_every: u64,
    /// Validation sequences at most; 0: all.
    pub eval_sequences: usize,
    /// Steps between checkpoints; 0: only at the end.
    pub checkpoint_every: u64,
    /// Newest checkpoints that are kept; 0: all.
    pub keep: usize,
    /// Checkpoints at multiples of this many steps are never deleted; 0: none.
    pub milestone_every: u64,
    /// Steps between text samples; 0: only at the end.
    pub sample_every: u64,
    /// Prompt of the text samples.
    pub sample_prompt: String,
    /// Tokens of a text sample.
    pub sample_tokens: usize,
    /// Steps in a row with a non-finite loss or gradient before the run stops.
    pub max_nonfinite: u64,
    /// Train on the first batch only: a model that cannot overfit it has a defect.
    pub overfit: bool,
}

impl Train {
    /// Sequences of a micro-batch, at most the batch; all of it where nothing smaller was chosen.
    pub fn micro_batch(&self) -> usize {
        if self.micro_batch == 0 { self.batch } else { self.micro_batch.min(self.batch) }
    }

    /// Whether a batch is more than one micro-batch.
    pub fn is_parted(&self) -> bool {
        self.micro_batch() < self.batch
    }
}

/// The learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Cosine to `final_lr`.
    Cosine,
    /// Straight line to `final_lr`.
    Linear,
    /// The peak.
    Constant,
}
