//! Conversion between `config.json` and our configuration.

use crate::error::ConvertError;
use crate::model::{ModelConfig, RopeScaling};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The families, by `model_type`.
const FAMILIES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// Reads a `config.json`.
///
/// # Errors
/// An invalid file, another kind of model, or an unsupported feature, by name.
pub fn parse(path: &Path, json: &[u8]) -> Result<ModelConfig, ConvertError> {
    let source = |what: String| ConvertError::Source { path: path.into(), what };
    let map: Map<String, Value> =
        serde_json::from_slice(json).map_err(|e| source(format!("is no configuration of a model: {e}")))?;
    let reader = Reader { path, map: &map };
    let family = map.get("model_type").and_then(Value::as_str).unwrap_or("(none)");
    if !FAMILIES.contains(&family) {
        return Err(reader.unsupported(format!("model_type is {family:?}")));
    }
    reader.refuse_what_is_not_computed(family)?;
    let heads = reader.size("num_attention_heads")?.unwrap_or(0);
    let hidden = reader.need("hidden_size")?;
    let implied = hidden.checked_div(heads).unwrap_or(0);
    // Qwen3's own default; every published file states it.
    let default_size = if family == "qwen3" { 128 } else { implied };
    let head_dim = reader.size("head_dim")?.unwrap_or(default_size);
    // All else that a file may leave out has one value in all four families: rms_norm_eps 1e-6, rope_theta 10000, no tied
    // embeddings, no biases, silu.
    let kv_heads = match family {
        "llama" => None,
        "mistral" => Some(8),
        _ => Some(32),
    };
    let mut model = ModelConfig {
        hidden,
        intermediate: reader.need("intermediate_size")?,
        layers: reader.need("num_hidden_layers")?,
        heads: reader.need("num_attention_heads")?,
        kv_heads: reader.size_unless("num_key_value_heads", kv_heads)?.unwrap_or(heads),
        vocab: reader.need("vocab_size")?,
        context: reader.need("max_position_embeddings")?,
        head_dim: (head_dim != implied || hidden.checked_rem(heads) != Some(0)).then_some(head_dim),
        qkv_bias: family == "qwen2" || reader.switch("attention_bias")? == Some(true),
        qk_norm: family == "qwen3",
        norm_eps: reader.number("rms_norm_eps")?.unwrap_or(1e-6),
        tied: reader.switch("tie_word_embeddings")?.unwrap_or(false),
        ..ModelConfig::default()
    };
    reader.rope(&mut model)?;
    Ok(model)
}

struct Reader<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl<'a> Reader<'a> {
    fn unsupported(&self, what: String) -> ConvertError {
        ConvertError::Unsupported { path: self.path.into(), what }
    }

