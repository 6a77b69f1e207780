// The lattice that a group's weights live on (src/nibble/lattice.rs), and the codecs of moments (src/nibble/moment.rs):
// the same arithmetic in the same order. Maxima and minima are exact in any order.
#pragma once
#include "runs.h"

// src/nibble/lattice.rs, `Lattice`, field by field.
struct Lattice {
    float fine;
    float zero;
    float origin;
    float min;
    float max;
    float fit;
    float grow;
    float shrink;
};

static constexpr float SCALE_MIN = 6.1035156e-5f;

// Scale and offset of a group; `asymmetric` decides whether the offset counts.
struct Placement {
    float scale;
    float offset;
};

// Smallest and largest value of a group. A symmetric group needs only the larger magnitude.
struct Range {
    float low;
    float high;
};

DEVICE float magnitude(Range r) { return fmax_(r.high, -r.low); }

DEVICE u16 to_scale(float scale) {
    const float limited = scale < SCALE_MIN ? SCALE_MIN : scale;
    return float_to_f16(limited > 65504.0f ? 65504.0f : limited);
}

// A stored number's value; `b` is already a float.
DEVICE float lattice_value(const Lattice& l, float b, Placement p, bool asymmetric) {
    if (asymmetric) return p.scale * (b - l.origin) / l.fine + p.offset;
    return p.scale * (b - l.zero) / l.fine;
}

// Whether values have left the range, or all lie in its inner half.
DEVICE bool needs_fit(const Lattice& l, Range r, Placement p, bool asymmetric) {
    if (!asymmetric) {
        const float most = magnitude(r);
        return most > l.grow * p.scale || (most < l.shrink * p.scale && p.scale > SCALE_MIN);
    }
    return r.high > p.offset + (8.0f + l.grow) * p.scale || r.low < p.offset - 0.5f * p.scale ||
           (r.high - r.low < 2.0f * l.shrink * p.scale && p.scale > SCALE_MIN);
}

// Scale and offset fitted to values of this range, as f16 bits.
struct FittedBits {
    u16 scale;
    u16 offset;
};
DEVICE FittedBits fit(const Lattice& l, Range r, bool asymmetric) {
    if (!asymmetric) return {to_scale(magnitude(r) / l.fit), 0};
    const u16 scale = to_scale((r.high - r.low) / (2.0f * l.fit));
    // The middle of the codes 0..15 meets the middle of the values.
    return {scale, float_to_f16((r.low + r.high) * 0.5f - 7.5f * f16_to_float(scale))};
}

// An unrounded stored number plus u, rounded down and clamped.
DEVICE float on_lattice(const Lattice& l, float free) {
    const float b = free < l.min ? l.min : free;
    return b > l.max ? l.max : b;
}

// How a moment is stored: 0 float32, 1 byte, 2 nibble.
enum Width : u32 { FLOAT = 0, BYTE = 1, NIBBLE = 2 };

// Scale of a group of moments from its largest magnitude (of roots, if second moments).
struct MomentScale {
    u16 bits;
    float inverse;
};
DEVICE MomentScale moment_scale(float most, float max) {
    // The smallest bfloat16 that is not below.
    const u32 up = (bits(most / max) + 0xffffu) >> 16;
    const float scale = from_bits(up << 16);
    // Zero for an all-zero group; a subnormal scale has no finite inverse and its group becomes zero.
    const float inverse = scale >= 1.17549435e-38f ? 1.0f / scale : 0.0f;
    return {(u16)(inverse == 0.0f ? 0u : up), inverse};
}
