//! Every mistake that can be seen without reading data, found before step 0 and all at once.

use super::*;
use crate::backend::SecondMoment;
use crate::error::{ConfigError, Problem};
use crate::model::{ActivationQuant, RopeScaling, SHORTEST_PARTED, Scheme};
use crate::optim::{EmbeddingUpdate, Rule, Variant};
use crate::quant::GROUPS;
use std::fmt::Display;

/// Largest width, vocabulary or context: beyond any machine, and small enough that products of two fit.
const MOST: usize = 1 << 24;

/// Most blocks: several times those of any model, and few enough to be planned in a moment.
const MOST_LAYERS: usize = 1024;

/// Most parameters, and most activations of the widest kind: beyond any machine, and few enough that no sum of bytes
/// overflows.
const MOST_ELEMENTS: u64 = 1 << 46;

impl Config {
    /// Checks a configuration that did not come from [`Config::load`] (which checks by itself).
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every mistake.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let problems = problems(self);
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(problems)) }
    }
}

/// All mistakes, in the order of the tables.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut checks = Checks(Vec::new());
    checks.model(&config.model);
    checks.0.extend(config.data.problems());
    checks.0.extend(config.tokenizer.problems(config.model.vocab));
    checks.storage(config);
    checks.optimizer(&config.optimizer);
    checks.sparse_embedding(config);
    checks.adam_only(config);
    checks.train(config);
    checks.run(&config.run);
    checks.0
}

struct Checks(Vec<Problem>);

impl Checks {
    /// Notes a problem unless `ok`; `reason` says what is allowed and what to do next.
    fn need(&mut self, ok: bool, key: &str, found: impl Display, reason: impl Display) {
        if !ok {
            let (key, found) = (key.to_string(), Some(found.to_string()));
            self.0.push(Problem { key, found, place: None, reason: reason.to_string() });
        }
    }

    fn within(&mut self, key: &str, found: usize, least: usize, most: usize) {
        self.need((least..=most).contains(&found), key, found, format_args!("must be {least} to {most}"));
    }

    /// `found` in [0, 1): how much of a running mean is kept.
    fn decay(&mut self, key: &str, found: f64) {
        let reason = "must be at least 0 and below 1: it is the share of a running mean that is kept";
        self.need((0.0..1.0).contains(&found), key, number(found), reason);
    }

    /// `found` in (0, most].
    fn positive(&mut self, key: &str, found: f64, most: f64, unit: &str) {
        let reason = format_args!("must be above 0 and at most {most}{unit}");
        self.need(found > 0.0 && found <= most, key, number(found), reason);
    }

    fn model(&mut self, model: &ModelConfig) {
        let dimensions = [
            ("model.hidden", model.hidden, MOST),
            ("model.intermediate", model.intermediate, MOST),
            ("model.layers", model.layers, MOST_LAYERS),
            ("model.heads", model.heads, MOST),
            ("model.kv_heads", model.kv_heads, MOST),
            ("model.vocab", model.vocab, MOST),
            ("model.context", model.context, MOST),
            ("model.head_dim", model.head_dim.unwrap_or(2), MOST),
        ];
        for (key, found, most) in dimensions {
            self.within(key, found, 1, most);
        }
        // Dimensions that are within their limits can be multiplied.
        if self.0.is_empty() {
            let parameters = model.parameters();
            let reason = format_args!("makes {parameters} parameters, at most {MOST_ELEMENTS} are possible");
            self.need(parameters <= MOST_ELEMENTS, "model.hidden", model.hidden, reason);
        }
        self.heads(model);
        self.rope(model);
        self.positive("model.norm_eps", model.norm_eps, 0.1, "; 1e-6 is usual");
        self.positive("model.init_std", model.init_std, 1.0, "; 0.02 is usual");
    }

