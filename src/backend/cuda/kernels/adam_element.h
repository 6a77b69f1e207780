// The formula of one element (src/backend/adam/element.rs), for blocks of elements in registers.
#pragma once
#include "grid.h"
#include "adam.h"

// One block on its way: `x` is the weight, then what is added to it; `v` is the second moment, then its root if ROOTED
// (as compact second moments are stored).
struct Elements {
    float x[BLOCK];
    float m[BLOCK];
    float v[BLOCK];
};

DEVICE float denominator(const AdamArgs& c, float root) { return root * c.inv_sqrt_bias_correction2 + c.eps; }

// a / b and the root of v, correctly rounded: what the compiler makes of a division and a root, without the test of
// every operand for the ranges where these five and four operations would not do. Magnitudes from 2^-100 on (a, v) and
// a quotient from 2^-122 on are inside, up to 2^60.
DEVICE float quotient(float a, float b) {
    const float near = rcp_fast(b);
    const float inverse = fma_(near, fma_(-b, near, 1.0f), near);
    const float q = a * inverse;
    return fma_(inverse, fma_(-b, q, a), q);
}
DEVICE float root_of(float v) {
    const float inverse = rsqrt_fast(v);
    const float root = v * inverse;
    return fma_(fma_(-root, root, v), inverse * 0.5f, root);
}

// The plain rule (constants that `plain` in src/backend/cuda/ops/adam.rs passes): no spikes, no decay but of the
// weight itself, and none of that unless DECAYS. `g` is after AdaClip. It may give a number that is zero the other
// sign, which no packed weight and no compact moment can tell, and floats are added to +0 first.
template <bool DECAYS>
DEVICE void move_plain(const AdamArgs& c, float norm, float g, float& x, float& m, float& v) {
    g = g * norm;
    m = c.beta1 * m + c.one_minus_beta1 * g;
    v = root_of(c.beta2 * v + c.one_minus_beta2 * (g * g));
    const float delta = -quotient(c.step_size * m, denominator(c, v));
    x = DECAYS ? delta - c.decay * x : delta;
}

// Any rule.
DEVICE void move_any(const AdamArgs& c, float norm, bool rooted, float g, float& x, float& m, float& v) {
    g = g * norm + c.l2 * x;
    const float limit = c.spike_threshold * v;
    if (g * g > limit) g = copysign_(sqrt_rn(limit), g);
    m = c.beta1 * m + c.one_minus_beta1 * g;
    v = c.beta2 * v + c.one_minus_beta2 * (g * g);
    const float root = sqrt_rn(v);
    x = c.post_decay * -(c.step_size * m / denominator(c, root)) - c.decay * x;
    if (rooted) v = root;
}

// A rule without spikes, and without decay but of the weight itself, where `v` is this step's second moment, then its
// root.
DEVICE void move_shared(const AdamArgs& c, float norm, float g, float& x, float& m, float& v) {
    m = c.beta1 * m + c.one_minus_beta1 * (g * norm);
    v = sqrt_rn(v);
    x = -(c.step_size * m / denominator(c, v)) - c.decay * x;
}

static constexpr float LEAST_GRADIENT = 0x1p-30f;
static constexpr float MOST_GRADIENT = 0x1p6f;
static constexpr float LEAST_SCALE = 0x1p-40f;
static constexpr float MOST_SCALE = 0x1p4f;

// Whether a scale of moments keeps `move_plain` inside the range of `quotient` and `root_of`, given the constants'
// bounds (see `plain` in src/backend/cuda/ops/adam.rs) and gradients from LEAST_GRADIENT on: a sum that is not zero is
// at least 2^-24 of its smaller part, so |m| >= 2^-24 min(2^-6 2^-40, 2^-6 2^-30) = 2^-70 and step |m| >= 2^-100;
// v >= min(2^-1 2^-80, 2^-20 2^-60) = 2^-81; the denominator is at most 2^10 (2^12 + 2^6) + 1 < 2^23.
DEVICE bool is_tame(float scale) { return scale == 0.0f || (scale >= LEAST_SCALE && scale <= MOST_SCALE); }

// Smallest and largest of the moved weights; NaN marks padding, which they pass over. Where groups are SYMMETRIC only
// the magnitude counts.
template <bool SYMMETRIC, typename Move> DEVICE Range move_block(Tile<float> grad, Elements& e, Move move) {
    Range range = SYMMETRIC ? Range{0.0f, 0.0f} : empty_range();
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        const Bits16 g = row_piece(grad, i);
        UNROLL
        for (u32 j = 0; j < 4; ++j) {
            const u32 k = 4 * i + j;
            float w = e.x[k];
            move(from_bits(g.x[j]), e.x[k], e.m[k], e.v[k]);
            w = w + e.x[k];
            range.high = fmax_(range.high, SYMMETRIC ? fabs_(w) : w);
            if (!SYMMETRIC) range.low = fmin_(range.low, w);
        }
    }
    return range;
}

// The smallest magnitude of this lane's row.
DEVICE float least_of_row(Tile<float> grad) {
    float least = 0x1p127f;
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        const Bits16 g = row_piece(grad, i);
        UNROLL
        for (u32 j = 0; j < 4; ++j) least = fmin_(least, fabs_(from_bits(g.x[j])));
    }
    return least;
}

// Clips what AdaClip clips in this lane's row. Most leaves hold nothing larger than the threshold, which `most`, the
// largest magnitude of the row's leaves, tells.
DEVICE void clip_row(const GradStats& verdict, u32 most, Tile<float> grad) {
    if (!(from_bits(most) > verdict.at)) return;
    NO_UNROLL
    for (u32 i = 0; i < 8; ++i) {
        Bits16 g = row_piece(grad, i);
        for (u32 j = 0; j < 4; ++j) g.x[j] = bits(clipped(from_bits(g.x[j]), verdict.at, verdict.gmax));
        set_row_piece(grad, i, g);
    }
}
