// What the passes of attention's gradient share. With P the probabilities, computed again from the logarithms of their
// sums, and D = sum over keys of P dP: dP = dO V^T, dS = P (dP - D), dV = P^T dO, dK = dS^T Q, dQ = dS K.
#pragma once
#include "attention.h"

// What is to be known of a query beside the keys; between passes in the order of lse, [B, H, S].
struct alignas(16) Row {
    // The logarithm to base 2 of the sum of the numerators.
    float lse;
    // D.
    float delta;
    // The first visible key, where the segment starts.
    i32 low;
    u32 unused;
};
SIZE_ON_HOST(Row, 16);

// The first query that sees none of the keys up to `key`: lows do not decrease.
DEVICE u32 first_beyond(const u32* lows, u32 queries, u32 key) {
    u32 from = 0, to = queries;
    while (from < to) {
        const u32 middle = (from + to) / 2;
        if (lows[middle] <= key) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from;
}

// Makes scores of what a key is not seen by minus infinity: rows are keys from `key` on, columns are queries from
// `query` on, of which `rows` tells more.
template <u32 STRIPS, u32 QUERIES>
DEVICE void hide_from_queries(Sums<STRIPS, QUERIES>& scores, const Row* rows, i32 key, i32 query) {
    UNROLL
    for (u32 n = 0; n < QUERIES / 4; ++n) {
        const u32 column = 8 * (n / 2) + lane() % 4 * 2 + n % 2;
        const Seen seen = {rows[column].low, query + (i32)column};
        UNROLL
        for (u32 i = 0; i < 2 * STRIPS; ++i) {
            const i32 own = key + (i32)(8 * i + lane() / 4);
            if (own < seen.from || own > seen.to) scores.x[i / 2][n / 2][i % 2 * 2 + n % 2] = -from_bits(INFINITY_BITS);
        }
    }
}

// Turns scores into probabilities and `ds`, which holds the gradients of these, into the gradients of scores; rows are
// keys, columns the queries that `rows` begins with.
template <u32 STRIPS, u32 QUERIES>
DEVICE void through_softmax(Sums<STRIPS, QUERIES>& p, Sums<STRIPS, QUERIES>& ds, const Row* rows, float scale_log2) {
    UNROLL
    for (u32 n = 0; n < QUERIES / 4; ++n) {
        const Row own = rows[8 * (n / 2) + lane() % 4 * 2 + n % 2];
        UNROLL
        for (u32 i = 0; i < 2 * STRIPS; ++i) {
            float& x = p.x[i / 2][n / 2][i % 2 * 2 + n % 2];
            float& y = ds.x[i / 2][n / 2][i % 2 * 2 + n % 2];
            x = exp2_fast(fma_(x, scale_log2, -own.lse));
            y = x * (y - own.delta);
        }
    }
}
