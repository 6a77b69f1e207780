// A part of a weight, `rows` x `cols` from (`row`, `col`) on, as bf16 rows `pitch(cols)` apart: the panel that the next
// product reads from the L2 cache. `col` is a multiple of 256, the largest group. Behind the columns of stored weights
// are zeros, over which products may sum; behind those of simulated ones is what was there.
//
// Floors, in bytes of device memory per weight: INT4 0.52 in (groups of 128); the 2 bytes out stay in L2. At 16k tokens
// the product spends 32k operations on each weight, this some ten.
#include "codecs.h"
#include "outliers.h"

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
        const u32 count = in_row(c, cols);
        return first_of(Codec::load(w, (u64)(row + r) * width + col + c, count), count);
    });
}

#define DEQUANTIZE(name, Codec)                                                                                    \
    KERNEL(256, dequantize_##name, const u8* data, const u16* scales, const u16* offsets, bf16* out, u32 row,      \
           u32 col, u32 rows, u32 cols, u32 width, u32 group_bits) {                                               \
        dequantize<Codec>({data, scales, offsets, group_bits}, out, row, col, rows, cols, width);                  \
    }
WEIGHT_CODECS(DEQUANTIZE)

// Four-bit numbers that a float32 weight is rounded to (src/quant/simulation.rs).

enum Simulation : u32 { SYMMETRIC = 0, ASYMMETRIC = 1, FP4 = 2 };

constexpr float LEAST_RANGE = 1e-5f, LEAST_MAGNITUDE = 1e-6f;

// Not a number stays, which the larger and the smaller would drop.
DEVICE float clamp(float x, float low, float high) { return x != x ? x : fmin_(fmax_(x, low), high); }

struct Grid {
    float scale, zero;
    u32 simulation;
};

// Halves go to the even neighbour. `most`: the largest magnitude of FP4.
DEVICE Grid grid_of(float low, float high, float most, u32 simulation) {
    if (simulation == FP4) return {fmax_(most, LEAST_MAGNITUDE) / 4.0f, 0.0f, simulation};
    if (simulation == SYMMETRIC) return {fmax_(fmax_(high, -low), LEAST_RANGE) / 7.0f, 0.0f, simulation};
    const float scale = fmax_(high - low, LEAST_RANGE) / 15.0f;
    return {scale, clamp(-round_even(low / scale), 0.0f, 15.0f), simulation};
}

DEVICE float on_grid(float x, const Grid& grid) {
    const float steps = round_even(x / grid.scale);
    if (grid.simulation == FP4) return grid.scale * steps;
    if (grid.simulation == SYMMETRIC) return grid.scale * clamp(steps, -8.0f, 7.0f);
    return grid.scale * (clamp(steps + grid.zero, 0.0f, 15.0f) - grid.zero);
}

// A warp per row and group that it touches. Groups begin at the first element of the row or, if `flat`, of the weight,
// which has `count` elements in rows of `width`.
KERNEL(256, simulate_four_bits, const float* data, bf16* out, u32 row, u32 col, u32 rows, u32 cols, u32 width,
       u64 count, u32 group, u32 flat, u32 simulation) {
    const u32 per_row = cols / group + 2;
    const u32 i = block_x() * 8 + warp();
    if (i >= rows * per_row) return;
    const u32 r = i / per_row;
    const u64 start_of_row = (u64)(row + r) * width, start = start_of_row + col, end = start + cols;
    const u64 origin = flat != 0 ? 0 : start_of_row, limit = flat != 0 ? count : start_of_row + width;
    const u64 from = origin + ((start - origin) / group + i % per_row) * group;
    if (from >= end) return;
    const u32 size = (u32)min_<u64>(group, limit - from);
    float value[8], low = from_bits(0x7f800000u), high = from_bits(0xff800000u);
    UNROLL
    for (u32 j = 0; j < 8; ++j) {
        const u32 k = j * 32 + lane();
        value[j] = k < size ? data[from + k] : 0.0f;
        low = k < size ? fmin_(low, value[j]) : low;
        high = k < size ? fmax_(high, value[j]) : high;
    }
    Outliers kept = {0, 0, 0.0f};
    if (simulation == FP4) kept = outliers(value, size);
    const Grid grid = grid_of(-warp_max(-low), warp_max(high), kept.most, simulation);
    UNROLL
    for (u32 j = 0; j < 8; ++j) {
        const u32 k = j * 32 + lane();
        const u64 at = from + k;
        if (k >= size || at < start || at >= end) continue;
        const bool stays = simulation == FP4 && is_outlier(kept, value[j], k);
        out[(u64)r * pitch(cols) + (at - start)] = to_bf16(stays ? value[j] : on_grid(value[j], grid));
    }
}
