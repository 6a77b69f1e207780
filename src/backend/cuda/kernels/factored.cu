// Second moments that elements share (src/backend/cpu/ops/factored.rs, the same additions in the same order): moving
// averages of the mean squared gradient of each row, and of each column if factored. Nothing happens unless the tensor
// moves.
//
// Floor: one more read of the gradient (4 bytes an element), two if factored; it was read a moment ago and may still
// lie in the second-level cache.
#include "adam.h"

static constexpr u32 WARPS = 8;
// Rows that a column's sum runs over in one go.
static constexpr u32 ROWS = 64;

// A mean of squared gradients taken into its moving average `kept`; gives this step's.
DEVICE float averaged(const AdamArgs& c, float* kept, float mean) {
    const float now = c.beta2 * (c.reset_before != 0 ? 0.0f : *kept) + c.one_minus_beta2 * mean;
    *kept = c.reset_after != 0 ? 0.0f : now;
    return now;
}

// A warp per row: 32 interleaved sums, folded half by half. `kept` and `now` have as many numbers as there are rows,
// and `touched`, unless it is null, says which rows are left as they are.
KERNEL(256, optimizer_row_means, const float* grad, u32 rows, u32 cols, AdamArgs constants, const GradStats* verdict,
       const u32* touched, float* kept, float* now) {
    const GradStats v = *verdict;
    const u32 row = block_x() * WARPS + warp();
    if (v.mode != MOVED || row >= rows || (touched != nullptr && touched[row] == 0)) return;
    const float* from = grad + (u64)row * cols;
    float sum = 0.0f;
    for (u32 j = lane(); j < cols; j += 32) {
        const float y = normalized(v, from[j]);
        sum += y * y;
    }
    UNROLL
    for (u32 by = 16; by > 0; by /= 2) sum += shuffle_down(sum, by);
    if (lane() == 0) now[row] = averaged(constants, kept + row, sum / (float)cols);
}

// A thread per column and block of rows: `sums` is [blocks, cols].
KERNEL(256, optimizer_col_sums, const float* grad, u32 rows, u32 cols, const GradStats* verdict, float* sums) {
    const GradStats v = *verdict;
    const u32 col = block_x() * threads() + thread();
    if (v.mode != MOVED || col >= cols) return;
    for (u32 block = block_y(); block * ROWS < rows; block += grid_y()) {
        const u32 first = block * ROWS, count = min_(ROWS, rows - first);
        const float* from = grad + (u64)first * cols + col;
        float sum = 0.0f;
        for (u32 i = 0; i < count; ++i) {
            const float y = normalized(v, from[(u64)i * cols]);
            sum += y * y;
        }
        sums[(u64)block * cols + col] = sum;
    }
}

// A thread per column: what a row's number is multiplied by. Every block needs the mean of `now`.
KERNEL(256, optimizer_factors, u32 rows, u32 cols, AdamArgs constants, const GradStats* verdict, const float* now,
       const float* sums, float* kept, float* factors) {
    SHARED(float, lanes, LANES);
    SHARED(float, mean_of_rows, 1);
    if (verdict->mode != MOVED) return;
    float of_lane = 0.0f;
    for (u32 i = thread(); i < rows; i += LANES) of_lane += now[i];
    const float total = fold(lanes, of_lane);
    if (thread() == 0) mean_of_rows[0] = total / (float)rows;
    sync_threads();
    const u32 col = block_x() * LANES + thread();
    if (col >= cols) return;
    float sum = sums[col];
    for (u32 block = 1; block * ROWS < rows; ++block) sum += sums[(u64)block * cols + col];
    const float mean = mean_of_rows[0];
    const float number = averaged(constants, kept + col, sum / (float)rows);
    factors[col] = mean > 0.0f ? number / mean : 0.0f;
}
