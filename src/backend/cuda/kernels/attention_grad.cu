// The gradient of causal attention in two passes, each of which owns what it writes: no sums meet between blocks, so
// the result is the same bits every time, and no float32 copy of a gradient is needed. The price against a single pass
// is two products of seven.
#include "attention_grad.h"

// One row of O times the same row of dO: this lane's share, two columns of each eight.
template <u32 WIDTH> DEVICE float row_product(const bf16* out, const bf16* dout, u32 width) {
    float sum = 0.0f;
    UNROLL
    for (u32 n = 0; n < WIDTH; n += 8) {
        const u32 column = n + lane() % 4 * 2;
        const bool inside = column < width;
        const u32 x = inside ? *(const u32*)(out + column) : 0, y = inside ? *(const u32*)(dout + column) : 0;
        sum = fma_(low_to_float(x), low_to_float(y), sum);
        sum = fma_(high_to_float(x), high_to_float(y), sum);
    }
    return sum;
}

// dQ, and D for the second pass. A block takes 128 queries of one head, a warp 32 of them, and runs over the keys.
// D is taken from the output if it is given as attention left it, otherwise from a pass of its own over the keys; then
// `other`, if it is not null, has the share of other keys, and receives the whole.
//
// Floor: 6 D operations per pair of query and key (10 D without the output), one exp2 (two without).
template <u32 WIDTH, bool ALIGNED>
DEVICE void grad_of_queries(const bf16* q, const bf16* k, const bf16* v, const bf16* out, const float* lse,
                            const bf16* dout, bf16* dq, Row* kept, float* other, const u32* segment_start,
                            const Attention& a) {
    constexpr u32 THREADS = 128, QUERIES = 128, KEYS = WIDTH <= 64 ? 64 : 32, STEP = 32, STRIPS = 2;
    // Queries stay in registers as far as these suffice.
    constexpr u32 HELD = WIDTH <= 64 ? WIDTH : WIDTH == 96 ? 48 : 32;
    constexpr u32 LARGE = QUERIES * WIDTH * 2, TILE = KEYS * WIDTH * 2, STAGES = 2 * LARGE;
    // What is asked once a tile; in shared memory since every register is taken.
    struct Task {
        Place at;
        Sight sight;
        u32 begin;
        u32 end;
        u64 keys;
    };
    SHARED(Task, tasks, THREADS / 32);
    SHARED(i32, first_seen, QUERIES);
    SHARED(float, lses, QUERIES);
    // While it is being summed up, not all of it.
    SHARED(float, deltas, QUERIES);
    static_assert(STAGES + 4 * TILE + sizeof(Task) * THREADS / 32 + 3 * 4 * QUERIES <= LEAST_SHARED,
                  "more than a block can have on every device");

    const u32 keys = a.start + a.queries;
    const u32 query = (grid_y() - 1 - block_y()) * QUERIES, row = 32 * warp();
    const Task& task = tasks[warp()];
    {
        const Place at = place(a.heads);
        const Sight block = sight_of(a, segment_start, at.sequence, query, QUERIES);
        const Sight sight = sight_of(a, segment_start, at.sequence, query + row, 16 * STRIPS);
        if (lane() == 0)
            tasks[warp()] = {at, sight, block.any.from / KEYS, block.any.to / KEYS + 1,
                             key_row(a, at.sequence, at.head / (a.heads / a.kv_heads), 0)};
        first_seen[thread()] = seen_by(a, segment_start, at.sequence, query + thread()).from;
        const u32 own = min_(query + thread(), a.queries - 1);
        lses[thread()] = lse[row_sum(a, at.sequence, at.head, own)] * LOG2_E;
        const u64 queries = query_row(a, at.sequence, at.head, 0);
        load_tile<WIDTH, QUERIES, THREADS, ALIGNED>(0, {q + queries, a.stride, a.queries, a.head_dim}, query);
        load_tile<WIDTH, QUERIES, THREADS, ALIGNED>(LARGE, {dout + queries, a.stride, a.queries, a.head_dim}, query);
        NO_UNROLL
        for (u32 i = 0; i < 2 * STRIPS; ++i) {
            const u64 from = queries + (u64)min_(query + row + 8 * i + lane() / 4, a.queries - 1) * a.stride;
            const float delta = quad_sum(out ? row_product<WIDTH>(out + from, dout + from, a.head_dim) : 0.0f);
            if (lane() % 4 == 0) {
                const u32 own = row + 8 * i + lane() / 4;
                const bool adds = other && query + own < a.queries;
                deltas[own] = adds ? delta + other[row_sum(a, at.sequence, at.head, query + own)] : delta;
            }
        }
    }
    sync_threads();

    const auto stage = [&](u32 i) { return STAGES + i % 2 * 2 * TILE; };
    const auto fetch = [&](u32 t, u32 i) {
        load_tile<WIDTH, KEYS, THREADS, ALIGNED>(stage(i), {k + task.keys, a.kv_stride, keys, a.head_dim}, t * KEYS);
        load_tile<WIDTH, KEYS, THREADS, ALIGNED>(stage(i) + TILE, {v + task.keys, a.kv_stride, keys, a.head_dim},
                                                 t * KEYS);
        commit_async();
    };
    fetch(task.begin, 0);
    const u32 by_rows = lane_of_rows<WIDTH>(), by_columns = lane_of_columns<WIDTH>();
    const u32 own_q = row * WIDTH * 2 + by_rows, own_dout = own_q + LARGE;
    Held<STRIPS, HELD> held;
    if constexpr (HELD > 0) {
        wait_async<0>();
        sync_threads();
        hold<WIDTH, HELD>(held, own_q);
    }
    Sums<STRIPS, WIDTH> sums;
    clear(sums);
    bool summing = !out;
    u32 t = task.begin;
    NO_UNROLL
    for (u32 i = 0;; ++i) {
        wait_async<0>();
        sync_threads();
        const bool ends = t + 1 == task.end, last = ends && !summing;
        const u32 next = ends ? task.begin : t + 1;
        if (!last) fetch(next, i + 1);
        NO_UNROLL
        for (u32 step = 0; step < KEYS; step += STEP) {
            const u32 key = t * KEYS + step, tile = stage(i) + step * WIDTH * 2;
            if (!sees_any(task.sight, key, STEP)) continue;
            Sums<STRIPS, STEP> p, ds;
            multiply<WIDTH, HELD>(p, held, own_q, tile + by_columns);
            if (!sees_all(task.sight, key, STEP))
                hide(p, key, [&](u32 i) { return Seen{first_seen[row + i], task.sight.all.to + (i32)i}; });
            multiply<WIDTH>(ds, own_dout, tile + TILE + by_columns);
            UNROLL
            for (u32 j = 0; j < 2 * STRIPS; ++j) {
                const u32 at = row + 8 * j + lane() / 4;
                const float log_sum = lses[at], delta = summing ? 0.0f : deltas[at];
                float total = 0.0f;
                UNROLL
                for (u32 n = 0; n < STEP / 4; ++n) {
                    float& x = ds.x[j / 2][n / 2][j % 2 * 2 + n % 2];
                    x = exp2_fast(fma_(p.x[j / 2][n / 2][j % 2 * 2 + n % 2], a.scale_log2, -log_sum)) * (x - delta);
                    total += x;
                }
                if (summing) {
                    total = quad_sum(total);
                    if (lane() % 4 == 0) deltas[at] += total;
                }
            }
            if (!summing) accumulate<WIDTH>(sums, rounded(ds), tile + by_rows);
        }
        if (last) break;
        if (ends) summing = false;
        t = next;
    }

    const Place at = task.at;
    const u32 rows = query + row < a.queries ? a.queries - query - row : 0;
    if (lane() < rows) {
        const u32 own = row + lane();
        const u64 to = row_sum(a, at.sequence, at.head, query + own);
        kept[to] = {lses[own], deltas[own], first_seen[own], 0};
        if (other) other[to] = deltas[own];
    }
    const float factor[STRIPS][2] = {{a.scale, a.scale}, {a.scale, a.scale}};
    store_rows(sums, factor, dq + query_row(a, at.sequence, at.head, query + row), a.stride, rows, a.head_dim);
}

