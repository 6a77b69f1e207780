// What the passes of the optimizer step share; the arithmetic is that of src/optim, in the same order.
#pragma once
#include "gpu.h"

// src/optim/constants.rs, field by field.
struct Constants {
    u64 seed;
    u32 number;
    u32 mask_round;
    float density;
    u32 stable;
    u32 freezes;
    u32 reset_before;
    u32 reset_after;
    float gammas[3];
    float rests[3];
    float gamma_corrections[3];
    float l2;
    float spike;
    float beta1;
    float rest1;
    float beta2;
    float rest2;
    float step;
    float root;
    float eps;
    float keep;
    float decay;
    float feedback;
};

// What all updates of a step did; kept in device memory until the host asks (src/optim/mod.rs, `Outcomes`).
struct Outcomes {
    double grad_sq;
    u64 rescales;
    u64 skipped;
    // The largest magnitude of the gradient at hand, as bits; zero between updates.
    u32 gmax;
    u32 reserved;
};

// What the gradient's statistics decide for one tensor.
enum Mode : u32 { SKIPPED = 0, MOVED = 1, FROZEN = 2 };
struct Verdict {
    float at;
    float gmax;
    float norm;
    u32 mode;
};

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

DEVICE float average(const Constants& c, u32 gamma, float old, float now) {
    return c.gammas[gamma] * old + c.rests[gamma] * now;
}

// AdaClip's threshold; `threshold` is T, which it updates.
DEVICE float clip_at(const Constants& c, float& threshold, float gmax) {
    if (c.stable == 0) return from_bits(0x7f800000u);
    threshold = average(c, 2, threshold, gmax);
    return threshold / c.gamma_corrections[2];
}

// An element after AdaClip. Not a clamp: only the largest element lands on the threshold.
DEVICE float clipped(float g, float at, float gmax) { return fabs_(g) > at ? g / gmax * at : g; }

// An element as it enters the moments, where nothing but AdaClip and AdaGN change it.
DEVICE float normalized(const Verdict& v, float g) { return clipped(g, v.at, v.gmax) * v.norm; }
