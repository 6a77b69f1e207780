// What the passes of the fused update share; the arithmetic is that of src/backend/adam, in the same order.
#pragma once
#include "gpu.h"

// src/backend/adam/args.rs, field by field.
struct AdamArgs {
    u64 seed;
    u32 number;
    u32 mask_round;
    float density;
    u32 use_stable_spam;
    u32 freeze_on_zero_grad;
    u32 reset_before;
    u32 reset_after;
    float gammas[3];
    float one_minus_gammas[3];
    float gamma_corrections[3];
    float l2;
    float spike_threshold;
    float beta1;
    float one_minus_beta1;
    float beta2;
    float one_minus_beta2;
    float step_size;
    float inv_sqrt_bias_correction2;
    float eps;
    float post_decay;
    float decay;
    float feedback;
};
SIZE_ON_HOST(AdamArgs, 120);

// src/backend/update.rs, field by field.
struct UpdateArgs {
    u64 seed;
    u32 number;
    float lr;
    float decay;
    u32 reserved;
};

struct MomentumArgs {
    u64 seed;
    u32 number;
    float keep;
    float add;
    float of_x;
    float of_old;
    float of_new;
    u32 sign;
    u32 usage;
};

struct DirectionArgs {
    u64 seed;
    u32 number;
    float beta1;
    float one_minus_beta1;
    float beta2;
    float one_minus_beta2;
    float factor;
    float root;
    float eps;
};
SIZE_ON_HOST(UpdateArgs, 24);
SIZE_ON_HOST(MomentumArgs, 40);
SIZE_ON_HOST(DirectionArgs, 40);

// What all updates of a step did; kept in device memory until the host asks (src/backend/update.rs, `UpdateStats`).
struct UpdateStats {
    double grad_sq;
    u64 rescales;
    u64 skipped;
    // Not zero: nothing is updated until the host has asked, and nothing of it is counted.
    u32 held;
    u32 reserved;
};
SIZE_ON_HOST(UpdateStats, 32);

// What the gradient's statistics decide for one tensor.
enum UpdateMode : u32 { SKIPPED = 0, MOVED = 1, FROZEN = 2 };
struct GradStats {
    float at;
    float gmax;
    float norm;
    u32 mode;
};
SIZE_ON_HOST(GradStats, 16);

// Tensors of a launch at most (`MOST` in src/backend/cuda/ops/adam.rs).
static constexpr u32 MOST_MEMBERS = 16;

// Elements of one leaf of the reductions, and its partial sums (src/backend/cpu/ops/adam.rs).
static constexpr u32 LEAF = 16384;
static constexpr u32 LANES = 256;

// Lanes summed pairwise, lane i with lane i + half; the sum is lane 0's of warp 0. `lanes` holds LANES floats.
DEVICE float fold(float* lanes, float x) {
    lanes[thread()] = x;
    sync_threads();
    float sum = 0.0f;
    if (warp() == 0) {
        const u32 l = lane();
        const float a = lanes[l] + lanes[l + 128], b = lanes[l + 32] + lanes[l + 160];
        const float c = lanes[l + 64] + lanes[l + 192], d = lanes[l + 96] + lanes[l + 224];
        sum = (a + c) + (b + d);
        UNROLL
        for (u32 by = 16; by > 0; by /= 2) sum += shuffle_down(sum, by);
    }
    sync_threads();
    return sum;
}

DEVICE bool is_finite(float x) { return (bits(x) & 0x7f800000u) != 0x7f800000u; }

DEVICE float average(const AdamArgs& c, u32 gamma, float old, float now) {
    return c.gammas[gamma] * old + c.one_minus_gammas[gamma] * now;
}

// AdaClip's threshold; `threshold` is T, which it updates.
DEVICE float clip_at(const AdamArgs& c, float& threshold, float gmax) {
    if (c.use_stable_spam == 0) return from_bits(0x7f800000u);
    threshold = average(c, 2, threshold, gmax);
    return threshold / c.gamma_corrections[2];
}

// An element after AdaClip. Not a clamp: only the largest element lands on the threshold.
DEVICE float clipped(float g, float at, float gmax) { return fabs_(g) > at ? g / gmax * at : g; }

// An element as it enters the moments, where nothing but AdaClip and AdaGN change it.
DEVICE float normalized(const GradStats& v, float g) { return clipped(g, v.at, v.gmax) * v.norm; }
