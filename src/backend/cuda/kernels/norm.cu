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

// partial[chunk][column] = sum over the chunk's rows, in order, of dout x / rms(x): two neighbours per thread, of which
// the second may lie behind the row.
KERNEL(256, rms_norm_gain_partial, const bf16* x, const float* inv_rms, const bf16* dout, float* partial, u32 rows,
       u32 width, u32 rows_per_chunk) {
    const u32 column = (block_x() * 256 + thread()) * 2;
    const u32 first = block_y() * rows_per_chunk;
    const u32 last = min_(first + rows_per_chunk, rows);
    if (column < width) {
        float low = 0.0f, high = 0.0f;
        for (u32 row = first; row < last; ++row) {
            const u64 at = (u64)row * pitch(width) + column;
            const u32 d = *(const u32*)(dout + at), v = *(const u32*)(x + at);
            const float inv = inv_rms[row];
            low += low_to_float(d) * inv * low_to_float(v);
            high += high_to_float(d) * inv * high_to_float(v);
        }
        float* const to = partial + (u64)block_y() * width + column;
        to[0] = low;
        if (column + 1 < width) to[1] = high;
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
