// What kernels that work row by row share: eight elements at once, where rows allow it.
#pragma once
#include "gpu.h"

// Eight bf16 as floats.
struct Eight {
    float x[8];
};

DEVICE Eight load_eight(const bf16* from) {
    const Bits16 bits = load_16(from);
    Eight out;
    UNROLL
    for (int i = 0; i < 4; ++i) {
        out.x[2 * i] = low_to_float(bits.x[i]);
        out.x[2 * i + 1] = high_to_float(bits.x[i]);
    }
    return out;
}

DEVICE void store_eight(bf16* to, const Eight& value) {
    Bits16 bits;
    UNROLL
    for (int i = 0; i < 4; ++i) bits.x[i] = pack_bf16(value.x[2 * i], value.x[2 * i + 1]);
    store_16(to, bits);
}

// Four floats of a float32 vector, twice.
DEVICE Eight load_eight(const float* from) {
    const Bits16 low = load_16(from), high = load_16(from + 4);
    Eight out;
    UNROLL
    for (int i = 0; i < 4; ++i) {
        out.x[i] = from_bits(low.x[i]);
        out.x[4 + i] = from_bits(high.x[i]);
    }
    return out;
}

DEVICE bool aligned_rows(u32 width) { return width % 8 == 0; }
