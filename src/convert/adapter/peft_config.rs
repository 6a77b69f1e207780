//! PEFT's `adapter_config.json`. Everything that changes what an adapter computes is understood or refused by name; of an
//! option that is not known only a value that means "no" is let pass.

use super::ScaleRule;
use super::patterns::{Members, Numbers, Pattern, refuse_many, shown};
use super::site::{Site, Sites};
use crate::error::AdapterError;
use crate::model::ParamKind;
use serde_json::{Map, Value};

/// A LoRA by its configuration.
#[derive(Debug)]
pub(super) struct LoraConfig {
    rank: u64,
    ranks: Numbers,
    alpha: f64,
    alphas: Numbers,
    /// What alpha means.
    pub rule: ScaleRule,
    /// Whether rows have magnitudes.
    pub dora: bool,
    /// The share of inputs that training left out.
    pub dropout: f64,
    /// The numbers of the matrices that it stands beside.
    pub targets: Vec<usize>,
}

/// What a configuration is of.
#[derive(Debug)]
pub(super) enum PeftConfig {
    Lora(Box<LoraConfig>),
    /// Keys and values before every text.
    Prefix {
        /// How many.
        length: u64,
    },
}

/// Options of LoRA that say nothing about what is computed, or are read here.
const LORA: [&str; 24] = [
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    // Only with megatron_config, which is refused.
    "megatron_core",
    "peft_type",
    "peft_version",
    // Only with use_qalora, which is refused.
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
];

/// The same of prefixes.
const PREFIX: [&str; 16] = [
    "auto_mapping",
    "base_model_name_or_path",
    // Of the MLP that made the prefix, and that is folded into it where it is saved.
    "encoder_hidden_size",
    "inference_mode",
    "init_weights",
    "num_attention_heads",
    "num_layers",
    "num_transformer_submodules",
    "num_virtual_tokens",
    "peft_type",
    "peft_version",
    "prefix_projection",
    "revision",
    "task_type",
    "token_dim",
    "runtime_config",
];

/// Options that change what is computed, and how.
const REFUSED: [(&str, &str); 18] = [
    ("alora_invocation_tokens", "the adapter would begin to act at a certain token"),
    ("arrow_config", "it routes between several adapters"),
    ("corda_config", "its start was taken out of the base, which a packed base does not follow"),
    ("ensure_weight_tying", "it adapts embedding and head by the same pair"),
    ("fan_in_fan_out", "it is of matrices that lie the other way round"),
    ("kasa_config", "it weighs singular values of the base"),
    ("layer_replication", "it makes a model of other blocks"),
    ("loftq_config", "its start was taken out of the base, which a packed base does not follow"),
    ("lora_bias", "pairs with a bias are not read"),
    ("lora_ga_config", "its start was taken out of the base, which a packed base does not follow"),
    ("megatron_config", "it is of Megatron's parallel layers"),
    ("modules_to_save", "whole matrices that were trained beside it cannot stand beside a packed base"),
    ("monteclora_config", "it samples its matrices"),
    ("target_parameters", "it is of parameters that are no module's matrix"),
    ("trainable_token_indices", "rows of the embedding that were trained beside it cannot stand beside a packed base"),
    ("use_bdlora", "its matrices are block-diagonal"),
    ("use_qalora", "its A reads sums over groups of inputs"),
    ("velora_config", "it compresses what its gradients are made of"),
];

/// The list of blocks in a LLaMA, which is where numbers in module paths stand.
const BLOCKS: &str = "layers";

