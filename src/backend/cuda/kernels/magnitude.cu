// Rows brought to other norms (src/backend/ops/magnitude.rs). Floors, in bytes of device memory per element: 6 to add,
// 4 for the gradient; norms are of a few rows.
#include "rows.h"

// x over a norm, of a row of zeros 0.
DEVICE float over_norm(float x, float norm) { return norm > 0.0f ? div_rn(x, norm) : 0.0f; }

// One thread per column.
KERNEL(256, row_norms, const bf16* b, const bf16* r, const float* squares, float* norms, u32 rows, u32 width,
       float factor) {
    const u32 column = block_x() * 256 + thread();
    if (column < width) {
        float sum = 0.0f;
        for (u32 row = 0; row < rows; ++row) {
            const u64 at = (u64)row * pitch(width) + column;
            sum += to_float(b[at]) * to_float(r[at]);
        }
        norms[column] = sqrt_rn(fmax_(squares[column] + factor * sum, 0.0f));
    }
}

// One block per row.
KERNEL(256, add_columns, const bf16* x, bf16* y, const float* magnitude, const float* norms, u32 width, float by,
       float less) {
    const u64 at = (u64)block_x() * pitch(width);
    for (u32 i = thread(); i < width; i += threads()) {
        const float factor = by * over_norm(magnitude[i], norms[i]) + less;
        y[at + i] = to_bf16(to_float(y[at + i]) + factor * to_float(x[at + i]));
    }
}

// partial[chunk][column] = sum over the chunk's rows, in order, of x dy / norm.
KERNEL(256, magnitude_grad_partial, const bf16* x, const bf16* dy, const float* norms, float* partial, u32 rows,
       u32 width, u32 rows_per_chunk) {
    const u32 column = block_x() * 256 + thread();
    const u32 first = block_y() * rows_per_chunk, last = min_(first + rows_per_chunk, rows);
    if (column < width) {
        const float norm = norms[column];
        float sum = 0.0f;
        for (u32 row = first; row < last; ++row) {
            const u64 at = (u64)row * pitch(width) + column;
            sum += over_norm(to_float(x[at]) * to_float(dy[at]), norm);
        }
        partial[(u64)block_y() * width + column] = sum;
    }
}
