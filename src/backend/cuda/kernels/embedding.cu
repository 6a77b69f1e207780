// Rows of a table for tokens, and the gradient of the table.
//
// Floors: `embedding` writes 2 bytes an element of the output and reads as much as the table stores of it;
// `embedding_grad` reads 2 bytes an element of `dout` and reads and writes 8 bytes an element of the rows that occur.
// Beside that, `embedding_grad` looks at the tokens from a row's first occurrence on: 4 bytes a token for every row
// that occurs, out of the first-level cache.

#include "weights.h"

// `out[t] = table[tokens[t]]`, one warp a token.
KERNEL(128, embedding, const u32* tokens, u32 count, Weight table, Shape shape, bf16* out) {
    SHARED(u8, tiles, 4 * Tile<float>::BYTES);
    SHARED(u8, outputs, 4 * Tile<bf16>::BYTES);
    const u32 t = block_x() * 4 + warp();
    const u32 token = t < count ? tokens[t] : 0;
    REQUIRE(token < shape.rows);
    const Tile<bf16> tile = {(bf16*)(outputs + warp() * Tile<bf16>::BYTES)};
    Shape apart = shape;
    apart.dense = 0;
    for (u32 first = 0; first < shape.runs_per_row; first += 32) {
        const u32 in_row = first + lane();
        const bool live = t < count && token < shape.rows && in_row < shape.runs_per_row;
        Run run = run_of(shape, live ? token * shape.runs_per_row + in_row : shape.runs);
        float x[RUN];
        read_runs(table, apart, run, read_tiles(tiles + warp() * Tile<float>::BYTES), x);
        write_row(tile, x);
        run.plain = (u64)t * shape.cols + in_row * RUN;
        flush(tile, out, apart, run);
        sync_warp();
    }
}

// Per row of the table the first token that names it, as the complement of its place; zero if none does.
KERNEL(256, embedding_first, const u32* tokens, u32 count, u32* first, u32 rows) {
    const u32 t = block_x() * 256 + thread();
    REQUIRE(t >= count || tokens[t] < rows);
    if (t < count && tokens[t] < rows) atomic_max(&first[tokens[t]], ~t);
}

// Tokens that one round looks at.
static constexpr u32 ROUND = 2048;

// The places of `token` among tokens from .. from + ROUND, in ascending order; gives their number. `list` has room for
// all, `of_warps` for one number a warp.
DEVICE u32 occurrences(const u32* tokens, u32 count, u32 from, u32 token, u32* list, u32* of_warps) {
    // A thread has eight neighbours.
    const u32 own = from + thread() * 8;
    u32 found = 0;
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        if (own + i < count && tokens[own + i] == token) found |= 1u << i;
    }
    u32 upto = count_ones(found);
    UNROLL
    for (u32 by = 1; by < 32; by *= 2) {
        const u32 before = shuffle_up(upto, by);
        if (lane() >= by) upto += before;
    }
    if (lane() == 31) of_warps[warp()] = upto;
    sync_threads();
    u32 at = upto - count_ones(found), total = 0;
    for (u32 i = 0; i < 8; ++i) {
        if (i < warp()) at += of_warps[i];
        total += of_warps[i];
    }
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        if ((found >> i & 1) != 0) list[at++] = own + i;
    }
    sync_threads();
    return total;
}

// Adds listed rows of dout, in their order, to a row of the gradient.
DEVICE void add_rows(const u32* list, u32 listed, const bf16* dout, float* grad, u32 features) {
    if (features % 8 == 0) {
        for (u32 c = thread() * 8; c < features; c += 8 * 256) {
            float sum[8];
            const Bits16 a = load_16(grad + c), b = load_16(grad + c + 4);
            UNROLL
            for (u32 j = 0; j < 4; ++j) {
                sum[j] = from_bits(a.x[j]);
                sum[4 + j] = from_bits(b.x[j]);
            }
            for (u32 i = 0; i < listed; ++i) {
                const Bits16 d = load_16(dout + (u64)list[i] * features + c);
                UNROLL
                for (u32 j = 0; j < 4; ++j) {
                    sum[2 * j] += low_to_float(d.x[j]);
                    sum[2 * j + 1] += high_to_float(d.x[j]);
                }
            }
            store_16(grad + c, {{bits(sum[0]), bits(sum[1]), bits(sum[2]), bits(sum[3])}});
            store_16(grad + c + 4, {{bits(sum[4]), bits(sum[5]), bits(sum[6]), bits(sum[7])}});
        }
    } else {
        for (u32 c = thread(); c < features; c += 256) {
            float sum = grad[c];
            for (u32 i = 0; i < listed; ++i) sum += to_float(dout[(u64)list[i] * features + c]);
            grad[c] = sum;
        }
    }
}

// `grad[tokens[t]] += dout[t]` in the order of t: the block of a row's first token adds all that name it, so that no
// sum depends on which block came when.
KERNEL(256, embedding_grad, const u32* tokens, u32 count, const u32* first, const bf16* dout, float* grad,
       u32 features) {
    SHARED(u32, list, ROUND);
    SHARED(u32, of_warps, 8);
    const u32 t = block_x();
    const u32 token = tokens[t];
    if (first[token] != ~t) return;
    float* const row = grad + (u64)token * features;
    for (u32 from = t; from < count; from += ROUND) {
        const u32 listed = occurrences(tokens, count, from, token, list, of_warps);
        if (listed > 0) add_rows(list, listed, dout, row, features);
        // The list is written anew only after everyone has read it.
        sync_threads();
    }
}