// dK and dV of heads whose two sums of 32 keys fit a warp's registers; attention_grad_wide.cu has wider ones. A block
// takes one head of 128 keys, a warp 32 of them, and runs over the query heads that share it and over their queries:
// scores are formed transposed, so that probabilities and their gradients become left operands without leaving their
// lane.
//
// Floor: 8 D operations per pair of query and key, one exp2.
template <u32 WIDTH>
DEVICE void grad_of_keys(const bf16* q, const bf16* k, const bf16* v, const bf16* dout, const Row* kept, bf16* dk,
                         bf16* dv, const u32* segment_start, const Attention& a) {
    constexpr u32 STRIPS = 2, THREADS = 128, KEYS = 64 * STRIPS, QUERIES = 64, STEP = 32;
    constexpr u32 LARGE = KEYS * WIDTH * 2, TILE = QUERIES * WIDTH * 2, STAGES = 2 * LARGE;
    constexpr u32 ROWS = QUERIES * sizeof(Row), STAGE = 2 * TILE + ROWS;
    DYNAMIC_SHARED(u8, shared);
    SHARED(KeysTask, tasks, 1);
    static_assert(STAGES + 2 * STAGE + sizeof(KeysTask) <= LEAST_SHARED, "more than a block can have on every device");
    const KeysTask& task = tasks[0];

    const u32 group = a.heads / a.kv_heads;
    const u32 key = block_y() * KEYS, own_key = key + 16 * STRIPS * warp();
    if (thread() == 0) tasks[0] = task_of_keys<KEYS, QUERIES>(a, segment_start, key);
    sync_threads();
    const u64 kv = key_row(a, task.at.sequence, task.at.head, 0);
    load_tile<WIDTH, KEYS, THREADS, true>(0, {k + kv, a.kv_stride, a.queries, a.head_dim}, key);
    load_tile<WIDTH, KEYS, THREADS, true>(LARGE, {v + kv, a.kv_stride, a.queries, a.head_dim}, key);
    const auto stage = [&](u32 i) { return STAGES + i % 2 * STAGE; };
    const auto fetch = [&](u32 head, u32 t, u32 i) {
        fetch_queries<WIDTH, QUERIES, THREADS, true>(stage(i), q, dout, kept, a, task, head, t);
    };
    fetch(0, task.begin, 0);
    const u32 by_rows = lane_of_rows<WIDTH>(), by_columns = lane_of_columns<WIDTH>();
    const u32 own_k = 16 * STRIPS * warp() * WIDTH * 2 + by_rows, own_v = own_k + LARGE;
    Sums<STRIPS, WIDTH> dk_sums, dv_sums;
    clear(dk_sums);
    clear(dv_sums);
    u32 head = 0, t = task.begin;
    NO_UNROLL
    for (u32 i = 0;; ++i) {
        wait_async<0>();
        sync_threads();
        const bool ends = t + 1 == task.end, last = ends && head + 1 == group;
        const u32 next = ends ? task.begin : t + 1;
        head += ends;
        if (!last) fetch(head, next, i + 1);
        NO_UNROLL
        for (u32 step = 0; step < QUERIES; step += STEP) {
            const u32 query = t * QUERIES + step, tile = stage(i) + step * WIDTH * 2;
            const Row* const rows = (const Row*)(shared + stage(i) + 2 * TILE) + step;
            // Of the queries of this step that exist.
            const u32 count = min_(STEP, a.queries - query);
            if (query >= a.queries) continue;
            if (!uniform(own_key < query + count && rows[0].low < (i32)(own_key + 16 * STRIPS))) continue;
            Sums<STRIPS, STEP> p, ds;
            multiply<WIDTH>(p, own_k, tile + by_columns);
            if (!uniform(own_key + 16 * STRIPS <= query + 1 && rows[count - 1].low <= (i32)own_key))
                hide_from_queries(p, rows, own_key, query);
            multiply<WIDTH>(ds, own_v, tile + TILE + by_columns);
            through_softmax(p, ds, rows, a.scale_log2);
            accumulate<WIDTH>(dv_sums, rounded(p), tile + TILE + by_rows);
            accumulate<WIDTH>(dk_sums, rounded(ds), tile + by_rows);
        }
        if (last) break;
        t = next;
    }

    const u32 rows = own_key < a.queries ? a.queries - own_key : 0;
    float factor[STRIPS][2];
    UNROLL
    for (u32 j = 0; j < 2 * STRIPS; ++j) factor[j / 2][j % 2] = 1.0f;
    const u64 to = key_row(a, task.at.sequence, task.at.head, own_key);
    store_rows(dv_sums, factor, dv + to, a.kv_stride, rows, a.head_dim);
    UNROLL
    for (u32 j = 0; j < 2 * STRIPS; ++j) factor[j / 2][j % 2] = a.scale;
    store_rows(dk_sums, factor, dk + to, a.kv_stride, rows, a.head_dim);
}

