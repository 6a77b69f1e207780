// Four-bit floats of two exponent bits and one of mantissa, and powers of two (src/quant/fp4.rs, in the same order of
// operations).
#pragma once
#include "gpu.h"

DEVICE float with_sign(float magnitude, float of) {
    return from_bits((bits(magnitude) & 0x7fffffffu) | (bits(of) & 0x80000000u));
}

// The value `p` ranks above zero, interpolated between ranks and continued beyond the last.
DEVICE float fp4_level(float p) {
    const float a = fabs_(p);
    return with_sign(fmax_(fmax_(0.5f * a, a - 2.0f), 2.0f * a - 8.0f), p);
}

// The inverse.
DEVICE float fp4_position(float x) {
    const float a = fabs_(x);
    return with_sign(fmin_(fmin_(2.0f * a, a + 2.0f), 0.5f * a + 4.0f), x);
}

// Ranks count the fifteen values in ascending order, zero is 7.
DEVICE u32 fp4_rank(u32 code) { return code < 8 ? 7 + code : 15 - code; }
DEVICE u32 fp4_code(u32 rank) { return rank == 15 ? 8 : rank >= 7 ? rank - 7 : 15 - rank; }

// The scale of a byte; 255 is not a number.
DEVICE float power_of_two(u32 byte) {
    return byte == 0 ? from_bits(0x00400000u) : byte == 255 ? from_bits(0x7fc00000u) : from_bits(byte << 23);
}