/// Reads a configuration for a base with these matrices.
///
/// # Errors
/// What is invalid, unknown, or refused.
pub(super) fn parse(json: &[u8], sites: &Sites) -> Result<PeftConfig, AdapterError> {
    let options: Map<String, Value> =
        serde_json::from_slice(json).map_err(|e| AdapterError::Config { reason: shown(&e.to_string()) })?;
    let options = Options(&options);
    let Some(kind) = options.0.get("peft_type").and_then(Value::as_str) else {
        return Err(AdapterError::Config { reason: "it does not say its peft_type".into() });
    };
    match options.0.get("task_type") {
        None | Some(Value::Null) => {}
        Some(Value::String(task)) if task == "CAUSAL_LM" => {}
        Some(other) => return Err(option("task_type", other, "adapters of CAUSAL_LM models are read")),
    }
    match kind {
        "LORA" => {
            options.refuse(&LORA)?;
            Ok(PeftConfig::Lora(Box::new(lora(&options, json, sites)?)))
        }
        "PREFIX_TUNING" => {
            options.refuse(&PREFIX)?;
            options.same("num_transformer_submodules", 1)?;
            Ok(PeftConfig::Prefix { length: options.count("num_virtual_tokens")?.unwrap_or(0) })
        }
        _ => Err(option("peft_type", &kind.into(), "LORA and PREFIX_TUNING are read")),
    }
}

/// The name of the base, if it is said.
pub(super) fn base_name(json: &[u8]) -> Option<String> {
    let options: Map<String, Value> = serde_json::from_slice(json).ok()?;
    options.get("base_model_name_or_path")?.as_str().filter(|name| !name.is_empty()).map(shown)
}

fn lora(options: &Options<'_>, json: &[u8], sites: &Sites) -> Result<LoraConfig, AdapterError> {
    #[derive(serde::Deserialize)]
    struct Patterns {
        #[serde(default)]
        rank_pattern: Members<f64>,
        #[serde(default)]
        alpha_pattern: Members<f64>,
    }
    let patterns: Patterns =
        serde_json::from_slice(json).map_err(|e| AdapterError::Config { reason: shown(&e.to_string()) })?;
    if let Some(found) = options.0.get("bias").filter(|bias| !bias.is_null() && *bias != "none") {
        return Err(option(
            "bias",
            found,
            "\"none\" is read: biases that were trained beside it cannot stand beside a packed base",
        ));
    }
    init(options)?;
    for (pattern, rank) in &patterns.rank_pattern.0 {
        if rank.fract() != 0.0 || !(1.0..=1e9).contains(rank) {
            let found = format!("{rank} for {:?}", shown(pattern));
            let allowed = "a whole number above 0 is needed".into();
            return Err(AdapterError::Option { key: "rank_pattern".into(), found, allowed });
        }
    }
    for (pattern, alpha) in &patterns.alpha_pattern.0 {
        check_alpha("alpha_pattern", *alpha, &format!(" for {:?}", shown(pattern)))?;
    }
    let alpha = options.number("lora_alpha")?.unwrap_or(8.0);
    check_alpha("lora_alpha", alpha, "")?;
    let dropout = options.number("lora_dropout")?.unwrap_or(0.0);
    if !(0.0..1.0).contains(&dropout) {
        let (key, found) = ("lora_dropout".into(), dropout.to_string());
        return Err(AdapterError::Option { key, found, allowed: "at least 0 and below 1 is needed".into() });
    }
    let rank = options.count("r")?.unwrap_or(8);
    Ok(LoraConfig {
        rank,
        ranks: Numbers::new("rank_pattern", patterns.rank_pattern.0, sites)?,
        alpha,
        alphas: Numbers::new("alpha_pattern", patterns.alpha_pattern.0, sites)?,
        rule: if options.flag("use_rslora")? { ScaleRule::RankStabilized } else { ScaleRule::AlphaOverRank },
        dora: options.flag("use_dora")?,
        dropout,
        targets: targets(options, sites)?,
    })
}

/// An alpha of 0 switches an adapter off, which nobody means.
fn check_alpha(key: &str, alpha: f64, place: &str) -> Result<(), AdapterError> {
    if alpha.is_finite() && alpha != 0.0 {
        return Ok(());
    }
    let allowed = "a number other than 0 is needed: the product of a pair is multiplied by it".into();
    Err(AdapterError::Option { key: key.into(), found: format!("{alpha}{place}"), allowed })
}

