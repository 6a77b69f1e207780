// A part of a weight, `rows` x `cols` from (`row`, `col`) on, as bf16 rows `pitch(cols)` apart: the panel that the next
// product reads from the L2 cache. `col` is a multiple of 256, the largest group.
//
// Floors, in bytes of device memory per weight: INT4 0.52 in (groups of 128); the 2 bytes out stay in L2. At 16k tokens
// the product spends 32k operations on each weight, this some ten.
#include "codecs.h"

// Calls `eight(row, column)` for eight neighbours of the part and stores what it gives: one thread each.
template <class F>
DEVICE void fill_panel(bf16* out, u32 rows, u32 cols, F eight) {
    const u32 per_row = ceil_div(cols, 8u);
    const u32 i = block_x() * 256 + thread();
    if (i < rows * per_row) {
        const u32 r = i / per_row, c = i % per_row * 8;
        store_eight(out + (u64)r * pitch(cols) + c, eight(r, c));
    }
}

// `width`: elements from one row of the data to the next, padding included.
template <class Codec>
DEVICE void dequantize(const WeightPlanes& w, bf16* out, u32 row, u32 col, u32 rows, u32 cols, u32 width) {
    fill_panel(out, rows, cols, [&](u32 r, u32 c) {
        return Codec::load(w, (u64)(row + r) * width + col + c, in_row(c, cols));
    });
}

#define DEQUANTIZE(name, Codec)                                                                                    \
    KERNEL(256, dequantize_##name, const u8* data, const u16* scales, const u16* offsets, bf16* out, u32 row,      \
           u32 col, u32 rows, u32 cols, u32 width, u32 group_bits) {                                               \
        dequantize<Codec>({data, scales, offsets, group_bits}, out, row, col, rows, cols, width);                  \
    }
WEIGHT_CODECS(DEQUANTIZE)

constexpr float LEAST_RANGE = 1e-5f;

// Not a number stays, which the larger and the smaller would drop.
DEVICE float clamp(float x, float low, float high) { return x != x ? x : fmin_(fmax_(x, low), high); }

struct Grid {
    float scale, zero;
    bool asymmetric;
};

// Four bits per group as in arXiv 2502.17055 (asymmetric) or its symmetric counterpart; halves to the even neighbour.
DEVICE Grid grid_of(float low, float high, bool asymmetric) {
    if (asymmetric) {
        const float scale = fmax_(high - low, LEAST_RANGE) / 15.0f;
        return {scale, clamp(-round_even(low / scale), 0.0f, 15.0f), true};
    }
    return {fmax_(fmax_(high, -low), LEAST_RANGE) / 7.0f, 0.0f, false};
}

DEVICE float on_grid(float x, const Grid& grid) {
    const float steps = round_even(x / grid.scale);
    if (grid.asymmetric) return grid.scale * (clamp(steps + grid.zero, 0.0f, 15.0f) - grid.zero);
    return grid.scale * clamp(steps, -8.0f, 7.0f);
}

// A float32 weight as a simulation sees it: one warp per group.
KERNEL(256, simulate_int4, const float* data, bf16* out, u32 row, u32 col, u32 rows, u32 cols, u32 width, u32 group,
       u32 asymmetric) {
    const u32 per_row = ceil_div(cols, group);
    const u32 i = block_x() * 8 + warp();
    if (i < rows * per_row) {
        const u32 r = i / per_row, from = i % per_row * group;
        const u32 size = min_(group, cols - from);
        const float* x = data + (u64)(row + r) * width + col + from;
        float low = from_bits(0x7f800000u), high = from_bits(0xff800000u);
        for (u32 k = lane(); k < size; k += 32) {
            low = fmin_(low, x[k]);
            high = fmax_(high, x[k]);
        }
        const Grid grid = grid_of(-warp_max(-low), warp_max(high), asymmetric);
        for (u32 k = lane(); k < size; k += 32) out[(u64)r * pitch(cols) + from + k] = to_bf16(on_grid(x[k], grid));
    }
}
