//! The kernels, as they were when this program was built.

/// A file of kernels; each is compiled by itself.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The file's name below `kernels/`.
    pub file: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! embedded {
    ($($file:literal,)*) => {
        &[$(Source { file: $file, text: include_str!(concat!("kernels/", $file)) },)*]
    };
}

/// What kernels include.
pub const HEADERS: &[Source] = embedded![
    "attention.h",
    "blocks.h",
    "gpu.h",
    "grid.h",
    "moments.h",
    "optimizer.h",
    "optimizer_move.h",
    "optimizer_pass.h",
    "rng.h",
    "rows.h",
    "tiles.h",
    "weights.h",
];

/// All files of kernels.
pub const SOURCES: &[Source] = embedded![
    "attention.cu",
    "attention_few.cu",
    "attention_grad.cu",
    "bias.cu",
    "dequantize.cu",
    "embedding.cu",
    "few_tokens.cu",
    "loss.cu",
    "norm.cu",
    "optimizer_means.cu",
    "optimizer_statistics.cu",
    "optimizer_update.cu",
    "pack_rows.cu",
    "quantize.cu",
    "rope.cu",
    "swiglu.cu",
];
