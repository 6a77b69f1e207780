// Tiles of bf16 rows in shared memory, and the operands of 16x8x16 products read from them.
//
// A tile has rows of WIDTH elements, a multiple of 16, and is named by the offset of its first byte in the launch's
// shared memory, a multiple of 128. The 16-byte chunks of a row are permuted by a function of the row ("swizzled") so
// that the eight rows of a matrix that `load_matrix_*` reads at one chunk touch all 32 banks once. The permutation is
// an exclusive or with bits of the row, which all rows a multiple of 8 apart have in common: where a lane reads is one
// sum for a tile, one exclusive or for a column and a constant for a row, and few registers hold it.
#pragma once
#include "gpu.h"

// Chunks are permuted within runs of this many.
template <u32 WIDTH> constexpr u32 RUN = WIDTH % 64 == 0 ? 8 : WIDTH % 32 == 0 ? 4 : 2;

// Offset in bytes of a chunk of one of the first eight rows (or of any row, from the same row modulo 8).
template <u32 WIDTH> DEVICE u32 chunk_at(u32 row, u32 chunk) {
    static_assert(WIDTH % 16 == 0, "whole fragments");
    // Rows that start at the same bank are 8 / RUN apart.
    const u32 swizzle = row / (8 / RUN<WIDTH>) % RUN<WIDTH>;
    return row * WIDTH * 2 + (chunk ^ swizzle) * 16;
}

// The chunk `column` / 8 from where a lane's offset says column 0, `row` rows (a multiple of 8) further down.
template <u32 WIDTH> DEVICE const void* lane_chunk(u32 at, u32 row, u32 column) {
    DYNAMIC_SHARED(u8, shared);
    const u32 chunk = column / 8;
    return shared + (at ^ chunk % RUN<WIDTH> * 16) + (chunk / RUN<WIDTH> * RUN<WIDTH> * 16 + row * WIDTH * 2);
}

// A matrix in global memory: `rows` rows from `from` on, `stride` elements apart, `width` (even) wide; less than 2^31
// elements in all.
struct Matrix {
    const bf16* from;
    u32 stride;
    u32 rows;
    u32 width;
};

// Fills a tile with ROWS rows of a matrix from `begin` on, by all THREADS threads of a block, with zeros beyond it. The
// caller commits, waits and synchronizes. ALIGNED: rows are multiples of 16 bytes, and are copied asynchronously.
template <u32 WIDTH, u32 ROWS, u32 THREADS, bool ALIGNED>
DEVICE void load_tile(u32 tile, const Matrix& matrix, u32 begin) {
    // Threads take one chunk each of some rows at a time, a multiple of 8: a pass adds constants.
    constexpr u32 CHUNKS = WIDTH / 8, PASS = THREADS / CHUNKS / 8 * 8;
    static_assert(PASS > 0 && ROWS % PASS == 0, "whole passes");
    DYNAMIC_SHARED(u8, shared);
    const u32 row = thread() / CHUNKS, chunk = thread() % CHUNKS;
    if (THREADS % CHUNKS != 0 && row >= PASS) return;
    const bf16* from = matrix.from + ((begin + row) * matrix.stride + chunk * 8);
    const i32 rows = chunk * 8 < matrix.width ? (i32)(matrix.rows - begin - row) : 0;
    UNROLL
    for (u32 pass = 0; pass < ROWS; pass += PASS) {
        u8* const to = shared + tile + chunk_at<WIDTH>(row, chunk) + pass * WIDTH * 2;
        const bool inside = (i32)pass < rows;
        if constexpr (ALIGNED) {
            copy_async_16(to, from, inside);
        } else {
            UNROLL
            for (u32 i = 0; i < 8; i += 2)
                ((u32*)to)[i / 2] = inside && chunk * 8 + i < matrix.width ? *(const u32*)(from + i) : 0;
        }
        from += PASS * matrix.stride;
    }
}

