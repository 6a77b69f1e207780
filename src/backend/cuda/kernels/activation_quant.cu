// Four-bit activations with two outliers kept per group of 256 (arXiv 2502.17055): one block per row, one warp per
// group. Floor: 4 bytes of device memory per element.
#include "rows.h"

constexpr u32 GROUP = 256;

// Orders by magnitude, then by position from the front; not a number comes last.
DEVICE u64 rank(float x, u32 i) {
    const u32 magnitude = bits(x) & 0x7fffffffu;
    return magnitude > 0x7f800000u ? 0 : (u64)magnitude << 32 | (GROUP - i);
}

DEVICE u64 warp_max_rank(u64 mine) {
    for (int mask = 16; mask > 0; mask >>= 1) {
        const u32 high = shuffle_xor((u32)(mine >> 32), mask), low = shuffle_xor((u32)mine, mask);
        const u64 other = (u64)high << 32 | low;
        if (other > mine) mine = other;
    }
    return mine;
}

// The two largest magnitudes stay (of equal ones, the first); the others become s round(x / s) with s = absmax / 7
// of these others, halves to the even neighbour.
KERNEL(256, quantize_activations, bf16* x, u32 features) {
    bf16* row = x + (u64)block_x() * pitch(features);
    for (u32 from = warp() * GROUP; from < features; from += threads() / 32 * GROUP) {
        const u32 size = features - from < GROUP ? features - from : GROUP;
        bf16* at = row + from;
        float value[8];
        u64 ranks[8];
        for (u32 j = 0; j < 8; ++j) {
            const u32 i = j * 32 + lane();
            value[j] = i < size ? to_float(at[i]) : 0.0f;
            ranks[j] = i < size ? rank(value[j], i) : 0;
        }
        u64 found[3];
        for (int k = 0; k < 3; ++k) {
            u64 most = 0;
            for (u32 j = 0; j < 8; ++j) most = ranks[j] > most ? ranks[j] : most;
            found[k] = warp_max_rank(most);
            for (u32 j = 0; j < 8; ++j) {
                if (ranks[j] == found[k]) ranks[j] = 0;
            }
        }
        const float scale = from_bits((u32)(found[2] >> 32)) / 7.0f;
        // A scale of zero means that nothing but the two is there to be rounded.
        if (scale != 0.0f) {
            for (u32 j = 0; j < 8; ++j) {
                const u32 i = j * 32 + lane();
                const u64 mine = rank(value[j], i);
                const bool kept = mine != 0 && (mine == found[0] || mine == found[1]);
                if (i < size && !kept) at[i] = to_bf16(scale * round_even(value[j] / scale));
            }
        }
    }
}
