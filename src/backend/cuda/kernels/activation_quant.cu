// Four-bit activations with two outliers kept per group of 256 (arXiv 2502.17055): one warp per group. Every
// operation of the published codes rounds to bfloat16. Floor: 4 bytes of device memory per element.
#include "outliers.h"
#include "rows.h"

static constexpr u32 GROUP = 256, WARPS = 8;

// ActivationCode of src/backend/ops/activation_quant.rs.
enum ActivationCode : u32 { INT4 = 0, FP4 = 1, INT4_ROWS = 2 };

DEVICE float r(float x) { return rounded(x, 1); }

// What becomes of x in a group whose other elements are `most` at most; halves go to the even neighbour.
DEVICE float quantized(float x, float most, u32 code) {
    if (code == INT4_ROWS) {
        const float scale = most / 7.0f;
        // A scale of zero means that nothing but the two is there to be rounded.
        return scale != 0.0f ? r(scale * round_even(x / scale)) : x;
    }
    const float magnitude = fmax_(most, r(1e-6f));
    if (code == FP4) {
        const float step = r(magnitude / 4.0f);
        return r(step * round_even(r(x / step)));
    }
    const float steps = round_even(r(x * r(r(1.0f / magnitude) * 7.0f)));
    // Not a number stays, which the larger and the smaller would drop. An integer has no negative zero.
    const float number = x != x ? x : fmin_(fmax_(steps, -8.0f), 7.0f) + 0.0f;
    return r(r(number * magnitude) / 7.0f);
}

// Groups run on through runs of `rows` rows; there are `runs` of them.
KERNEL(256, quantize_activations, bf16* x, u32 features, u32 rows, u32 runs, u32 code) {
    const u64 run_size = (u64)rows * features, groups = ceil_div<u64>(run_size, GROUP);
    const u64 number = (u64)block_x() * WARPS + warp(), run = number / groups;
    if (run >= runs) return;
    const u64 from = number % groups * GROUP;
    const u32 size = (u32)min_<u64>(GROUP, run_size - from);
    float value[8];
    u64 at[8];
    UNROLL
    for (u32 j = 0; j < 8; ++j) {
        const u64 i = from + j * 32 + lane();
        at[j] = (run * rows + i / features) * pitch(features) + i % features;
        value[j] = j * 32 + lane() < size ? to_float(x[at[j]]) : 0.0f;
    }
    const Outliers kept = outliers(value, size);
    UNROLL
    for (u32 j = 0; j < 8; ++j) {
        const u32 i = j * 32 + lane();
        if (i < size && !is_outlier(kept, value[j], i)) x[at[j]] = to_bf16(quantized(value[j], kept.most, code));
    }
}
