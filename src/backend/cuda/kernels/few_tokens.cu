// Products of few tokens with a weight, which is read once and never written: what sampling does.
//
// Floor: the weight's bytes (half a byte and 2 / G an element of INT4). A warp sums one output for all tokens; a lane
// has every 32nd run. Activations come out of the first-level cache, 64 bytes a token for 32 elements of the weight.

#include "weights.h"

// Activations of a lane's run, as floats; zeros beyond the row.
DEVICE void read_activations(const bf16* row, u32 col, u32 cols, float (&x)[RUN]) {
    if (cols % 8 == 0 && col + RUN <= cols) {
        UNROLL
        for (u32 i = 0; i < 4; ++i) {
            const Bits16 p = load_16(row + col + 8 * i);
            UNROLL
            for (u32 j = 0; j < 4; ++j) {
                x[8 * i + 2 * j] = low_to_float(p.x[j]);
                x[8 * i + 2 * j + 1] = high_to_float(p.x[j]);
            }
        }
    } else {
        UNROLL
        for (u32 k = 0; k < RUN; ++k) x[k] = col + k < cols ? to_float(row[col + k]) : 0.0f;
    }
}

// `y[t][row] = x[t] . w[row]`, or added to what is there. Output `row` is warp number `row` of the grid.
template <u32 TOKENS>
DEVICE void few(const Weight& w, const Shape& shape, const bf16* x, bf16* y, u32 tokens, bool accumulate, u8* shared) {
    const u32 row = block_x() * 4 + warp();
    float sums[TOKENS] = {};
    // Rows past the end take part in what their warp does together.
    for (u32 first = 0; first < shape.runs_per_row; first += 32) {
        const u32 in_row = first + lane();
        const bool live = row < shape.rows && in_row < shape.runs_per_row;
        Run run = run_of(shape, live ? row * shape.runs_per_row + in_row : shape.runs);
        Shape apart = shape;
        apart.dense = 0;
        float weights[RUN];
        read_runs(w, apart, run, read_tiles(shared), weights);
        UNROLL
        for (u32 k = 0; k < RUN; ++k) weights[k] = k < run.real ? weights[k] : 0.0f;
        UNROLL
        for (u32 t = 0; t < TOKENS; ++t) {
            if (t >= tokens || run.real == 0) continue;
            float activations[RUN];
            read_activations(x + (u64)t * shape.cols, in_row * RUN, shape.cols, activations);
            UNROLL
            for (u32 k = 0; k < RUN; ++k) sums[t] = fma_(activations[k], weights[k], sums[t]);
        }
    }
    UNROLL
    for (u32 t = 0; t < TOKENS; ++t) {
        const float sum = warp_sum(sums[t]);
        if (t < tokens && row < shape.rows && lane() == 0) {
            bf16* const to = y + (u64)t * shape.rows + row;
            *to = to_bf16(accumulate ? to_float(*to) + sum : sum);
        }
    }
}

// Up to eight tokens.
KERNEL_RESIDENT(128, 3, few_tokens, Weight w, Shape shape, const bf16* x, bf16* y, u32 tokens, u32 accumulate) {
    SHARED(u8, tiles, 4 * Tile<float>::BYTES);
    u8* const own = tiles + warp() * Tile<float>::BYTES;
    if (tokens == 1) {
        few<1>(w, shape, x, y, tokens, accumulate != 0, own);
    } else if (tokens <= 4) {
        few<4>(w, shape, x, y, tokens, accumulate != 0, own);
    } else {
        few<8>(w, shape, x, y, tokens, accumulate != 0, own);
    }
}
