// RMSNorm and its gradient: one warp per row.
//
// Floors, in bytes of device memory per element: forward 4 (x in, out out), gradient 8 (x, dout, dx in; dx out) and
// 4 more for the gain's gradient, which reads x and dout a second time: its sums run down the columns, and a warp
// that holds a row of 8,192 columns has no registers for them.
#include "rows.h"

template <bool WIDE, class F>
DEVICE void each(u32 width, F f) {
    if (WIDE) {
        for (u32 i = lane() * 8; i < width; i += 256) f(i);
    } else {
        for (u32 i = lane(); i < width; i += 32) f(i);
    }
}

template <bool WIDE>
DEVICE void norm_row(const bf16* x, const float* gain, bf16* out, float* inv_rms, u32 width, float eps) {
    float sum = 0.0f;
    each<WIDE>(width, [&](u32 i) {
        if (WIDE) {
            const Eight v = load_eight(x + i);
            for (int j = 0; j < 8; ++j) sum += v.x[j] * v.x[j];
        } else {
            const float v = to_float(x[i]);
            sum += v * v;
        }
    });
    const float inv = 1.0f / sqrt_rn(warp_sum(sum) / (float)width + eps);
    if (lane() == 0) *inv_rms = inv;
    each<WIDE>(width, [&](u32 i) {
        if (WIDE) {
            Eight v = load_eight(x + i);
            const Eight g = load_eight(gain + i);
            for (int j = 0; j < 8; ++j) v.x[j] = v.x[j] * inv * g.x[j];
            store_eight(out + i, v);
        } else {
            out[i] = to_bf16(to_float(x[i]) * inv * gain[i]);
        }
    });
}

// out = x / rms(x) gain; inv_rms receives 1 / rms(x).
KERNEL(256, rms_norm, const bf16* x, const float* gain, bf16* out, float* inv_rms, u32 rows, u32 width,
       float eps) {
    const u32 row = block_x() * 8 + warp();
    if (row < rows) {
        const u64 at = (u64)row * width;
        if (aligned_rows(width)) {
            norm_row<true>(x + at, gain, out + at, inv_rms + row, width, eps);
        } else {
            norm_row<false>(x + at, gain, out + at, inv_rms + row, width, eps);
        }
    }
}

template <bool WIDE>
DEVICE void grad_row(const bf16* x, const float* gain, float inv, const bf16* dout, bf16* dx, u32 width) {
    float sum = 0.0f;
    each<WIDE>(width, [&](u32 i) {
        if (WIDE) {
            const Eight v = load_eight(x + i), d = load_eight(dout + i), g = load_eight(gain + i);
            for (int j = 0; j < 8; ++j) sum += v.x[j] * d.x[j] * g.x[j];
        } else {
            sum += to_float(x[i]) * to_float(dout[i]) * gain[i];
        }
    });
    const float mean = warp_sum(sum) * inv * inv / (float)width;
    each<WIDE>(width, [&](u32 i) {
        if (WIDE) {
            const Eight v = load_eight(x + i), d = load_eight(dout + i), g = load_eight(gain + i);
            Eight sum = load_eight(dx + i);
            for (int j = 0; j < 8; ++j) sum.x[j] += (d.x[j] * g.x[j] - mean * v.x[j]) * inv;
            store_eight(dx + i, sum);
        } else {
            const float add = (to_float(dout[i]) * gain[i] - mean * to_float(x[i])) * inv;
            dx[i] = to_bf16(to_float(dx[i]) + add);
        }
    });
}

// With n = x / rms(x): dx += (dout gain - n mean(dout gain n)) / rms(x).
KERNEL(256, rms_norm_grad, const bf16* x, const float* gain, const float* inv_rms, const bf16* dout, bf16* dx,
       u32 rows, u32 width) {
    const u32 row = block_x() * 8 + warp();
    if (row < rows) {
        const u64 at = (u64)row * width;
        if (aligned_rows(width)) {
            grad_row<true>(x + at, gain, inv_rms[row], dout + at, dx + at, width);
        } else {
            grad_row<false>(x + at, gain, inv_rms[row], dout + at, dx + at, width);
        }
    }
}

// partial[chunk][column] = sum over the chunk's rows, in order, of dout x / rms(x).
KERNEL(256, rms_norm_gain_partial, const bf16* x, const float* inv_rms, const bf16* dout, float* partial,
       u32 rows, u32 width, u32 rows_per_chunk) {
    const u32 column = block_x() * 256 + thread();
    const u32 first = block_y() * rows_per_chunk;
    const u32 last = first + rows_per_chunk < rows ? first + rows_per_chunk : rows;
    if (column < width) {
        float sum = 0.0f;
        for (u32 row = first; row < last; ++row) {
            const u64 at = (u64)row * width + column;
            sum += to_float(dout[at]) * inv_rms[row] * to_float(x[at]);
        }
        partial[(u64)block_y() * width + column] = sum;
    }
}

// out[column] = sum over chunks, in order, of partial[chunk][column].
KERNEL(256, sum_columns, const float* partial, float* out, u32 chunks, u32 width) {
    const u32 column = block_x() * 256 + thread();
    if (column < width) {
        float sum = 0.0f;
        for (u32 chunk = 0; chunk < chunks; ++chunk) sum += partial[(u64)chunk * width + column];
        out[column] = sum;
    }
}
