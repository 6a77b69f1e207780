// RMSNorm and its gradient: one warp per row.
//
// Floors, in bytes of device memory per element: forward 4 (x in, out out), gradient 8 (x, dout, dx in; dx out) and
// 4 more for the gain's gradient, which reads x and dout a second time: its sums run down the columns, and a warp
// that holds a row of 8,192 columns has no registers for them.
#include "rows.h"

// out = x / rms(x) gain; inv_rms receives 1 / rms(x).
KERNEL(256, rms_norm, const bf16* x, const float* gain, bf16* out, float* inv_rms, u32 rows, u32 width, float eps) {
    const u32 row = block_x() * 8 + warp();
    if (row < rows) {
        const u64 at = (u64)row * pitch(width);
        float sum = 0.0f;
        for (u32 i = lane() * 8; i < width; i += 256) {
            const Eight v = load_eight(x + at + i, in_row(i, width));
            UNROLL
            for (int j = 0; j < 8; ++j) sum += v.x[j] * v.x[j];
        }
        const float inv = 1.0f / sqrt_rn(warp_sum(sum) / (float)width + eps);
        if (lane() == 0) inv_rms[row] = inv;
        for (u32 i = lane() * 8; i < width; i += 256) {
            Eight v = load_eight(x + at + i);
            const Eight g = load_eight(gain + i, in_row(i, width));
            UNROLL
            for (int j = 0; j < 8; ++j) v.x[j] = v.x[j] * inv * g.x[j];
            store_eight(out + at + i, v);
        }
    }
}

// With n = x / rms(x): dx += (dout gain - n mean(dout gain n)) / rms(x).
KERNEL(256, rms_norm_grad, const bf16* x, const float* gain, const float* inv_rms, const bf16* dout, bf16* dx, u32 rows,
       u32 width) {
    const u32 row = block_x() * 8 + warp();
    if (row < rows) {
        const u64 at = (u64)row * pitch(width);
        const float inv = inv_rms[row];
        float sum = 0.0f;
        for (u32 i = lane() * 8; i < width; i += 256) {
            const u32 count = in_row(i, width);
            const Eight v = load_eight(x + at + i, count), d = load_eight(dout + at + i, count);
            const Eight g = load_eight(gain + i, count);
            UNROLL
            for (int j = 0; j < 8; ++j) sum += v.x[j] * d.x[j] * g.x[j];
        }
        const float mean = warp_sum(sum) * inv * inv / (float)width;
        for (u32 i = lane() * 8; i < width; i += 256) {
            const Eight v = load_eight(x + at + i), d = load_eight(dout + at + i);
            const Eight g = load_eight(gain + i, in_row(i, width));
            Eight out = load_eight(dx + at + i);
            UNROLL
            for (int j = 0; j < 8; ++j) out.x[j] += (d.x[j] * g.x[j] - mean * v.x[j]) * inv;
            store_eight(dx + at + i, out);
        }
    }
}

// partial[chunk][column] = sum over the chunk's rows, in order, of dout x / rms(x); eight columns a thread.
KERNEL(256, rms_norm_gain_partial, const bf16* x, const float* inv_rms, const bf16* dout, float* partial, u32 rows,
       u32 width, u32 rows_per_chunk) {
    const u32 column = (block_x() * 256 + thread()) * 8;
    const u32 first = block_y() * rows_per_chunk;
    const u32 last = min_(first + rows_per_chunk, rows);
    if (column < width) {
        float sums[8] = {};
        // Few threads: each has loads of four rows on their way.
        UNROLL_4
        for (u32 row = first; row < last; ++row) {
            const u64 at = (u64)row * pitch(width) + column;
            const Eight d = load_eight(dout + at), v = load_eight(x + at);
            const float inv = inv_rms[row];
            UNROLL
            for (int j = 0; j < 8; ++j) sums[j] += d.x[j] * inv * v.x[j];
        }
        float* to = partial + (u64)block_y() * width + column;
        const u32 count = in_row(column, width);
        UNROLL
        for (u32 j = 0; j < 8; ++j) {
            if (j < count) to[j] = sums[j];
        }
    }
}

// out[column] = sum over chunks, in order, of partial[chunk][column], after what out holds if `accumulate`.
KERNEL(256, sum_columns, const float* partial, float* out, u32 chunks, u32 width, u32 accumulate) {
    const u32 column = block_x() * 256 + thread();
    if (column < width) {
        float sum = accumulate ? out[column] : 0.0f;
        for (u32 chunk = 0; chunk < chunks; ++chunk) sum += partial[(u64)chunk * width + column];
        out[column] = sum;
    }
}
