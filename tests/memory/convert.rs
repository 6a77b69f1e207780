//! Import and export stream: beyond the mapped files they hold one tensor and some buffers, not the model.

use crate::alone;
use crate::counting::peak;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use tetrad::checkpoint::Checkpoint;
use tetrad::convert::quants::Kind;
use tetrad::convert::{
    Beside, FloatType, GgufTypes, Options, export_gguf, export_hugging_face, import, open, safetensors,
};

/// The promise is 64 MiB beside the largest tensor; a quarter of it must do here, where the whole model is small.
const BUFFERS: u64 = 16 << 20;

/// A model of so many layers of zeros, 17 million each, in a file with holes. Gives its bytes.
fn model(dir: &Path, layers: usize) -> u64 {
    let (hidden, inner, vocab) = (1024, 4096, 256);
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": 16, "vocab_size": vocab, "max_position_embeddings": 64, "tie_word_embeddings": true,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![vocab, hidden], Kind::F32)];
    for l in 0..layers {
        let mut add = |part: &str, dims: &[u64]| {
            tensors.push((format!("model.layers.{l}.{part}.weight"), dims.to_vec(), Kind::F32));
        };
        for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(&format!("self_attn.{part}"), &[hidden, hidden]);
        }
        add("mlp.gate_proj", &[inner, hidden]);
        add("mlp.up_proj", &[inner, hidden]);
        add("mlp.down_proj", &[hidden, inner]);
        add("input_layernorm", &[hidden]);
        add("post_attention_layernorm", &[hidden]);
    }
    tensors.push(("model.norm.weight".into(), vec![hidden], Kind::F32));
    let data: u64 = tensors.iter().map(|t| 4 * t.1.iter().product::<u64>()).sum();
    let header = safetensors::header(&tensors);
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).open(dir.join("model.safetensors")).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(header.len() as u64 + data).unwrap();
    data
}

#[test]
fn one_tensor_is_held_at_a_time() {
    alone("convert::one_tensor_is_held_at_a_time", import_and_export);
}

/// What a model of so many layers takes in files, and what its import and its two exports hold at most.
fn peaks(layers: usize) -> (u64, [u64; 3]) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let bytes = model(dir.path(), layers);
    let imported = peak(|| {
        let source = open(dir.path(), Beside::default()).unwrap();
        import(&source, &Options::default(), &at("model.tetrad"), &mut |_, _| {}).unwrap();
    });
    let gguf = peak(|| {
        let checkpoint = Checkpoint::open(&at("model.tetrad")).unwrap();
        export_gguf(&checkpoint, GgufTypes::default(), &at("model.gguf"), &mut |_, _| {}).unwrap();
    });
    let hugging_face = peak(|| {
        let checkpoint = Checkpoint::open(&at("model.tetrad")).unwrap();
        export_hugging_face(&checkpoint, FloatType::Bf16, u64::MAX, &at("out"), &mut |_, _| {}).unwrap();
    });
    (bytes, [imported, gguf, hugging_face])
}

fn import_and_export() {
    // Codes and residue of the largest matrix, and its scales: a byte and a thirty-second per weight.
    let largest = 4096 * 1024 * 33 / 32;
    let bound = largest + BUFFERS;
    let (bytes, two) = peaks(2);
    assert!(bytes / 4 > bound, "even the packed model must not fit into the bound");
    let [imported, exported @ ..] = two;
    assert!((largest..=bound).contains(&imported), "import holds {imported} bytes, {bound} are promised");
    for most in exported {
        assert!(most <= BUFFERS, "export holds {most} bytes, {BUFFERS} are promised");
    }
    // Whatever the buffers are: a second layer adds its names and nothing of its tensors.
    let (_, one) = peaks(1);
    for (two, one) in two.into_iter().zip(one) {
        assert!(two <= one + largest / 8, "{two} bytes for two layers, {one} for one");
    }
}