    fn heads(&mut self, model: &ModelConfig) {
        let &ModelConfig { hidden, heads, kv_heads, .. } = model;
        if hidden == 0 || heads == 0 || kv_heads == 0 {
            return; // already named
        }
        if !heads.is_multiple_of(kv_heads) {
            let choices = divisors(heads, kv_heads, |_| true);
            let reason = format_args!("must divide model.heads = {heads}, which share keys and values; use {choices}");
            self.need(false, "model.kv_heads", kv_heads, reason);
        }
        if let Some(size) = model.head_dim {
            let reason = "must be even, since rotary embeddings turn pairs of elements";
            self.need(size.is_multiple_of(2), "model.head_dim", size, reason);
            // A query's width beyond this would overflow the sums below.
            let width = heads.saturating_mul(size);
            let reason = format_args!("makes queries of {width} elements with model.heads = {heads}, at most {MOST}");
            self.need(width <= MOST, "model.head_dim", size, reason);
            return;
        }
        // Rotary embeddings turn pairs of elements, so a head needs an even number of them.
        let fits = |n: usize| (hidden / n).is_multiple_of(2);
        if !hidden.is_multiple_of(heads) {
            let choices = divisors(hidden, heads, fits);
            let reason = format_args!("must divide model.hidden = {hidden}; use {choices}");
            self.need(false, "model.heads", heads, reason);
        } else if !fits(heads) {
            let (size, choices) = (hidden / heads, divisors(hidden, heads, fits));
            let reason = format_args!(
                "makes the head size {size} (model.hidden = {hidden}), and rotary embeddings need an even one; \
                 use {choices}"
            );
            self.need(false, "model.heads", heads, reason);
        }
    }

    fn rope(&mut self, model: &ModelConfig) {
        self.positive("model.rope_theta", model.rope_theta, 1e12, "; 10000 is usual");
        self.positive("model.rope_factor", model.rope_factor, 1e6, "; 1 stretches nothing, LLaMA 3.1 has 8");
        self.within("model.rope_original_context", model.rope_original_context, 1, MOST);
        self.positive("model.rope_low", model.rope_low, 1e6, "; 1 is usual");
        self.positive("model.rope_high", model.rope_high, 1e6, "; 4 is usual");
        let reason = format_args!("must exceed model.rope_low = {}; 4 is usual", model.rope_low);
        self.need(model.rope_high > model.rope_low, "model.rope_high", number(model.rope_high), reason);
        let plain = model.rope_scaling == RopeScaling::None && model.rope_factor != 1.0;
        let reason = "has no effect without model.rope_scaling; remove it or set model.rope_scaling=\"linear\"";
        self.need(!plain, "model.rope_factor", number(model.rope_factor), reason);
    }

    fn storage(&mut self, config: &Config) {
        let storage = &config.storage;
        let sizes = GROUPS.map(|group| group.to_string()).join(", ");
        self.need(
            GROUPS.contains(&storage.group),
            "storage.group",
            storage.group,
            format_args!("must be one of {sizes}"),
        );
        let matrices = storage.matrix_format();
        let packed = matrices.codec().takes_residue();
        let four_bit = packed || matrices.simulates().is_some();
        let head = if config.model.tied { storage.embedding } else { storage.head };
        let tables =
            [storage.embedding, head].into_iter().any(|table| storage.table_format(table).codec().takes_residue());
        self.need(
            storage.residue || packed || tables,
            "storage.residue",
            storage.residue,
            "only packed weights have a residue to leave out; remove the key or set storage.weights=\"int4\"",
        );
        self.need(
            !storage.feedback || packed || tables,
            "storage.feedback",
            storage.feedback,
            "feeds back the rounding of packed weights, and none are packed; set it to false or storage.weights=\"int4\"",
        );
        self.need(
            !storage.feedback || config.optimizer.beta1 > 0.0,
            "storage.feedback",
            storage.feedback,
            "is carried by the momentum, and optimizer.beta1 = 0 has none; set it to false or optimizer.beta1=0.9",
        );
        self.need(
            storage.scheme == Scheme::Symmetric || four_bit || tables,
            "storage.scheme",
            "\"asymmetric\"",
            "only four-bit weights have offsets, and none are four-bit; remove the key or set storage.weights=\"int4\"",
        );
        self.need(
            config.activations.quant == ActivationQuant::None || four_bit,
            "activations.quant",
            "\"int4\"",
            "quantizes the inputs of four-bit products; set it to \"none\" or storage.weights=\"int4\"",
        );
        self.shared_moments(config);
    }

    /// Second moments that elements share fit rules that ask for nothing but their root.
    fn shared_moments(&mut self, config: &Config) {
        let word = match config.storage.v {
            SecondMoment::Row => "\"row\"",
            SecondMoment::Factored => "\"factored\"",
            _ => return,
        };
        let optimizer = &config.optimizer;
        self.need(
            optimizer.name != Rule::Spam,
            "storage.v",
            word,
            "is a mean over many elements, and SPAM tells spikes by each element's own; set it to \"int4\" or \
             optimizer.name=\"stable-spam\"",
        );
        self.need(
            optimizer.name != Rule::Adam || optimizer.weight_decay == 0.0,
            "storage.v",
            word,
            "is a mean of squared gradients, into which Adam's weight decay would mix the weights; set it to \"int4\" \
             or optimizer.name=\"adamw\"",
        );
    }

