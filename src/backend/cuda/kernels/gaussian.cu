// Normally distributed numbers (src/quant/gaussian.rs, the same formula).
//
// Floor: 4 bytes a number; about 60 instructions.
#include "rng.h"

// The logarithm of a normal number.
DEVICE float logarithm(float u) {
    const u32 b = bits(u);
    i32 exponent = (i32)(b >> 23) - 127;
    float m = from_bits((b & 0x007fffffu) | 0x3f800000u);
    if (m > 1.41421356f) {
        exponent += 1;
        m = m * 0.5f;
    }
    const float s = (m - 1.0f) / (m + 1.0f);
    const float z = s * s;
    const float last = 2.0f / 7.0f + z * (2.0f / 9.0f);
    const float series = 2.0f + z * (2.0f / 3.0f + z * (2.0f / 5.0f + z * last));
    return (float)exponent * 0.693147181f + s * series;
}

struct Pair {
    float x[2];
};

// Two independent numbers from 64 random bits.
DEVICE Pair pair(u32 radius_bits, u32 angle) {
    const float u = ((float)(radius_bits >> 9) + 0.5f) * (1.0f / 8388608.0f);
    const float turn = ((float)(angle << 2 >> 9) + 0.5f) * (1.0f / 8388608.0f);
    const float radius = sqrt_rn(-2.0f * logarithm(u));
    const float t = (turn - 0.5f) * 1.57079633f;
    const float z = t * t;
    const float sine = 1.0f / 120.0f - z * (1.0f / 5040.0f - z * (1.0f / 362880.0f));
    const float sin = t * (1.0f - z * (1.0f / 6.0f - z * sine));
    const float cosine = 1.0f / 24.0f - z * (1.0f / 720.0f - z * (1.0f / 40320.0f));
    const float cos = 1.0f - z * (0.5f - z * cosine);
    const float x = radius * cos, y = radius * sin;
    switch (angle >> 30) {
        case 0: return {{x, y}};
        case 1: return {{-y, x}};
        case 2: return {{-x, -y}};
        default: return {{y, -x}};
    }
}

// A thread per counter: four numbers.
KERNEL(256, gaussian, float* out, u64 count, u64 seed, u32 step, u32 tensor, u32 usage, float deviation) {
    const u64 counter = (u64)block_x() * 256 + thread();
    if (4 * counter >= count) return;
    u32 x[4] = {(u32)counter, (u32)(counter >> 32 & 0x00ffffffu) | usage << 24, tensor, step};
    philox(x, (u32)seed, (u32)(seed >> 32));
    const Pair first = pair(x[0], x[1]), second = pair(x[2], x[3]);
    const float numbers[4] = {first.x[0], first.x[1], second.x[0], second.x[1]};
    UNROLL
    for (u32 i = 0; i < 4; ++i) {
        if (4 * counter + i < count) out[4 * counter + i] = numbers[i] * deviation;
    }
}
