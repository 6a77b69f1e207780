// Causal grouped-query attention, exact, without the matrix of scores (Dao et al., arXiv 2205.14135 and 2307.08691).
#include "attention.h"

// A block takes 128 queries of one head, a warp 32 of them, and runs over the keys in tiles of 64: the numerators of
// the softmax stay in registers and become the left operand of the product with the values. Two stages of keys and
// values: one is read while the next is on its way.
//
// Floor: 4 D operations per pair of query and key on the tensor cores; one exp2 and about five float32 operations
// beside them. With 32 rows to a warp every fragment of keys or values read from shared memory feeds two products; with
// 16 rows those reads would take longer than the products.
// Bytes: a tile of keys and values (256 D) serves 32768 D operations, 128 operations per byte out of the device's
// cache.
template <u32 WIDTH, bool ALIGNED>
DEVICE void attention_tiles(const bf16* q, const bf16* k, const bf16* v, bf16* out, float* lse,
                            const u32* segment_start, const Attention& a) {
    constexpr u32 THREADS = 128, QUERIES = 128, KEYS = ALIGNED ? 64 : 32, STRIPS = 2;
    // Queries stay in registers as far as these suffice.
    constexpr u32 HELD = WIDTH <= 64 ? WIDTH : WIDTH == 96 ? 48 : 0;
    constexpr u32 Q_TILE = 0, STAGES = QUERIES * WIDTH * 2, TILE = KEYS * WIDTH * 2;
    // What is asked once a tile; in shared memory since every register is taken.
    struct Task {
        Place at;
        Sight sight;
        u32 end;
        u64 keys;
    };
    SHARED(Task, tasks, THREADS / 32);
    SHARED(i32, first_seen, QUERIES);
    SHARED(float, totals, 2 * STRIPS * THREADS);
    static_assert(STAGES + 4 * TILE + sizeof(Task) * THREADS / 32 + 4 * QUERIES + 8 * STRIPS * THREADS <= LEAST_SHARED,
                  "more than a block can have on every device");

    const Place at = place(a.heads);
    const u32 query = (grid_y() - 1 - at.tile) * QUERIES, row = 32 * warp();
    const Sight block = sight_of(a, segment_start, at.sequence, query, QUERIES);
    const u32 begin = block.any.from / KEYS;
    const Task& task = tasks[warp()];
    if (lane() == 0)
        tasks[warp()] = {at, sight_of(a, segment_start, at.sequence, query + row, 16 * STRIPS), block.any.to / KEYS + 1,
                         key_row(a, at.sequence, at.head / (a.heads / a.kv_heads), 0)};
    sync_threads();

    const u32 keys = a.start + a.queries;
    const auto stage = [&](u32 t) { return STAGES + t % 2 * 2 * TILE; };
    const auto fetch = [&](u32 t) {
        load_tile<WIDTH, KEYS, THREADS, ALIGNED>(stage(t), {k + task.keys, a.kv_stride, keys, a.head_dim}, t * KEYS);
        load_tile<WIDTH, KEYS, THREADS, ALIGNED>(stage(t) + TILE, {v + task.keys, a.kv_stride, keys, a.head_dim},
                                                 t * KEYS);
        commit_async();
    };
    load_tile<WIDTH, QUERIES, THREADS, ALIGNED>(
        Q_TILE, {q + query_row(a, at.sequence, at.head, 0), a.stride, a.queries, a.head_dim}, query);
    first_seen[thread()] = seen_by(a, segment_start, at.sequence, query + thread()).from;
    fetch(begin);
    const u32 by_rows = lane_of_rows<WIDTH>(), by_columns = lane_of_columns<WIDTH>();
    const u32 own = Q_TILE + row * WIDTH * 2 + by_rows;
    Held<STRIPS, HELD> held;
    if constexpr (HELD > 0) {
        wait_async<0>();
        sync_threads();
        hold<WIDTH, HELD>(held, own);
    }

    Sums<STRIPS, WIDTH> sums;
    clear(sums);
    auto soft = softmax_begin<STRIPS>(totals + thread(), THREADS);
    NO_UNROLL
    for (u32 t = begin;; ++t) {
        wait_async<0>();
        sync_threads();
        const bool last = t + 1 == task.end;
        if (!last) fetch(t + 1);
        if (sees_any(task.sight, t * KEYS, KEYS)) {
            Sums<STRIPS, KEYS> scores;
            multiply<WIDTH, HELD>(scores, held, own, stage(t) + by_columns);
            if (!sees_all(task.sight, t * KEYS, KEYS))
                hide(scores, t * KEYS, [&](u32 i) { return Seen{first_seen[row + i], task.sight.all.to + (i32)i}; });
            softmax_step(soft, scores, sums, a.scale_log2);
            accumulate<WIDTH>(sums, rounded(scores), stage(t) + TILE + by_rows);
        }
        if (last) break;
    }

    const u32 rows = query + row < a.queries ? a.queries - query - row : 0;
    float factor[STRIPS][2];
    UNROLL
    for (u32 s = 0; s < STRIPS; ++s) {
        UNROLL
        for (u32 half = 0; half < 2; ++half) {
            const float total = quad_sum(soft.total[(2 * s + half) * soft.apart]);
            factor[s][half] = 1.0f / total;
            const u32 i = 16 * s + 8 * half + lane() / 4;
            if (i < rows && lane() % 4 == 0)
                lse[row_sum(a, task.at.sequence, task.at.head, query + row + i)] =
                    log_sum(soft.highest[s][half], total, a.scale);
        }
    }
    bf16* const to = out + query_row(a, task.at.sequence, task.at.head, query + row);
    store_rows(sums, factor, to, a.stride, rows, a.head_dim);
}

#define ATTENTION(NAME, WIDTH, ALIGNED)                                                                                \
    KERNEL_RESIDENT(128, 2, NAME, const bf16* q, const bf16* k, const bf16* v, bf16* out, float* lse,                  \
                    const u32* segment_start, Attention a) {                                                           \
        attention_tiles<WIDTH, ALIGNED>(q, k, v, out, lse, segment_start, a);                                          \
    }
ATTENTION(attention_32, 32, true)
ATTENTION(attention_64, 64, true)
ATTENTION(attention_96, 96, true)
ATTENTION(attention_128, 128, true)
// Heads whose rows are not multiples of 16 bytes.
ATTENTION(attention_odd, 128, false)