/// How A and B began is of no concern, unless what they began as was taken out of the base.
fn init(options: &Options<'_>) -> Result<(), AdapterError> {
    let key = "init_lora_weights";
    match options.0.get(key) {
        None | Some(Value::Null | Value::Bool(_)) => Ok(()),
        Some(Value::String(word)) if ["gaussian", "eva", "orthogonal"].contains(&word.as_str()) => Ok(()),
        Some(other) => Err(option(
            key,
            other,
            "such a start is taken out of the base, and a packed base does not follow; save it as a plain LoRA with PEFT's \
             save_pretrained(path_initial_model_for_weight_conversion=...)",
        )),
    }
}

/// The matrices that the configuration names.
fn targets(options: &Options<'_>, sites: &Sites) -> Result<Vec<usize>, AdapterError> {
    let key = "target_modules";
    let blocks = options.blocks()?;
    let chosen = match options.0.get(key) {
        // PEFT's own choice for a LLaMA.
        None | Some(Value::Null) => Names::list(key, ["q_proj", "v_proj"].map(str::to_owned).to_vec(), sites)?,
        Some(Value::String(word)) if word == "all-linear" => Names::Linear,
        Some(Value::String(_)) if blocks.is_some() => {
            return Err(option(
                "layers_to_transform",
                &options.0["layers_to_transform"],
                "it goes with a list of target_modules only",
            ));
        }
        Some(value) => Names::read(key, value, sites)?,
    };
    let excluded = match options.0.get("exclude_modules") {
        None | Some(Value::Null) => None,
        Some(value) => Some(Names::read("exclude_modules", value, sites)?),
    };
    let mut targets = Vec::new();
    for (i, site) in sites.iter().enumerate() {
        let excluded = excluded.as_ref().map_or(Ok(false), |names| names.contain(site))?;
        if !excluded && chosen.contain(site)? && blocks.as_ref().map_or(Ok(true), |blocks| blocks.contain(site))? {
            targets.push(i);
        }
    }
    Ok(targets)
}

/// Names of modules.
enum Names {
    /// Every linear but the head.
    Linear,
    /// Whole names, or their ends.
    List(Vec<String>),
    /// A pattern of whole paths.
    Pattern(Pattern),
}

impl Names {
    fn read(key: &'static str, value: &Value, sites: &Sites) -> Result<Self, AdapterError> {
        if let Value::String(text) = value {
            let pattern = Pattern::whole(key, text)?;
            if key == "target_modules" {
                pattern.must_match(sites)?;
            }
            return Ok(Self::Pattern(pattern));
        }
        let names = value
            .as_array()
            .and_then(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>());
        let names = names.ok_or_else(|| option(key, value, "a list of names, or a pattern, is needed"))?;
        if key == "target_modules" { Self::list(key, names, sites) } else { Ok(Self::List(names)) }
    }

    fn list(key: &'static str, names: Vec<String>, sites: &Sites) -> Result<Self, AdapterError> {
        refuse_many(key, names.len())?;
        for name in &names {
            if !sites.iter().any(|site| is_end(&site.module, name)) {
                let reason = "names no matrix of the base".into();
                return Err(AdapterError::Pattern { key, pattern: shown(name), reason });
            }
        }
        Ok(Self::List(names))
    }

    fn contain(&self, site: &Site) -> Result<bool, AdapterError> {
        match self {
            Self::Linear => Ok(site.kind.block().is_some()),
            Self::List(names) => Ok(names.iter().any(|name| is_end(&site.module, name))),
            Self::Pattern(pattern) => pattern.matches(&site.module),
        }
    }
}

/// Whether a path is `name`, or ends in it behind a dot.
fn is_end(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|front| front.is_empty() || front.ends_with('.'))
}

/// Numbers of blocks.
struct Blocks {
    numbers: Vec<u64>,
    lists: Vec<Pattern>,
}

