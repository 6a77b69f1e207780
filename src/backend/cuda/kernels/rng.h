// The counter-based generator of src/quant/rng.rs, and how its numbers are scattered over a block of 32 elements.
#pragma once
#include "gpu.h"

// src/quant/rng.rs, `RngUse`.
enum RngUse : u32 {
    FOR_WEIGHT = 0,
    FOR_M = 1,
    FOR_V = 2,
    FOR_MASK = 4,
    FOR_ACTIVATION_PACK = 6,
    FOR_DROPOUT = 9,
    FOR_GRAD_INPUT = 11,
    FOR_GRAD_WEIGHT = 12
};

// What the numbers of one tensor, step and usage have in common.
struct RngKey {
    u64 seed;
    u32 step;
    u32 tensor;
    u32 usage;
};

// The 16-bit numbers of a block of 32 elements, two to a word: element k has half k / 4 % 2 (low first) of
// word[k % 4][k / 8].
struct RngWords {
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

// The numbers of block `block` of a padded tensor: four counters of the generator.
DEVICE RngWords rng_words(const RngKey& key, u32 block) {
    RngWords random;
    UNROLL
    for (u32 i = 0; i < 4; ++i) {
        u32 (&x)[4] = random.word[i];
        // Counter 4 block + i, 56 bits of it.
        x[0] = (block << 2) + i;
        x[1] = block >> 30 | key.usage << 24;
        x[2] = key.tensor;
        x[3] = key.step;
        philox(x, (u32)key.seed, (u32)(key.seed >> 32));
    }
    return random;
}

// The number u of element k in [0, 1), in 65536ths.
DEVICE u32 sixteen_bits(const RngWords& random, u32 k) {
    const u32 word = random.word[k % 4][k / 8];
    return k / 4 % 2 ? word >> 16 : word & 0xffffu;
}

// u itself: the bits are placed under the exponent of 128, whose last place is 2^-16.
DEVICE float uniform(const RngWords& random, u32 k) {
    return from_bits(permute_bytes(random.word[k % 4][k / 8], 0x43000000u, k / 4 % 2 ? 0x7632u : 0x7610u)) - 128.0f;
}

// x + u, rounded once. The bits stand in bytes 1 and 2 of a float, where they count 2^-141 whether that float is
// subnormal or not; the product is exact and the conversion to a float of its own is saved.
DEVICE float plus_uniform(float x, const RngWords& random, u32 k) {
    const u32 bits = permute_bytes(random.word[k % 4][k / 8], 0, k / 4 % 2 ? 0x4324u : 0x4104u);
    return fma_(from_bits(bits), 0x1p125f, x);
}

// The 16-bit number of element k of block `block`: of its four counters only the one that gives it.
DEVICE float uniform_at(const RngKey& key, u64 block, u32 k) {
    const u64 counter = 4 * block + k % 4;
    u32 x[4] = {(u32)counter, (u32)(counter >> 32) & 0x00ffffffu | key.usage << 24, key.tensor, key.step};
    philox(x, (u32)key.seed, (u32)(key.seed >> 32));
    const u32 word = k / 8 == 0 ? x[0] : k / 8 == 1 ? x[1] : k / 8 == 2 ? x[2] : x[3];
    return (float)(k / 4 % 2 ? word >> 16 : word & 0xffffu) * (1.0f / 65536.0f);
}

// The numbers of eight neighbours, the part lane % 4 of their block: x[c] is that word of its counter c.
struct EightNumbers {
    u32 x[4];
    // In [0, 1).
    DEVICE float of(const EightNumbers& numbers, u32 k) {
        return (float)(k / 4 != 0 ? numbers.x[k % 4] >> 16 : numbers.x[k % 4] & 0xffffu) * (1.0f / 65536.0f);
    }
};

// Of a pair of words one is exchanged with that of the lane whose number differs by `by`.
DEVICE void exchange(u32& low, u32& high, u32 by) {
    const bool upper = (lane() & by) != 0;
    const u32 other = shuffle_xor(upper ? low : high, by);
    low = upper ? other : low;
    high = upper ? high : other;
}

// For four neighbouring lanes, all of one block: each computes a counter, and their words are transposed. All lanes of
// the warp come here together.
DEVICE EightNumbers eight_numbers(const RngKey& key, u64 block) {
    const u64 counter = 4 * block + lane() % 4;
    EightNumbers own = {{(u32)counter, (u32)(counter >> 32) & 0x00ffffffu | key.usage << 24, key.tensor, key.step}};
    philox(own.x, (u32)key.seed, (u32)(key.seed >> 32));
    exchange(own.x[0], own.x[1], 1);
    exchange(own.x[2], own.x[3], 1);
    exchange(own.x[0], own.x[2], 2);
    exchange(own.x[1], own.x[3], 2);
    return own;
}
