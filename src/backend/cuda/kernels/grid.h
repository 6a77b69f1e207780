// The grid of a group's weights (src/quant/grid.rs): the same arithmetic in the same order. Maxima and
// minima are exact in any order.
#pragma once
#include "blocks.h"
#include "fp4.h"

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
    // A symmetric group that holds a stored integer below the first may go on to the second's scales below zero.
    float deep;
    float reach;
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

// Whether the largest magnitude lies where the range of a symmetric group may have ended: then `needs_rescale` asks for
// the group's smallest stored integer before its values moved.
DEVICE bool may_have_left(const QuantGrid& grid, Range r, GroupScale p) {
    return magnitude(r) > grid.grow * fabs_(p.scale);
}

// Whether values have left the range, or all lie in its inner half. A negative scale turns the grid round.
DEVICE bool needs_rescale(const QuantGrid& grid, Range r, GroupScale p, bool asymmetric, float lowest) {
    const float size = fabs_(p.scale);
    const Range along = p.scale < 0.0f ? Range{-r.high, -r.low} : r;
    const bool may_shrink = size > SCALE_MIN;
    if (!asymmetric) {
        const float reach = lowest < grid.deep ? grid.reach : grid.grow;
        return along.high > grid.grow * size || along.low < -reach * size ||
               (magnitude(r) < grid.shrink * size && may_shrink);
    }
    const float offset = p.scale < 0.0f ? -p.offset : p.offset;
    return along.high > offset + (8.0f + grid.grow) * size || along.low < offset - 0.5f * size ||
           (r.high - r.low < 2.0f * grid.shrink * size && may_shrink);
}

// Scale and offset for values of this range, as f16 bits.
struct GroupScaleBits {
    u16 scale;
    u16 offset;
};
template <class Levels> DEVICE GroupScaleBits rescale(const QuantGrid& grid, Range r, bool asymmetric) {
    if (!asymmetric) return {Levels::to_scale(magnitude(r) / grid.target), 0};
    const u16 scale = Levels::to_scale((r.high - r.low) / (2.0f * grid.target));
    // The middle of the codes 0..15 meets the middle of the values.
    return {scale, float_to_f16((r.low + r.high) * 0.5f - 7.5f * f16_to_float(scale))};
}
template <class Levels> DEVICE GroupScale group_scale(GroupScaleBits b, bool asymmetric) {
    return {Levels::scale(b.scale), asymmetric ? f16_to_float(b.offset) : 0.0f};
}

// How the values of stored integers are spaced (`Levels` of src/quant/grid.rs): where a scale is stored, the value of a
// byte without its group's offset, and the unrounded stored number of a value.

struct EvenLevels {
    static constexpr bool EVEN = true;
    DEVICE u16 to_scale(float scale) {
        const float limited = scale < SCALE_MIN ? SCALE_MIN : scale;
        return float_to_f16(limited > 65504.0f ? 65504.0f : limited);
    }
    DEVICE float scale(u16 bits) { return f16_to_float(bits); }
    DEVICE u16 load(const u16* scales, u32 group) { return scales[group]; }
    DEVICE void store(u16* scales, u32 group, u16 bits) { scales[group] = bits; }

    // `step (b - base) + offset`. The product and the number subtracted have at most 24 bits (13 of BIAS + base, 11 of
    // a scale), so one fused operation gives the exact difference, which is what the CPU's product is.
    struct Values {
        float step, shift, offset;
        DEVICE Values of(const QuantGrid& grid, GroupScale p) {
            const float step = p.scale * grid.unit;
            return {step, -((BIAS + grid.excess + grid.base) * step), p.offset};
        }
        DEVICE float value(const Values& v, float biased) { return fma_(biased, v.step, v.shift); }
    };
    DEVICE float exact(const QuantGrid& grid, float w, GroupScale p) {
        return (w - p.offset) * (grid.steps_per_scale / p.scale) + grid.base;
    }
    // What rounding x to the stored number b leaves over, in the unit of the weight.
    DEVICE float left(const QuantGrid& grid, float x, float b, GroupScale p) { return (x - b) * (p.scale * grid.unit); }
};

// Four-bit floats, whose scales are bytes.
struct Fp4Levels {
    static constexpr bool EVEN = false;
    // The exponent of the smallest power of two that is not below.
    DEVICE u16 to_scale(float scale) {
        return (u16)((bits(scale < SCALE_MIN ? SCALE_MIN : scale) + 0x007fffffu) >> 23);
    }
    DEVICE float scale(u16 byte) { return power_of_two(byte); }
    DEVICE u16 load(const u16* scales, u32 group) { return ((const u8*)scales)[group]; }
    DEVICE void store(u16* scales, u32 group, u16 byte) { ((u8*)scales)[group] = (u8)byte; }

    struct Values {
        static constexpr float offset = 0.0f;
        float scale, zero, unit;
        DEVICE Values of(const QuantGrid& grid, GroupScale p) {
            return {p.scale, BIAS + grid.excess + grid.base, grid.unit};
        }
        DEVICE float value(const Values& v, float biased) { return v.scale * fp4_level((biased - v.zero) * v.unit); }
    };
    DEVICE float exact(const QuantGrid& grid, float w, GroupScale p) {
        return fp4_position(w / p.scale) * grid.steps_per_scale + grid.base;
    }
    DEVICE float left(const QuantGrid& grid, float x, float b, GroupScale p) {
        const auto value = [&](float number) { return p.scale * fp4_level((number - grid.base) * grid.unit); };
        return value(x) - value(b);
    }
};
