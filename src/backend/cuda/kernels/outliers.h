// The two largest magnitudes of a group that one warp holds: element 32 j + l of at most 256 is number j of lane l.
#pragma once
#include "gpu.h"

struct Outliers {
    // The ranks of the two.
    u64 first, second;
    // The largest magnitude of the others; 0 if there are none.
    float most;
};

// Orders by magnitude, then by position from the front; not a number comes last.
DEVICE u64 rank(float x, u32 i) {
    const u32 magnitude = bits(x) & 0x7fffffffu;
    return magnitude > 0x7f800000u ? 0 : (u64)magnitude << 32 | (256 - i);
}

DEVICE u64 warp_max_rank(u64 mine) {
    for (int mask = 16; mask > 0; mask >>= 1) {
        const u32 high = shuffle_xor((u32)(mine >> 32), mask), low = shuffle_xor((u32)mine, mask);
        const u64 other = (u64)high << 32 | low;
        if (other > mine) mine = other;
    }
    return mine;
}

// Of the first `size` elements.
DEVICE Outliers outliers(const float (&value)[8], u32 size) {
    u64 ranks[8], found[3];
    UNROLL
    for (u32 j = 0; j < 8; ++j) ranks[j] = j * 32 + lane() < size ? rank(value[j], j * 32 + lane()) : 0;
    UNROLL
    for (int k = 0; k < 3; ++k) {
        u64 most = 0;
        UNROLL
        for (u32 j = 0; j < 8; ++j) most = ranks[j] > most ? ranks[j] : most;
        found[k] = warp_max_rank(most);
        UNROLL
        for (u32 j = 0; j < 8; ++j) {
            if (ranks[j] == found[k]) ranks[j] = 0;
        }
    }
    return {found[0], found[1], from_bits((u32)(found[2] >> 32))};
}

// Whether element i, of value x, is one of the two.
DEVICE bool is_outlier(const Outliers& o, float x, u32 i) {
    const u64 mine = rank(x, i);
    return mine != 0 && (mine == o.first || mine == o.second);
}
