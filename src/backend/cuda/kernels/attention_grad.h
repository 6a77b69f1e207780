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

// What a block works on that takes `KEYS` keys of a head and runs over the queries in tiles of `QUERIES`: one in shared
// memory, since it is asked once a tile and every register is taken.
struct KeysTask {
    Place at;
    u32 begin;
    u32 end;
};

// Of the block whose first key is `key`.
template <u32 KEYS, u32 QUERIES>
DEVICE KeysTask task_of_keys(const Attention& a, const u32* segment_start, u32 key) {
    const Place at = place(a.kv_heads);
    const u32* const lows = segment_start ? segment_start + (u64)at.sequence * a.queries : nullptr;
    const u32 last = min_(key + KEYS, a.queries) - 1, end = lows ? first_beyond(lows, a.queries, last) : a.queries;
    // The queries of the first tile see these keys, whatever the starts of segments say: the loop over them has an end.
    return {at, key / QUERIES, max_(ceil_div(end, QUERIES), key / QUERIES + 1)};
}

// Begins to copy tile `t` of the queries of the head `head` of those that share the task's keys, the gradients of their
// outputs and their rows, one behind the other.
template <u32 WIDTH, u32 QUERIES, u32 THREADS, bool ALIGNED>
DEVICE void fetch_queries(u32 to, const bf16* q, const bf16* dout, const Row* kept, const Attention& a,
                          const KeysTask& task, u32 head, u32 t) {
    constexpr u32 TILE = QUERIES * WIDTH * 2;
    DYNAMIC_SHARED(u8, shared);
    const u32 all = task.at.head * (a.heads / a.kv_heads) + head;
    const u64 from = query_row(a, task.at.sequence, all, 0);
    load_tile<WIDTH, QUERIES, THREADS, ALIGNED>(to, {q + from, a.stride, a.queries, a.head_dim}, t * QUERIES);
    load_tile<WIDTH, QUERIES, THREADS, ALIGNED>(to + TILE, {dout + from, a.stride, a.queries, a.head_dim}, t * QUERIES);
    const u32 own = t * QUERIES + thread();
    if (thread() < QUERIES)
        copy_async_16(shared + to + 2 * TILE + thread() * sizeof(Row),
                      kept + row_sum(a, task.at.sequence, all, min_(own, a.queries - 1)), own < a.queries);
    commit_async();
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