#define ATTENTION_GRAD_QUERIES(SUFFIX, WIDTH, ALIGNED)                                                                 \
    KERNEL_RESIDENT(128, 2, attention_grad_queries_##SUFFIX, const bf16* q, const bf16* k, const bf16* v,              \
                    const bf16* out, const float* lse, const bf16* dout, bf16* dq, Row* kept, float* other,            \
                    const u32* segment_start, Attention a) {                                                           \
        grad_of_queries<WIDTH, ALIGNED>(q, k, v, out, lse, dout, dq, kept, other, segment_start, a);                   \
    }
ATTENTION_GRAD_QUERIES(32, 32, true)
ATTENTION_GRAD_QUERIES(64, 64, true)
ATTENTION_GRAD_QUERIES(96, 96, true)
ATTENTION_GRAD_QUERIES(128, 128, true)
// Heads whose rows are not multiples of 16 bytes.
ATTENTION_GRAD_QUERIES(odd, 128, false)

#define ATTENTION_GRAD_KEYS(SUFFIX, WIDTH)                                                                             \
    KERNEL_RESIDENT(128, 2, attention_grad_keys_##SUFFIX, const bf16* q, const bf16* k, const bf16* v,                 \
                    const bf16* dout, const Row* kept, bf16* dk, bf16* dv, const u32* segment_start, Attention a) {    \
        grad_of_keys<WIDTH>(q, k, v, dout, kept, dk, dv, segment_start, a);                                            \
    }
ATTENTION_GRAD_KEYS(32, 32)
ATTENTION_GRAD_KEYS(64, 64)