// Of a lane: where the 16x16 elements at a tile's origin are read as A, or as two B whose rows are the tile's.
template <u32 WIDTH> DEVICE u32 lane_of_rows() { return chunk_at<WIDTH>(lane() & 15, lane() >> 4); }

// The same as two B whose columns are the tile's rows.
template <u32 WIDTH> DEVICE u32 lane_of_columns() {
    return chunk_at<WIDTH>((lane() & 7) + (lane() >> 4) * 8, (lane() >> 3) & 1);
}

// 16 rows of A times the 16 columns of B that `load_matrix_x4` gave.
DEVICE void multiply_pair(float (&left)[4], float (&right)[4], const u32 (&a)[4], const u32 (&b)[4]) {
    const u32 b_left[2] = {b[0], b[1]}, b_right[2] = {b[2], b[3]};
    mma_bf16(left, a, b_left);
    mma_bf16(right, a, b_right);
}

// A in registers: strips of 16 rows, by 16 columns.
template <u32 STRIPS, u32 COLUMNS> struct Fragments {
    u32 x[COLUMNS / 16][STRIPS][4];
};

// Sums in registers: strips of 16 rows, by 8 columns. Lane l holds in x[s][n] rows l / 4 (the first two) and l / 4 + 8
// (the last two), columns 8 n + 2 (l % 4) and the next.
template <u32 STRIPS, u32 COLUMNS> struct Sums {
    float x[STRIPS][COLUMNS / 8][4];
};

template <u32 STRIPS, u32 COLUMNS> DEVICE void clear(Sums<STRIPS, COLUMNS>& sums) {
    UNROLL
    for (u32 s = 0; s < STRIPS; ++s) {
        UNROLL
        for (u32 n = 0; n < COLUMNS / 8; ++n) {
            UNROLL
            for (u32 e = 0; e < 4; ++e) sums.x[s][n][e] = 0.0f;
        }
    }
}