impl Blocks {
    fn contain(&self, site: &Site) -> Result<bool, AdapterError> {
        let ParamKind::Block(number, _) = site.kind else { return Ok(false) };
        let mut listed = self.lists.is_empty();
        for list in &self.lists {
            listed |= list.matches(&site.module)?;
        }
        Ok(listed && self.numbers.contains(&(number as u64)))
    }
}

/// The members of a configuration.
struct Options<'a>(&'a Map<String, Value>);

impl Options<'_> {
    /// Refuses every option outside of `known` that does not mean "no".
    fn refuse(&self, known: &[&str]) -> Result<(), AdapterError> {
        let means_no = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(members) => members.is_empty(),
            _ => false,
        };
        let other = self.0.iter().find(|(key, value)| !known.contains(&key.as_str()) && !means_no(value));
        let Some((key, value)) = other else { return Ok(()) };
        let why = REFUSED.iter().find(|(refused, _)| refused == key).map(|(_, why)| *why);
        Err(option(&shown(key), value, why.unwrap_or("this option is not known here and may change what is computed")))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, AdapterError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| option(key, value, "a number is needed")),
        }
    }

    fn count(&self, key: &str) -> Result<Option<u64>, AdapterError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().filter(|n| *n > 0) {
                Some(n) => Ok(Some(n)),
                None => Err(option(key, value, "a whole number above 0 is needed")),
            },
        }
    }

    fn same(&self, key: &str, expected: u64) -> Result<(), AdapterError> {
        match self.count(key)? {
            Some(found) if found != expected => Err(option(key, &found.into(), &format!("{expected} is read"))),
            _ => Ok(()),
        }
    }

    fn flag(&self, key: &str) -> Result<bool, AdapterError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| option(key, value, "true or false is needed")),
        }
    }

    /// `layers_to_transform` with `layers_pattern`.
    fn blocks(&self) -> Result<Option<Blocks>, AdapterError> {
        let key = "layers_to_transform";
        let numbers = match self.0.get(key) {
            None | Some(Value::Null) => return Ok(None),
            Some(value @ Value::Number(_)) => value.as_u64().map(|number| vec![number]),
            Some(value) => value.as_array().and_then(|list| list.iter().map(Value::as_u64).collect()),
        };
        let numbers =
            numbers.ok_or_else(|| option(key, &self.0[key], "a block's number, or a list of them, is needed"))?;
        let key = "layers_pattern";
        let names: Vec<&str> = match self.0.get(key) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(name)) => vec![name],
            Some(value) => match value.as_array().and_then(|list| list.iter().map(Value::as_str).collect()) {
                Some(names) => names,
                None => return Err(option(key, value, "a name, or a list of names, is needed")),
            },
        };
        refuse_many(key, names.len())?;
        let lists: Vec<Pattern> = names.iter().map(|name| Pattern::list(key, name)).collect::<Result<_, _>>()?;
        for (list, name) in lists.iter().zip(&names) {
            if !list.matches(&format!("model.{BLOCKS}.0.mlp"))? {
                let reason = format!("matches no list of blocks; that of the base is called {BLOCKS:?}");
                return Err(AdapterError::Pattern { key, pattern: shown(name), reason });
            }
        }
        Ok(Some(Blocks { numbers, lists }))
    }
}

fn option(key: &str, found: &Value, allowed: &str) -> AdapterError {
    AdapterError::Option { key: key.into(), found: shown(&found.to_string()), allowed: allowed.into() }
}

impl LoraConfig {
    /// alpha of a matrix whose pair has this rank.
    ///
    /// # Errors
    /// If the configuration says another rank.
    pub fn alpha(&self, site: &Site, rank: u64) -> Result<f64, AdapterError> {
        let expected = self.ranks.of(site)?.map_or(self.rank, |rank| rank as u64);
        if rank != expected {
            return Err(AdapterError::Rank { site: site.module.clone(), found: rank, expected });
        }
        Ok(self.alphas.of(site)?.unwrap_or(self.alpha))
    }
}
