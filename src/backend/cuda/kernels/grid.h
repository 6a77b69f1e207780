// The grid of a group's weights (src/quant/grid.rs): the same arithmetic in the same order. Maxima and
// minima are exact in any order.
#pragma once
#include "blocks.h"

struct QuantGrid {
    // Steps of the stored integer per scale, and its inverse, both powers of two.
    float steps_per_scale;
    float unit;
    // The stored integer of the value 0, or of the offset.
    float base;
    // What the bytes of a plane hold beyond the stored integer: 128 if it is signed.
    float excess;
    float min;
    float max;
    // Scales that the largest magnitude has after a rescale.
    float target;
    float grow;
    float shrink;
};

static constexpr float SCALE_MIN = 6.1035156e-5f;

// Scale and offset of a group; the offset of symmetric groups is zero.
struct GroupScale {
    float scale;
    float offset;
};

// Smallest and largest value of a group.
struct Range {
    float low;
    float high;
};

DEVICE Range empty_range() { return {from_bits(0x7f800000u), from_bits(0xff800000u)}; }
DEVICE float magnitude(Range r) { return fmax_(r.high, -r.low); }

DEVICE u16 to_scale(float scale) {
    const float limited = scale < SCALE_MIN ? SCALE_MIN : scale;
    return float_to_f16(limited > 65504.0f ? 65504.0f : limited);
}

// Whether values have left the range, or all lie in its inner half.
DEVICE bool needs_rescale(const QuantGrid& grid, Range r, GroupScale p, bool asymmetric) {
    if (!asymmetric) {
        const float most = magnitude(r);
        return most > grid.grow * p.scale || (most < grid.shrink * p.scale && p.scale > SCALE_MIN);
    }
    return r.high > p.offset + (8.0f + grid.grow) * p.scale || r.low < p.offset - 0.5f * p.scale ||
           (r.high - r.low < 2.0f * grid.shrink * p.scale && p.scale > SCALE_MIN);
}

// Scale and offset for values of this range, as f16 bits.
struct GroupScaleBits {
    u16 scale;
    u16 offset;
};
DEVICE GroupScaleBits rescale(const QuantGrid& grid, Range r, bool asymmetric) {
    if (!asymmetric) return {to_scale(magnitude(r) / grid.target), 0};
    const u16 scale = to_scale((r.high - r.low) / (2.0f * grid.target));
    // The middle of the codes 0..15 meets the middle of the values.
    return {scale, float_to_f16((r.low + r.high) * 0.5f - 7.5f * f16_to_float(scale))};
}
DEVICE GroupScale group_scale(GroupScaleBits b, bool asymmetric) {
    return {f16_to_float(b.scale), asymmetric ? f16_to_float(b.offset) : 0.0f};
}

// Values of bytes: `step (b - base) + offset`. The product and the number subtracted have at most 24 bits (13 of
// BIAS + base, 11 of a scale), so one fused operation gives the exact difference, which is what the CPU's product is.
struct Values {
    float step;
    float shift;
    float offset;
};
DEVICE Values values(const QuantGrid& grid, GroupScale p) {
    const float step = p.scale * grid.unit;
    return {step, -((BIAS + grid.excess + grid.base) * step), p.offset};
}
DEVICE float value(const Values& v, float biased) { return fma_(biased, v.step, v.shift); }
