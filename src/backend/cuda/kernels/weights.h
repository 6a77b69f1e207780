// Stored weights as floats, eight neighbours of a row at once. `at` is a multiple of 8 and counts elements of the
// padded plane; a group is a multiple of 32 elements, so eight neighbours share their scale.
#pragma once
#include "rows.h"

// What the planes of a packed weight hold for one group.
struct Group {
    float scale, offset;
    bool has_offset;
};

DEVICE Group group_of(const u16* scales, const u16* offsets, u64 group) {
    return {f16_to_float(scales[group]), offsets ? f16_to_float(offsets[group]) : 0.0f, offsets != nullptr};
}

// s (q - 8), rounded once; with offsets s q + o, rounded twice, as on the CPU.
DEVICE float int4_value(u32 code, const Group& group) {
    return group.has_offset ? group.scale * (float)code + group.offset : group.scale * ((float)code - 8.0f);
}

// The nibbles of eight bytes, the low or the high ones.
DEVICE Eight int4_eight(Bits8 bytes, bool high, const Group& group) {
    Eight out;
    UNROLL
    for (int i = 0; i < 8; ++i) {
        const u32 byte = bytes.x[i / 4] >> (i % 4 * 8);
        out.x[i] = int4_value((high ? byte >> 4 : byte) & 15, group);
    }
    return out;
}

// In a run of 32 elements (16 bytes) element k < 16 is the low nibble of byte k, element k + 16 the high one.
DEVICE Eight load_int4(const u8* codes, u64 at, const Group& group) {
    const Bits8 bytes = load_8(codes + at / 32 * 16 + at % 16);
    return int4_eight(bytes, at % 32 >= 16, group);
}

DEVICE Eight load_int8(const i8* codes, u64 at, float scale) {
    const Bits8 bytes = load_8(codes + at);
    Eight out;
    UNROLL
    for (int i = 0; i < 8; ++i) out.x[i] = scale * (float)(i8)(bytes.x[i / 4] >> (i % 4 * 8) & 255);
    return out;
}

// Unpadded rows start at any element, so these are read one by one; zeros behind `count`.
DEVICE Eight load_plain(const float* from, u32 count) {
    Eight out;
    UNROLL
    for (int i = 0; i < 8; ++i) out.x[i] = i < count ? from[i] : 0.0f;
    return out;
}
DEVICE Eight load_plain(const bf16* from, u32 count) {
    Eight out;
    UNROLL
    for (int i = 0; i < 8; ++i) out.x[i] = i < count ? to_float(from[i]) : 0.0f;
    return out;
}
