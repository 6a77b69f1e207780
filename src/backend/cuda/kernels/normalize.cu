// Rows or columns of a matrix divided by their root mean squares (src/backend/cpu/ops/normalize.rs, the same additions
// in the same order).
//
// Floor: two reads and one write of the matrix (12 bytes an element); a row's second read is from the cache.
#include "gpu.h"

static constexpr u32 WARPS = 8;
// Rows that a column's sum runs over in one go.
static constexpr u32 ROWS = 64;

DEVICE float divisor(float squares, u32 count, float floor) {
    const float rms = sqrt_rn(squares / (float)count);
    return rms > floor ? rms : floor;
}

// A warp per row: 32 interleaved sums, folded half by half.
KERNEL(256, normalize_rows, float* x, u32 rows, u32 cols, float floor) {
    const u32 row = block_x() * WARPS + warp();
    if (row >= rows) return;
    float* const at = x + (u64)row * cols;
    float sum = 0.0f;
    for (u32 j = lane(); j < cols; j += 32) sum += at[j] * at[j];
    UNROLL
    for (u32 by = 16; by > 0; by /= 2) sum += shuffle_down(sum, by);
    const float by = divisor(shuffle(sum, 0), cols, floor);
    for (u32 j = lane(); j < cols; j += 32) at[j] = at[j] / by;
}

// A thread per column and block of rows: `sums` is [blocks, cols].
KERNEL(256, normalize_col_sums, const float* x, u32 rows, u32 cols, float* sums) {
    const u32 col = block_x() * threads() + thread();
    if (col >= cols) return;
    for (u32 block = block_y(); block * ROWS < rows; block += grid_y()) {
        const u32 first = block * ROWS, count = min_(ROWS, rows - first);
        const float* from = x + (u64)first * cols + col;
        float sum = 0.0f;
        for (u32 i = 0; i < count; ++i) sum += from[(u64)i * cols] * from[(u64)i * cols];
        sums[(u64)block * cols + col] = sum;
    }
}

// A thread per column and block of rows.
KERNEL(256, normalize_cols, float* x, u32 rows, u32 cols, float floor, const float* sums) {
    const u32 col = block_x() * threads() + thread();
    if (col >= cols) return;
    float sum = sums[col];
    for (u32 block = 1; block * ROWS < rows; ++block) sum += sums[(u64)block * cols + col];
    const float by = divisor(sum, rows, floor);
    for (u32 block = block_y(); block * ROWS < rows; block += grid_y()) {
        const u32 first = block * ROWS, count = min_(ROWS, rows - first);
        float* const at = x + (u64)first * cols + col;
        for (u32 i = 0; i < count; ++i) at[(u64)i * cols] = at[(u64)i * cols] / by;
    }
}
