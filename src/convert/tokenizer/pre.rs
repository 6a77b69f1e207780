//! Pre-tokenizers: GGUF names them, `tokenizer.json` lists their steps.

use crate::data::tokenize::words::{LLAMA_3, QWEN_2, Step, steps};
use serde_json::{Value, json};

/// A pre-tokenizer.
pub struct PreTokenizer {
    /// Its names in GGUF; the first is written.
    pub names: &'static [&'static str],
    /// Its steps, in order.
    steps: &'static [Step<'static>],
    /// Whether text is composed (NFC) first.
    pub nfc: bool,
    /// Whether a piece that is a token is kept as that token, without applying merges.
    pub ignore_merges: bool,
}

/// The pre-tokenizers that both formats know. Names are those for which llama.cpp (its `llama-vocab.cpp` of 2026) has the
/// same expressions and the same treatment of merges; the first with the steps of a `tokenizer.json` is written.
const KNOWN: [PreTokenizer; 6] = [
    PreTokenizer {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        steps: &[Step::Words],
        nfc: false,
        ignore_merges: false,
    },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "codeshell", "command-r", "exaone", "minerva-7b"],
        steps: &[Step::Digits, Step::Words],
        nfc: false,
        ignore_merges: false,
    },
    PreTokenizer {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        steps: &[Step::Split(LLAMA_3), Step::Bytes],
        nfc: false,
        ignore_merges: true,
    },
    PreTokenizer {
        names: &["smaug-bpe", "dbrx"],
        steps: &[Step::Split(LLAMA_3), Step::Bytes],
        nfc: false,
        ignore_merges: false,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        steps: &[Step::Split(QWEN_2), Step::Bytes],
        nfc: true,
        ignore_merges: false,
    },
    PreTokenizer {
        names: &["stablelm2", "hunyuan", "kormo"],
        steps: &[Step::Split(QWEN_2), Step::Bytes],
        nfc: false,
        ignore_merges: false,
    },
];

/// The pre-tokenizer of a GGUF name.
pub fn by_name(name: &str) -> Option<&'static PreTokenizer> {
    KNOWN.iter().find(|pre| pre.names.contains(&name))
}

/// The pre-tokenizer that a `tokenizer.json` describes.
pub fn by_json(pre_tokenizer: &Value) -> Option<&'static PreTokenizer> {
    let found = steps(pre_tokenizer)?;
    KNOWN.iter().find(|pre| pre.steps == found)
}

/// The GGUF names of all known pre-tokenizers.
pub fn names() -> String {
    KNOWN.iter().map(|pre| pre.names[0]).collect::<Vec<_>>().join(", ")
}

impl PreTokenizer {
    /// The steps as `tokenizer.json` has them.
    pub fn json(&self) -> Value {
        let mut steps: Vec<Value> = self.steps.iter().map(|step| step_json(*step)).collect();
        match steps.len() {
            1 => steps.remove(0),
            _ => json!({ "type": "Sequence", "pretokenizers": steps }),
        }
    }
}

fn step_json(step: Step<'_>) -> Value {
    let byte_level = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    match step {
        Step::Split(regex) => {
            json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false })
        }
        Step::Digits => json!({ "type": "Digits", "individual_digits": true }),
        Step::Words => byte_level(true),
        Step::Bytes => byte_level(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_cutting_is_recognized_in_its_own_json() {
        for pre in &KNOWN {
            // Of two that differ only in what is done with the pieces, the first is found.
            assert_eq!(by_json(&pre.json()).unwrap().steps, pre.steps);
            assert!(pre.names.iter().all(|name| by_name(name).unwrap().names == pre.names));
        }
        assert!(by_json(&json!({ "type": "Whitespace" })).is_none());
        assert!(by_json(&json!({ "type": "ByteLevel", "add_prefix_space": true })).is_none());
    }
}
