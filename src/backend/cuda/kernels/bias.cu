// Biases of linear layers. Floors per element of x: 4 bytes forward, 2 backward.
#include "rows.h"

// x[t] += bias, one block per row.
KERNEL(256, add_bias, bf16* x, const float* bias, u32 width) {
    bf16* row = x + (u64)block_x() * pitch(width);
    for (u32 i = thread(); i < width; i += threads()) row[i] = to_bf16(to_float(row[i]) + bias[i]);
}

// partial[chunk][column] = sum over the chunk's rows, in order, of dy.
KERNEL(256, bias_grad_partial, const bf16* dy, float* partial, u32 rows, u32 width,
       u32 rows_per_chunk) {
    const u32 column = block_x() * 256 + thread();
    const u32 first = block_y() * rows_per_chunk;
    const u32 last = first + rows_per_chunk < rows ? first + rows_per_chunk : rows;
    if (column < width) {
        float sum = 0.0f;
        for (u32 row = first; row < last; ++row) sum += to_float(dy[(u64)row * pitch(width) + column]);
        partial[(u64)block_y() * width + column] = sum;
    }
}