// Sums as the left operand of the next product, rounded to bf16: no lane needs what another holds.
template <u32 STRIPS, u32 COLUMNS> DEVICE Fragments<STRIPS, COLUMNS> rounded(const Sums<STRIPS, COLUMNS>& sums) {
    Fragments<STRIPS, COLUMNS> a;
    UNROLL
    for (u32 k = 0; k < COLUMNS / 16; ++k) {
        UNROLL
        for (u32 s = 0; s < STRIPS; ++s) {
            UNROLL
            for (u32 i = 0; i < 4; ++i) {
                const float(&pair)[4] = sums.x[s][2 * k + i / 2];
                a.x[k][s][i] = pack_bf16(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
            }
        }
    }
    return a;
}

// Columns column .. column+15 of 16 STRIPS rows as A; `at` is the tile's offset of the first row and this lane.
template <u32 WIDTH, u32 STRIPS> DEVICE void load_a(u32 (&a)[STRIPS][4], u32 at, u32 column) {
    UNROLL
    for (u32 s = 0; s < STRIPS; ++s) load_matrix_x4(a[s], lane_chunk<WIDTH>(at, 16 * s, column));
}

// sums += a B^T, 16 deep: B is columns column .. column+15 of the rows from `at` (a tile's and this lane's) on.
template <u32 WIDTH, u32 STRIPS, u32 COLUMNS>
DEVICE void multiply_rows(Sums<STRIPS, COLUMNS>& sums, const u32 (&a)[STRIPS][4], u32 at, u32 column) {
    UNROLL
    for (u32 n = 0; n < COLUMNS; n += 16) {
        u32 b[4];
        load_matrix_x4(b, lane_chunk<WIDTH>(at, n, column));
        UNROLL
        for (u32 s = 0; s < STRIPS; ++s) multiply_pair(sums.x[s][n / 8], sums.x[s][n / 8 + 1], a[s], b);
    }
}

// sums += a B, 16 deep: B is 16 rows from `at` (a tile's and this lane's) on.
template <u32 WIDTH, u32 STRIPS>
DEVICE void multiply_columns(Sums<STRIPS, WIDTH>& sums, const u32 (&a)[STRIPS][4], u32 at, u32 row) {
    UNROLL
    for (u32 n = 0; n < WIDTH; n += 16) {
        u32 b[4];
        load_matrix_x4_transposed(b, lane_chunk<WIDTH>(at, row, n));
        UNROLL
        for (u32 s = 0; s < STRIPS; ++s) multiply_pair(sums.x[s][n / 8], sums.x[s][n / 8 + 1], a[s], b);
    }
}

// The first HELD columns of A in registers; none if HELD is 0.
template <u32 STRIPS, u32 HELD> using Held = Fragments<STRIPS, HELD == 0 ? 16 : HELD>;

// Loads what is held of A, rows from `left` (a tile's offset and this lane's) on.
template <u32 WIDTH, u32 HELD, u32 STRIPS> DEVICE void hold(Held<STRIPS, HELD>& held, u32 left) {
    UNROLL
    for (u32 k = 16; k <= HELD; k += 16) load_a<WIDTH>(held.x[k / 16 - 1], left, k - 16);
}

// sums = A B^T, A rows from `left` on, of which the first HELD columns are held, B rows from `right` on.
template <u32 WIDTH, u32 HELD, u32 STRIPS, u32 COLUMNS>
DEVICE void multiply(Sums<STRIPS, COLUMNS>& sums, const Held<STRIPS, HELD>& held, u32 left, u32 right) {
    clear(sums);
    UNROLL
    for (u32 k = 0; k < WIDTH; k += 16) {
        if (k + 16 <= HELD) {
            multiply_rows<WIDTH>(sums, held.x[k / 16], right, k);
        } else {
            u32 a[STRIPS][4];
            load_a<WIDTH>(a, left, k);
            multiply_rows<WIDTH>(sums, a, right, k);
        }
    }
}

// The same with nothing held.
template <u32 WIDTH, u32 STRIPS, u32 COLUMNS> DEVICE void multiply(Sums<STRIPS, COLUMNS>& sums, u32 left, u32 right) {
    const Held<STRIPS, 0> nothing = {};
    multiply<WIDTH, 0>(sums, nothing, left, right);
}

// sums += A B, B rows from `right` on, one for each column of A.
template <u32 WIDTH, u32 STRIPS, u32 DEPTH>
DEVICE void accumulate(Sums<STRIPS, WIDTH>& sums, const Fragments<STRIPS, DEPTH>& a, u32 right) {
    UNROLL
    for (u32 k = 0; k < DEPTH; k += 16) multiply_columns<WIDTH>(sums, a.x[k / 16], right, k);
}

// Writes sums times `factor` (rows l / 4 and l / 4 + 8 of each strip) to global memory as bf16: `to` is the first row;
// `rows` and `width` are what exists.
template <u32 STRIPS, u32 WIDTH>
DEVICE void store_rows(const Sums<STRIPS, WIDTH>& sums, const float (&factor)[STRIPS][2], bf16* to, u32 stride,
                       u32 rows, u32 width) {
    UNROLL
    for (u32 s = 0; s < STRIPS; ++s) {
        UNROLL
        for (u32 half = 0; half < 2; ++half) {
            const u32 row = 16 * s + 8 * half + lane() / 4;
            bf16* const at = to + (u64)row * stride + lane() % 4 * 2;
            UNROLL
            for (u32 n = 0; n < WIDTH / 8; ++n) {
                if (row < rows && 8 * n + lane() % 4 * 2 < width) {
                    const float(&x)[4] = sums.x[s][n];
                    *(u32*)(at + 8 * n) = pack_bf16(x[2 * half] * factor[s][half], x[2 * half + 1] * factor[s][half]);
                }
            }
        }
    }
}
