// Products of float32 matrices for rules (src/backend/cpu/ops/matmul.rs, the same roundings in the same order): fused
// multiplications and additions in runs of RUN, whose sums are added up. Tensor cores would round the operands.
//
// Floor: an FMA for each of rows * cols * inner products, 128 a clock on each multiprocessor. A thread multiplies with
// what it reads from shared memory, 12 numbers, 32 times.
#include "gpu.h"

// A block's tile of the result, and what it reads of the inner dimension at a time.
static constexpr u32 TILE = 64, DEPTH = 16, THREADS = 128;
// Products that are summed before they are added to the others.
static constexpr u32 RUN = 256;
// Rows and columns of a thread: 4 x (4 + 4), the second four columns half a tile away.
static constexpr u32 ROWS = 4, COLS = 8;
// Elements from one k to the next: rows stay aligned, and writes along k meet other banks.
static constexpr u32 PITCH = TILE + 4;

// Elements (first + i, from + k) of an operand to tile[k][i], zeros where there are none. `along` is the number of
// its rows or columns; `dense` tells whether those lie next to each other, otherwise the inner dimension does.
DEVICE void load_tile(float* tile, const float* operand, u32 along, u32 inner, u32 first, u32 from, bool dense) {
    UNROLL
    for (u32 n = 0; n < TILE * DEPTH / THREADS; ++n) {
        const u32 e = thread() + n * THREADS;
        const u32 i = dense ? e % TILE : e / DEPTH, k = dense ? e / TILE : e % DEPTH;
        float x = 0.0f;
        if (first + i < along && from + k < inner) {
            x = operand[dense ? (u64)(from + k) * along + first + i : (u64)(first + i) * inner + from + k];
        }
        tile[k * PITCH + i] = x;
    }
}

DEVICE void load_four(float* to, const float* from) {
    const Bits16 four = load_16(from);
    UNROLL
    for (u32 i = 0; i < 4; ++i) to[i] = from_bits(four.x[i]);
}

// sums += (column k of the rows) (row k of the columns)
DEVICE void multiply(float (&sums)[ROWS][COLS], const float* rows, const float* cols) {
    float a[ROWS], b[COLS];
    load_four(a, rows);
    load_four(b, cols);
    load_four(b + 4, cols + TILE / 2);
    UNROLL
    for (u32 i = 0; i < ROWS; ++i) {
        UNROLL
        for (u32 j = 0; j < COLS; ++j) sums[i][j] = fma_(a[i], b[j], sums[i][j]);
    }
}

KERNEL(128, matmul, const float* a, const float* b, float* out, u32 rows, u32 inner, u32 cols, u32 a_transposed,
       u32 b_transposed, float alpha, float beta, u32 narrow) {
    SHARED(float, a_tile, DEPTH * PITCH);
    SHARED(float, b_tile, DEPTH * PITCH);
    const u32 my_row = thread() / 8 * ROWS, my_col = thread() % 8 * 4;
    const u32 first_col = block_x() * TILE;
    for (u32 first_row = block_y() * TILE; first_row < rows; first_row += grid_y() * TILE) {
        float total[ROWS][COLS] = {}, sums[ROWS][COLS] = {};
        for (u32 from = 0; from < inner; from += DEPTH) {
            load_tile(a_tile, a, rows, inner, first_row, from, a_transposed != 0);
            load_tile(b_tile, b, cols, inner, first_col, from, b_transposed == 0);
            sync_threads();
            const float *my_a = a_tile + my_row, *my_b = b_tile + my_col;
            if (inner - from >= DEPTH) {
                UNROLL
                for (u32 k = 0; k < DEPTH; ++k) multiply(sums, my_a + k * PITCH, my_b + k * PITCH);
            } else {
                for (u32 k = 0; k < inner - from; ++k) multiply(sums, my_a + k * PITCH, my_b + k * PITCH);
            }
            sync_threads();
            if ((from + DEPTH) % RUN != 0 && from + DEPTH < inner) continue;
            UNROLL
            for (u32 i = 0; i < ROWS; ++i) {
                UNROLL
                for (u32 j = 0; j < COLS; ++j) {
                    total[i][j] = from < RUN ? sums[i][j] : total[i][j] + sums[i][j];
                    sums[i][j] = 0.0f;
                }
            }
        }
        UNROLL
        for (u32 i = 0; i < ROWS; ++i) {
            const u32 row = first_row + my_row + i;
            UNROLL
            for (u32 j = 0; j < COLS; ++j) {
                const u32 col = first_col + my_col + j % 4 + j / 4 * (TILE / 2);
                if (row >= rows || col >= cols) continue;
                float* const at = out + (u64)row * cols + col;
                const float product = rounded(alpha * total[i][j], narrow);
                *at = beta == 0.0f ? product : rounded(product + rounded(beta * *at, narrow), narrow);
            }
        }
    }
}
