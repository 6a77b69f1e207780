// The counter-based generator of src/nibble/philox.rs, and how a run of 32 elements is dealt its numbers.
#pragma once
#include "gpu.h"

// src/nibble/philox.rs, `Purpose`.
enum Purpose : u32 { FOR_WEIGHT = 0, FOR_M = 1, FOR_V = 2, FOR_MASK = 4, FOR_CHECKPOINT = 6 };

// What the numbers of one tensor, step and purpose have in common.
struct Stream {
    u64 seed;
    u32 step;
    u32 tensor;
    u32 purpose;
};

// The 16-bit numbers of a run of 32 elements, two to a word: element k has half k / 4 % 2 (low first) of
// word[k % 4][k / 8].
struct Deal {
    u32 word[4][4];
};

// Philox4x32 with ten rounds, in place.
DEVICE void philox(u32 (&x)[4], u32 k, u32 l) {
    UNROLL
    for (u32 round = 0; round < 10; ++round) {
        const u64 p = multiply_wide(x[0], 0xD2511F53u);
        const u64 q = multiply_wide(x[2], 0xCD9E8D57u);
        const u32 b = x[1], d = x[3];
        x[0] = (u32)(q >> 32) ^ b ^ k;
        x[1] = (u32)q;
        x[2] = (u32)(p >> 32) ^ d ^ l;
        x[3] = (u32)p;
        k += 0x9E3779B9u;
        l += 0xBB67AE85u;
    }
}

// The numbers of run `run` of a padded tensor: its four blocks of the generator.
DEVICE Deal deal(const Stream& stream, u32 run) {
    Deal dealt;
    UNROLL
    for (u32 block = 0; block < 4; ++block) {
        u32 (&x)[4] = dealt.word[block];
        // Block 4 run + block, 56 bits of it.
        x[0] = (run << 2) + block;
        x[1] = run >> 30 | stream.purpose << 24;
        x[2] = stream.tensor;
        x[3] = stream.step;
        philox(x, (u32)stream.seed, (u32)(stream.seed >> 32));
    }
    return dealt;
}

// The number u of element k in [0, 1), in 65536ths.
DEVICE u32 sixteen_bits(const Deal& dealt, u32 k) {
    const u32 word = dealt.word[k % 4][k / 8];
    return k / 4 % 2 ? word >> 16 : word & 0xffffu;
}

// u itself: the bits are placed under the exponent of 128, whose last place is 2^-16.
DEVICE float uniform(const Deal& dealt, u32 k) {
    return from_bits(permute_bytes(dealt.word[k % 4][k / 8], 0x43000000u, k / 4 % 2 ? 0x7632u : 0x7610u)) - 128.0f;
}

// x + u, rounded once. The bits stand in bytes 1 and 2 of a float, where they count 2^-141 whether that float is
// subnormal or not; the product is exact and the conversion to a float of its own is saved.
DEVICE float plus_uniform(float x, const Deal& dealt, u32 k) {
    const u32 bits = permute_bytes(dealt.word[k % 4][k / 8], 0, k / 4 % 2 ? 0x4324u : 0x4104u);
    return fma_(from_bits(bits), 0x1p125f, x);
}
