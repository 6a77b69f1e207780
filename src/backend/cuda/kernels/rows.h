// Rows of activations: eight elements at once. A row of `width` elements takes `pitch(width)`, so every eighth element
// is at an address that wide loads and stores can use; what is behind a row's end may hold anything and may be
// overwritten.
#pragma once
#include "gpu.h"

// Elements from one row to the next (`cuda::pitch`).
DEVICE u32 pitch(u32 width) { return (width + 7) / 8 * 8; }

// Eight elements as floats.
struct Eight {
    float x[8];
};

DEVICE Eight unpack_eight(const Bits16& bits) {
    Eight out;
    UNROLL
    for (int i = 0; i < 4; ++i) {
        out.x[2 * i] = low_to_float(bits.x[i]);
        out.x[2 * i + 1] = high_to_float(bits.x[i]);
    }
    return out;
}

DEVICE Eight load_eight(const bf16* from) { return unpack_eight(load_16(from)); }

// The first `count` of eight elements; zeros for the others.
DEVICE Eight first_of(Eight eight, u32 count) {
    if (count < 8) {
        UNROLL
        for (u32 i = 0; i < 8; ++i) eight.x[i] = i < count ? eight.x[i] : 0.0f;
    }
    return eight;
}

// Of eight elements the first `count`; zeros for the others.
DEVICE Eight load_eight(const bf16* from, u32 count) { return first_of(load_eight(from), count); }

// The same of a float32 vector, behind whose end nothing is touched.
DEVICE Eight load_eight(const float* from, u32 count) {
    Eight out;
    if (count < 8) {
        UNROLL
        for (u32 i = 0; i < 8; ++i) out.x[i] = i < count ? from[i] : 0.0f;
        return out;
    }
    const Bits16 low = load_16(from), high = load_16(from + 4);
    UNROLL
    for (int i = 0; i < 4; ++i) {
        out.x[i] = from_bits(low.x[i]);
        out.x[4 + i] = from_bits(high.x[i]);
    }
    return out;
}

DEVICE void store_eight(bf16* to, const Eight& value) {
    Bits16 bits;
    UNROLL
    for (int i = 0; i < 4; ++i) bits.x[i] = pack_bf16(value.x[2 * i], value.x[2 * i + 1]);
    store_16(to, bits);
}

// How many of the eight elements from `at` on are in a row.
DEVICE u32 in_row(u32 at, u32 width) { return width - at < 8 ? width - at : 8; }