    fn optimizer(&mut self, optimizer: &OptimizerConfig) {
        self.positive("optimizer.lr", optimizer.lr, 1.0, "; 1e-4 to 1e-2 is usual");
        let stable = optimizer.name == Rule::StableSpam;
        for (key, value) in [
            ("optimizer.beta1", optimizer.beta1),
            ("optimizer.beta2", optimizer.beta2),
            ("optimizer.gamma1", optimizer.gamma1),
            ("optimizer.gamma2", optimizer.gamma2),
            ("optimizer.gamma3", optimizer.gamma3),
        ] {
            self.decay(key, value);
        }
        self.positive("optimizer.eps", optimizer.eps, 1.0, "; 1e-8 is usual");
        self.decay_of_weights(optimizer);
        let only_stable = "is read by Stable-SPAM only; remove the key or set optimizer.name=\"stable-spam\"";
        self.variant(optimizer);
        self.momentum(optimizer);
        self.need(
            optimizer.momentum_decay == 0 || stable,
            "optimizer.momentum_decay",
            optimizer.momentum_decay,
            only_stable,
        );
        let floor = optimizer.momentum_decay_floor;
        self.need((0.0..=1.0).contains(&floor), "optimizer.momentum_decay_floor", number(floor), "must be 0 to 1");
        let threshold = optimizer.spike_threshold;
        let reason = "must be a finite number above 0; 5000 is usual";
        self.need(threshold > 0.0 && threshold.is_finite(), "optimizer.spike_threshold", number(threshold), reason);
        let density = optimizer.density;
        self.positive("optimizer.density", density, 1.0, ": it is the share of the elements that are updated");
        let reason = "below 1 is a mask of SPAM only; set it to 1 or optimizer.name=\"spam\"";
        let masked = density > 0.0 && density < 1.0;
        self.need(!masked || optimizer.name == Rule::Spam, "optimizer.density", number(density), reason);
    }

    fn variant(&mut self, optimizer: &OptimizerConfig) {
        let (word, allowed) = match optimizer.variant {
            Variant::Paper => ("\"paper\"", !matches!(optimizer.name, Rule::Sgd | Rule::Lion)),
            Variant::Reference => {
                ("\"reference\"", optimizer.name == Rule::StableSpam || !optimizer.name.is_adam_like())
            }
            Variant::Standard => ("\"standard\"", !optimizer.name.is_adam_like()),
        };
        let reason = match optimizer.variant {
            Variant::Paper => "says nothing for this rule; remove the key",
            Variant::Reference => {
                "is read by Stable-SPAM, SGD, Lion and SCALE; remove the key or set optimizer.name=\"stable-spam\""
            }
            Variant::Standard => "is a form of SGD, Lion and SCALE; remove the key",
        };
        self.need(allowed, "optimizer.variant", word, reason);
    }

    /// Options of SGD and SCALE.
    fn momentum(&mut self, optimizer: &OptimizerConfig) {
        let OptimizerConfig { name, momentum, nesterov, adam_lr, .. } = *optimizer;
        let (sgd, scale) = (name == Rule::Sgd, name == Rule::Scale);
        self.decay("optimizer.momentum", momentum);
        let reason = "is read by SGD and SCALE only; remove the key or set optimizer.name=\"sgd\"";
        self.need(momentum == 0.0 || sgd || scale, "optimizer.momentum", number(momentum), reason);
        let reason =
            "looks ahead along the momentum of SGD; it needs optimizer.name=\"sgd\" and optimizer.momentum above 0";
        self.need(!nesterov || (sgd && momentum > 0.0), "optimizer.nesterov", nesterov, reason);
        if scale {
            self.positive("optimizer.adam_lr", adam_lr, 1.0, "; 1e-3 to 2e-2 is usual");
        } else {
            let reason = "is read by SCALE only; remove the key or set optimizer.name=\"scale\"";
            self.need(adam_lr == 0.0, "optimizer.adam_lr", number(adam_lr), reason);
        }
    }

    /// What only Adam and the rules with its state can do.
    fn adam_only(&mut self, config: &Config) {
        if config.optimizer.name.is_adam_like() {
            return;
        }
        let reason = "replays rounding errors through Adam's momentum; set it to false or optimizer.name=\"adamw\"";
        self.need(!config.storage.feedback, "storage.feedback", true, reason);
        let sparse = config.optimizer.embedding == EmbeddingUpdate::Sparse;
        let reason = "is for Adam and the rules with its state; set it to \"dense\" or optimizer.name=\"adamw\"";
        self.need(!sparse, "optimizer.embedding", "\"sparse\"", reason);
    }

