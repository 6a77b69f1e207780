// The codecs of optimizer moments (src/quant/moment.rs): one scale per group, stochastic rounding, exact zeros. First
// moments are signed; second moments are stored as their roots.
#pragma once
#include "blocks.h"
#include "rng.h"

// SHARED_BY_ROW: second moments are no codes but made from means (factored.cu).
// ABSENT: the update has no such state.
enum Width : u32 { FLOAT = 0, BYTE = 1, NIBBLE = 2, SHARED_BY_ROW = 3, ABSENT = 4 };
DEVICE bool is_compact(u32 width) { return width == BYTE || width == NIBBLE; }

// How a compact moment is stored.
struct Codec {
    u32 width;
    // Largest code.
    float max;
    // What the plane's bytes or nibbles hold beyond the code: 128 or 8 if signed.
    float excess;
    // The bits that add it: 0x80 or 0x08 in each byte.
    u32 signs;
};
SIZE_ON_HOST(Codec, 16);

DEVICE void store_codes(const Codec& c, u8* plane, u32 block, Bytes32 codes) {
    if (c.width == BYTE) return store_bytes(plane, block, codes);
    store_nibbles(plane, block, pack(flip_signs(codes, c.signs)));
}

// `scale code` of a block as it lies in memory (16 or 32 bytes), exactly: both products have at most 24 bits (16 of
// BIAS + excess, 8 of a bfloat16).
DEVICE void decode(const Codec& c, const Bytes32& raw, float scale, float (&x)[BLOCK]) {
    const float shift = -((BIAS + c.excess) * scale);
    const Bytes32 codes =
        c.width == NIBBLE ? unpack({{raw.x[0], raw.x[1], raw.x[2], raw.x[3]}}) : flip_signs(raw, c.signs);
    UNROLL
    for (u32 k = 0; k < BLOCK; ++k) x[k] = fma_(biased(codes, k), scale, shift);
}

// Scale of a group from its largest magnitude.
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

// Codes of first moments, or of roots of second moments, which are never rounded to zero unless they are zero.
template <bool SIGNED>
DEVICE Bytes32 encode(const float (&x)[BLOCK], float inverse, float max, const RngWords& random) {
    Bytes32 codes;
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        u32 code[4];
        UNROLL
        for (u32 j = 0; j < 4; ++j) {
            const float t = x[4 * i + j] * inverse;
            const float least = SIGNED ? -max : t > 0.0f ? 1.0f : 0.0f;
            // The limits are whole numbers, so limiting before rounding down gives the same. Four bits do not reach the
            // upper one: t exceeds 15 by less than u stays below 1.
            const float limited = fmax_(plus_uniform(t, random, 4 * i + j), least);
            code[j] = floor_bits(max <= 15.0f ? limited : fmin_(limited, max));
        }
        codes.x[i] = four_bytes(code);
    }
    return codes;
}