    /// A key that is present and not null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn read<T>(&self, key: &str, kind: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, ConvertError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let shown: String = value.to_string().chars().take(80).collect();
        let what = format!("{key} is {shown}; {kind} is needed");
        read(value).map(Some).ok_or_else(|| ConvertError::Source { path: self.path.into(), what })
    }

    fn size(&self, key: &str) -> Result<Option<usize>, ConvertError> {
        self.read(key, "a whole number", |value| value.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    /// The same, with the value that transformers gives a key that is absent, which is another than that of null: those of
    /// its `configuration_mistral.py`, `configuration_qwen2.py` and `configuration_qwen3.py`.
    fn size_unless(&self, key: &str, absent: Option<usize>) -> Result<Option<usize>, ConvertError> {
        if self.map.contains_key(key) { self.size(key) } else { Ok(absent) }
    }

    fn need(&self, key: &str) -> Result<usize, ConvertError> {
        let what = format!("{key} is missing");
        self.size(key)?.ok_or_else(|| ConvertError::Source { path: self.path.into(), what })
    }

    fn number(&self, key: &str) -> Result<Option<f64>, ConvertError> {
        self.read(key, "a number", Value::as_f64)
    }

    fn switch(&self, key: &str) -> Result<Option<bool>, ConvertError> {
        self.read(key, "true or false", Value::as_bool)
    }

    fn refuse_what_is_not_computed(&self, family: &str) -> Result<(), ConvertError> {
        let text = |key: &str| self.get(key).and_then(Value::as_str);
        if let Some(other) = text("hidden_act").filter(|act| *act != "silu") {
            return Err(self.unsupported(format!("hidden_act is {other:?}")));
        }
        if let Some(quantization) = self.get("quantization_config") {
            let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
            return Err(self.unsupported(format!("its weights are quantized ({method:?})")));
        }
        // LLaMA's attention_bias adds one to the output projection too; Qwen2 has none there.
        let biased = self.switch("attention_bias")? == Some(true) && family != "qwen2";
        if biased || self.switch("mlp_bias")? == Some(true) {
            return Err(self.unsupported("it has biases on its output or feed-forward projections".into()));
        }
        if self.number("partial_rotary_factor")?.is_some_and(|share| share != 1.0) {
            return Err(self.unsupported("it rotates a part of each head (partial_rotary_factor)".into()));
        }
        self.windows(family)
    }

    /// A sliding window at least as long as the context has no effect.
    fn windows(&self, family: &str) -> Result<(), ConvertError> {
        let context = self.size("max_position_embeddings")?.unwrap_or(0);
        let used = family == "mistral" || self.switch("use_sliding_window")? == Some(true);
        let absent = (family != "llama").then_some(4096);
        match self.size_unless("sliding_window", absent)? {
            Some(window) if used && window < context => {
                let whence = match self.map.contains_key("sliding_window") {
                    true => "",
                    false => {
                        " (transformers' value where the key sliding_window is absent; null says that there is none)"
                    }
                };
                let what = format!(
                    "its attention sees a sliding window of {window} tokens{whence}, and its context has {context}"
                );
                return Err(self.unsupported(what));
            }
            _ => {}
        }
        let types = self.get("layer_types").and_then(Value::as_array);
        match types.into_iter().flatten().find(|kind| kind.as_str() != Some("full_attention")) {
            Some(kind) => Err(self.unsupported(format!("it has layers of type {kind}"))),
            None => Ok(()),
        }
    }

    /// Base and scaling, from `rope_theta` and `rope_scaling` or from the newer `rope_parameters`.
    fn rope(&self, model: &mut ModelConfig) -> Result<(), ConvertError> {
        let empty = Map::new();
        let table = |key: &str| match self.get(key) {
            None => Ok(&empty),
            Some(Value::Object(table)) => Ok(table),
            Some(_) => Err(self.unsupported(format!("{key} is no object"))),
        };
        let (newer, older) = (table("rope_parameters")?, table("rope_scaling")?);
        // transformers 5 nests them by the type of layers; only full attention is computed.
        let newer = match newer.get("full_attention") {
            Some(Value::Object(full)) => full,
            _ if newer.values().any(Value::is_object) => {
                return Err(
                    self.unsupported("rope_parameters are for layers of other types than full_attention".into())
                );
            }
            _ => newer,
        };
        let inner = Reader { path: self.path, map: if newer.is_empty() { older } else { newer } };
        let theta = match inner.number("rope_theta")? {
            Some(theta) => Some(theta),
            None => self.number("rope_theta")?,
        };
        model.rope_theta = theta.unwrap_or(10_000.0);
        let word = |key: &str| inner.get(key).and_then(Value::as_str);
        let kind = word("rope_type").or(word("type"));
        // transformers has a default for none of them; a guess would be another model.
        let missing = |key: &str| {
            let what = format!("its rope scaling of type {:?} has no {key}", kind.unwrap_or("(none)"));
            ConvertError::Source { path: self.path.into(), what }
        };
        let number = |key: &str| inner.number(key)?.ok_or_else(|| missing(key));
        match kind.unwrap_or("default") {
            "default" if kind.is_none() && inner.get("factor").is_some() => Err(missing("rope_type")),
            "default" => Ok(()),
            "linear" => {
                model.rope_scaling = RopeScaling::Linear;
                model.rope_factor = number("factor")?;
                Ok(())
            }
            "llama3" => {
                model.rope_scaling = RopeScaling::Llama3;
                model.rope_factor = number("factor")?;
                model.rope_low = number("low_freq_factor")?;
                model.rope_high = number("high_freq_factor")?;
                let key = "original_max_position_embeddings";
                // Some files have it beside the table.
                let original = inner.size(key)?.or(self.size(key)?);
                model.rope_original_context = original.ok_or_else(|| missing(key))?;
                Ok(())
            }
            other => Err(self.unsupported(format!("its rope scaling is {other:?}"))),
        }
    }
}

/// The `config.json` of a model; `dtype` is the name of the tensors' type in torch.
pub fn write(model: &ModelConfig, dtype: &str, bos: Option<u32>, eos: Option<u32>) -> Vec<u8> {
    let (family, class) = match (model.qkv_bias, model.qk_norm) {
        (false, false) => ("llama", "LlamaForCausalLM"),
        (true, _) => ("qwen2", "Qwen2ForCausalLM"),
        (false, true) => ("qwen3", "Qwen3ForCausalLM"),
    };
    let scaling = match model.rope_scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear => json!({ "rope_type": "linear", "factor": model.rope_factor }),
        RopeScaling::Llama3 => json!({
            "rope_type": "llama3",
            "factor": model.rope_factor,
            "low_freq_factor": model.rope_low,
            "high_freq_factor": model.rope_high,
            "original_max_position_embeddings": model.rope_original_context,
        }),
    };
    let mut config = json!({
        "architectures": [class],
        "model_type": family,
        "hidden_size": model.hidden,
        "intermediate_size": model.intermediate,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim(),
        "vocab_size": model.vocab,
        "max_position_embeddings": model.context,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,
        "rope_scaling": scaling,
        "tie_word_embeddings": model.tied,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": model.init_std,
        "use_cache": true,
        "torch_dtype": dtype,
    });
    // If they are absent, transformers assumes LLaMA's 1 and 2.
    (config["bos_token_id"], config["eos_token_id"]) = (bos.into(), eos.into());
    if family == "llama" {
        (config["attention_bias"], config["mlp_bias"]) = (false.into(), false.into());
    } else {
        config["use_sliding_window"] = false.into();
    }
    serde_json::to_vec_pretty(&config).expect("a JSON value is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file says only of its size is what transformers takes it for.
    #[test]
    fn heads_that_a_file_does_not_say_are_those_of_transformers() {
        let read = |family: &str, kv_heads: Option<Value>| {
            let mut json = json!({
                "model_type": family, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 2,
                "num_attention_heads": 64, "vocab_size": 256, "max_position_embeddings": 2048,
            });
            if let Some(kv_heads) = kv_heads {
                json["num_key_value_heads"] = kv_heads;
            }
            parse(Path::new("config.json"), json.to_string().as_bytes()).unwrap()
        };
        let heads = [("llama", 64), ("mistral", 8), ("qwen2", 32), ("qwen3", 32)];
        for (family, absent) in heads {
            let model = read(family, None);
            assert_eq!(model.kv_heads, absent, "{family}");
            assert_eq!(read(family, Some(Value::Null)).kv_heads, 64, "{family}");
            assert_eq!(read(family, Some(4.into())).kv_heads, 4, "{family}");
            assert_eq!((model.norm_eps, model.rope_theta, model.tied), (1e-6, 10_000.0, false), "{family}");
            assert_eq!(
                (model.head_dim(), model.qkv_bias),
                (if family == "qwen3" { 128 } else { 64 }, family == "qwen2")
            );
        }
    }
}