    fn sparse_embedding(&mut self, config: &Config) {
        if config.optimizer.embedding == EmbeddingUpdate::Dense {
            return;
        }
        let (key, word) = ("optimizer.embedding", "\"sparse\"");
        let reason = "leaves out rows without a gradient, and a tied head gives one to every row; set it to \"dense\" or \
                      model.tied=false";
        self.need(!config.model.tied, key, word, reason);
        let reason = "leaves rows as they are, and factored second moments mix each with all others; set it to \"dense\" \
                      or storage.v=\"row\"";
        self.need(config.storage.v != SecondMoment::Factored, key, word, reason);
    }

    fn decay_of_weights(&mut self, optimizer: &OptimizerConfig) {
        let &OptimizerConfig { lr, weight_decay, .. } = optimizer;
        let reason = "must be a finite number, 0 or more";
        let sound = weight_decay >= 0.0 && weight_decay.is_finite();
        self.need(sound, "optimizer.weight_decay", number(weight_decay), reason);
        // At lr * decay = 1 a step erases the weights, beyond it flips their signs.
        let erases = sound && lr > 0.0 && lr <= 1.0 && lr * weight_decay >= 1.0;
        let reason = format_args!("times optimizer.lr = {lr} must stay below 1, or one step erases the weights");
        self.need(!erases, "optimizer.weight_decay", number(weight_decay), reason);
    }

    fn train(&mut self, config: &Config) {
        let (train, context) = (&config.train, config.model.context);
        self.need(train.steps >= 1, "train.steps", train.steps, "must be 1 or more");
        self.within("train.batch", train.batch, 1, 1 << 20);
        self.need(train.sequence >= 1, "train.sequence", train.sequence, "must be 1 or more tokens");
        let reason = format_args!("must not exceed model.context = {context}; shorten it or raise model.context");
        self.need(train.sequence <= context, "train.sequence", train.sequence, reason);
        let reason = format_args!(
            "needs sequences of {SHORTEST_PARTED} tokens or more, train.sequence = {}; set it to 0",
            train.sequence
        );
        self.need(
            !train.is_parted() || train.sequence >= SHORTEST_PARTED,
            "train.micro_batch",
            train.micro_batch,
            reason,
        );
        let &ModelConfig { hidden, intermediate, vocab, layers, .. } = &config.model;
        let factors = [train.batch, train.sequence, hidden.max(intermediate).max(vocab), layers];
        let activations = factors.iter().fold(1u64, |product, &n| product.saturating_mul(n as u64));
        let reason = format_args!(
            "makes {activations} activations of a kind with train.sequence = {} and this model, at most \
             {MOST_ELEMENTS} are possible",
            train.sequence
        );
        self.need(activations <= MOST_ELEMENTS, "train.batch", train.batch, reason);
        let reason = format_args!("must not exceed train.steps = {}; a tenth of the steps is usual", train.steps);
        self.need(train.warmup <= train.steps, "train.warmup", train.warmup, reason);
        let reason = "must be 0 to 1: it is a share of optimizer.lr";
        self.need((0.0..=1.0).contains(&train.final_lr), "train.final_lr", number(train.final_lr), reason);
    }

    fn run(&mut self, run: &RunConfig) {
        self.need(!run.dir.as_os_str().is_empty(), "run.dir", "\"\"", "must name a folder, such as \"runs/first\"");
        let reason = format_args!("must be at most {}, the largest whole number of TOML", i64::MAX);
        self.need(i64::try_from(run.seed).is_ok(), "run.seed", run.seed, reason);
        // One TiB: beyond any device.
        self.within("run.logits_mib", run.logits_mib, 0, 1 << 20);
        let reason = "must be 0 (all processors) to 4096";
        self.need(run.threads <= 4096, "run.threads", run.threads, reason);
    }
}

/// A number as TOML writes it: `nan`, `inf`, `-0.5`, `1e-9`.
fn number(found: f64) -> String {
    toml::Value::Float(found).to_string()
}

/// The divisors of `n` that are `fit`, at most five and those nearest to `found`, for a message.
fn divisors(n: usize, found: usize, fit: impl Fn(usize) -> bool) -> String {
    let mut all: Vec<usize> = (1..=n.min(MOST)).filter(|d| n.is_multiple_of(*d) && fit(*d)).collect();
    if all.is_empty() {
        return "an even model.hidden".into();
    }
    all.sort_by_key(|d| d.abs_diff(found));
    all.truncate(5);
    all.sort_unstable();
    let names: Vec<String> = all.iter().map(usize::to_string).collect();
    names.join(" or ")
}
