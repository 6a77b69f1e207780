// RMSNorm and its gradient: forward one warp per row, backward one block for some rows.
//
// Floors, in bytes of device memory per element: forward 4 (x in, out out), gradient 8 (x, dout, dx in; dx out). Rows
// of more than GAIN_COLUMNS take 4 more for the gain's gradient, whose sums run down the columns: no block has the
// registers for them, so x and dout are read a second time.
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

// The first `count` of eight sums.
DEVICE void store_first(float* to, const float (&sums)[8], u32 count) {
    UNROLL
    for (u32 j = 0; j < 8; ++j) {
        if (j < count) to[j] = sums[j];
    }
}

// Columns of a block, eight a thread; and rows whose loads are on their way together.
static constexpr u32 GAIN_COLUMNS = 4096, GAIN_ROWS = 4, GAIN_WARPS = GAIN_COLUMNS / 256;

// Both at once: dx as above, and partial[chunk][column] as below. A block is one chunk; it has a thread for every eight
// columns, in whole warps, each of which then adds up what all of them found of a row.
KERNEL(512, rms_norm_grad_gain, const bf16* x, const float* gain, const float* inv_rms, const bf16* dout, bf16* dx,
       float* partial, u32 rows, u32 width, u32 rows_per_chunk) {
    // Two tiles take turns, so that one barrier a tile suffices.
    SHARED(float, shares, 2 * GAIN_ROWS * GAIN_WARPS);
    const u32 column = thread() * 8, count = column < width ? in_row(column, width) : 0;
    const u32 first = block_x() * rows_per_chunk, last = min_(first + rows_per_chunk, rows);
    const Eight g = load_eight(gain + column, count);
    const float per_column = 1.0f / (float)width;
    float sums[8] = {};
    float* turn = shares;
    for (u32 row = first; row < last; row += GAIN_ROWS) {
        const u32 here = min_(GAIN_ROWS, last - row);
        Bits16 read[GAIN_ROWS][3];
        UNROLL
        for (u32 r = 0; r < GAIN_ROWS; ++r) {
            const u64 at = (u64)(row + r) * pitch(width) + column;
            const bool there = r < here && count > 0;
            UNROLL
            for (u32 i = 0; i < 3; ++i) read[r][i] = there ? load_16((i == 0 ? x : i == 1 ? dout : dx) + at) : Bits16{};
        }
        UNROLL
        for (u32 r = 0; r < GAIN_ROWS; ++r) {
            const Eight v = first_of(unpack_eight(read[r][0]), count), d = first_of(unpack_eight(read[r][1]), count);
            float share = 0.0f;
            UNROLL
            for (int j = 0; j < 8; ++j) share += v.x[j] * d.x[j] * g.x[j];
            share = warp_sum(share);
            if (lane() == 0) turn[r * GAIN_WARPS + warp()] = share;
        }
        sync_threads();
        UNROLL
        for (u32 r = 0; r < GAIN_ROWS; ++r) {
            const float sum = warp_sum(lane() < threads() / 32 ? turn[r * GAIN_WARPS + lane()] : 0.0f);
            if (r < here && count > 0) {
                const Eight v = unpack_eight(read[r][0]), d = unpack_eight(read[r][1]);
                Eight out = unpack_eight(read[r][2]);
                const float inv = inv_rms[row + r], mean = sum * inv * inv * per_column;
                UNROLL
                for (int j = 0; j < 8; ++j) {
                    out.x[j] += (d.x[j] * g.x[j] - mean * v.x[j]) * inv;
                    sums[j] += d.x[j] * inv * v.x[j];
                }
                store_eight(dx + (u64)(row + r) * pitch(width) + column, out);
            }
        }
        turn = shares + (turn == shares ? GAIN_ROWS * GAIN_WARPS : 0);
    }
    store_first(partial + (u64)block_x() * width + column, sums, count);
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
        store_first(partial + (u64)block_y() * width + column, sums, in_row(column, width));
    }
}

// out[column] = sum over chunks of partial[chunk][column], after what out holds if `accumulate`. A warp sums every
// eighth chunk of 32 columns, in order; then the warps' sums are added, in order too.
KERNEL(256, sum_columns, const float* partial, float* out, u32 chunks, u32 width, u32 accumulate) {
    SHARED(float, sums, 256);
    const u32 column = block_x() * 32 + lane();
    float sum = 0.0f;
    if (column < width) {
        UNROLL_4
        for (u32 chunk = warp(); chunk < chunks; chunk += 8) sum += partial[(u64)chunk * width + column];
    }
    sums[thread()] = sum;
    sync_threads();
    if (warp() == 0 && column < width) {
        float total = accumulate ? out[column] : 0.0f;
        UNROLL
        for (u32 w = 0; w < 8; ++w) total += sums[w * 32 + lane()];
        out[column] = total;
    }
}
