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
        &[$(Source { file: $file, text: include_str!(concat!("../kernels/", $file)) },)*]
    };
}

/// What kernels include.
pub const HEADERS: &[Source] = embedded![
    "adam.h",
    "adam_element.h",
    "adam_fused.h",
    "adam_pass.h",
    "attention.h",
    "attention_grad.h",
    "blocks.h",
    "bytes.h",
    "codecs.h",
    "fp4.h",
    "gpu.h",
    "grid.h",
    "members.h",
    "moments.h",
    "outliers.h",
    "rng.h",
    "rotation.h",
    "rows.h",
    "tiles.h",
];

/// All files of kernels.
pub const SOURCES: &[Source] = embedded![
    "activation_pack.cu",
    "activation_quant.cu",
    "activation_scaling.cu",
    "adam_statistics.cu",
    "adam_update.cu",
    "adam_update_wide.cu",
    "apply_update.cu",
    "attention.cu",
    "attention_decode.cu",
    "attention_grad.cu",
    "attention_grad_whole.cu",
    "attention_grad_wide.cu",
    "bias.cu",
    "embedding.cu",
    "factored.cu",
    "factors.cu",
    "gaussian.cu",
    "gelu.cu",
    "linear_fp8.cu",
    "linear_grad_int8.cu",
    "linear_int8.cu",
    "linear_small_batch.cu",
    "loss.cu",
    "magnitude.cu",
    "matmul.cu",
    "norm.cu",
    "normalize.cu",
    "padding.cu",
    "prefix.cu",
    "rope.cu",
    "scaling.cu",
    "state.cu",
    "sums.cu",
    "swiglu.cu",
    "weights.cu",
];
