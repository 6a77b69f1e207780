// Sums over rows and columns, and what a direction is divided and multiplied by (src/backend/cpu/ops/factors.rs, the
// same additions in the same order). Columns are summed up in normalize.cu.
//
// Floor: 4 bytes an element for a sum, 8 for a product or a quotient.
#include "adam.h"

static constexpr u32 WARPS = 8;
static constexpr u32 THREADS = 256;

// src/backend/update.rs, field by field.
struct DivisorArgs {
    u32 rows;
    u32 cols;
    u32 run;
    float root;
    float floor;
    float eps;
};
struct RelativeStepArgs {
    float count;
    float least;
    float rate;
    float threshold;
};
SIZE_ON_HOST(DivisorArgs, 24);
SIZE_ON_HOST(RelativeStepArgs, 16);

// 32 interleaved sums of a warp, folded half by half; lane 0's is the sum.
DEVICE float folded(float sum) {
    UNROLL
    for (u32 by = 16; by > 0; by /= 2) sum += shuffle_down(sum, by);
    return sum;
}

// A warp per row.
KERNEL(256, squares_of_rows, const float* x, u32 rows, u32 cols, float* out) {
    const u32 row = block_x() * WARPS + warp();
    if (row >= rows) return;
    const float* const at = x + (u64)row * cols;
    float sum = 0.0f;
    for (u32 j = lane(); j < cols; j += 32) sum += at[j] * at[j];
    sum = folded(sum);
    if (lane() == 0) out[row] = sum;
}

// A thread per column: sums of columns over `blocks` blocks of rows.
KERNEL(256, sums_of_blocks, const float* sums, u32 blocks, u32 cols, float* out) {
    const u32 col = block_x() * THREADS + thread();
    if (col >= cols) return;
    float sum = 0.0f;
    for (u32 block = 0; block < blocks; ++block) sum += sums[(u64)block * cols + col];
    out[col] = sum;
}

// A warp per run of `length` numbers.
KERNEL(256, sums_of_runs, const float* x, u32 count, u32 length, u32 runs, float* out) {
    const u32 run = block_x() * WARPS + warp();
    if (run >= runs) return;
    const u64 first = (u64)run * length;
    const u32 here = (u32)min_((u64)length, count - first);
    float sum = 0.0f;
    for (u32 j = lane(); j < here; j += 32) sum += x[first + j];
    sum = folded(sum);
    if (lane() == 0) out[run] = sum;
}

// A block per THREADS columns of each of the grid's rows.
KERNEL(256, scale_by_rows, float* x, u32 rows, u32 cols, const float* factors) {
    const u32 col = block_x() * THREADS + thread();
    if (col >= cols) return;
    for (u32 row = block_y(); row < rows; row += grid_y()) x[(u64)row * cols + col] *= factors[row];
}

KERNEL(256, scale_by_cols, float* x, u32 rows, u32 cols, const float* factors) {
    const u32 col = block_x() * THREADS + thread();
    if (col >= cols) return;
    for (u32 row = block_y(); row < rows; row += grid_y()) x[(u64)row * cols + col] *= factors[col];
}

// Moments of rows or of columns are null where there are none.
KERNEL(256, divide_by_root, float* x, const float* of_rows, const float* of_cols, DivisorArgs args) {
    const u32 col = block_x() * THREADS + thread();
    if (col >= args.cols) return;
    for (u32 row = block_y(); row < args.rows; row += grid_y()) {
        const float of_row = of_rows == nullptr ? 1.0f : of_rows[row / args.run];
        const float v = of_cols == nullptr ? of_row : of_row * of_cols[col];
        const float divisor = sqrt_rn(v > args.floor ? v : args.floor) * args.root + args.eps;
        float* const at = x + (u64)row * args.cols + col;
        *at = *at / divisor;
    }
}

KERNEL(256, ratio_of_roots, float* a, const float* b, u32 count, float eps) {
    const u32 i = block_x() * THREADS + thread();
    if (i >= count) return;
    const float divisor = sqrt_rn(b[i]) + eps;
    a[i] = divisor > 0.0f ? sqrt_rn(a[i]) / divisor : 0.0f;
}

// Every block sums up b.
KERNEL(256, divide_by_mean, float* a, u32 count, const float* b, u32 of, float floor) {
    SHARED(float, mean, 1);
    if (warp() == 0) {
        float sum = 0.0f;
        for (u32 j = lane(); j < of; j += 32) sum += b[j];
        sum = folded(sum);
        if (lane() == 0) mean[0] = sum / (float)of;
    }
    sync_threads();
    const u32 i = block_x() * THREADS + thread();
    if (i < count) a[i] = a[i] / (mean[0] > floor ? mean[0] : floor);
}

// One thread; `kept` is the norm and whether there was one.
KERNEL(32, limit_growth, float* factor, float* kept, float growth, float eps, const GradStats* gate) {
    if (thread() != 0 || gate->mode != MOVED) return;
    const float norm = sqrt_rn(factor[0]);
    const float ratio = norm / (kept[0] + eps);
    const float over = kept[1] != 0.0f && ratio > growth ? ratio / growth : 1.0f;
    kept[0] = norm / over;
    kept[1] = 1.0f;
    factor[0] = 1.0f / over;
}

// One thread.
KERNEL(32, relative_step, float* factor, const float* weight, RelativeStepArgs args) {
    if (thread() != 0) return;
    const float of_weight = sqrt_rn(weight[0] / args.count);
    const float of_direction = sqrt_rn(factor[0] / args.count) / args.threshold;
    const float size = args.rate * (of_weight > args.least ? of_weight : args.least);
    factor[0] = size / (of_direction > 1.0f ? of_direction : 1.0f);
}
