// dK and dV of heads that are so wide that both sums of 32 keys do not fit the registers of a warp: of two warps that
// share 32 keys one forms P and sums up dV, the other dP, dS and dK, so that each fragment that is read from shared
// memory still feeds two products. P goes from one to the other as float32: rounded, it would make dS wrong by as much
// as the rounding of dS itself does.
#include "attention_grad.h"

// A block takes 64 keys of one head, two warps 32 of them, and runs over the query heads that share it and over their
// queries: scores are formed transposed, so that probabilities and their gradients become left operands without
// leaving their lane. Both warps run the same products, A B^T then C D: (A, B, C, D) is (K, Q, P, dO) in the one, (V,
// dO, dS, Q) in the other.
//
// Floor: 8 D operations per pair of query and key, one exp2. With 32 keys and 32 queries a warp reads 2 D / 16
// fragments of B, as many as D / 8 of D, and what is not held of A, for D / 2 products; the exchange of P takes as long
// as eight fragments.
template <u32 WIDTH, bool ALIGNED>
DEVICE void grad_of_wide_keys(const bf16* q, const bf16* k, const bf16* v, const bf16* dout, const Row* kept, bf16* dk,
                              bf16* dv, const u32* segment_start, const Attention& a) {
    constexpr u32 STRIPS = 2, THREADS = 128, KEYS = 64, QUERIES = 32;
    constexpr u32 LARGE = KEYS * WIDTH * 2, TILE = QUERIES * WIDTH * 2, STAGES = 2 * LARGE;
    constexpr u32 ROWS = QUERIES * sizeof(Row), STAGE = 2 * TILE + ROWS;
    constexpr u32 EXCHANGE = STAGES + 2 * STAGE, CHUNKS = STRIPS * QUERIES / 8, SHARE = 32 * CHUNKS * 16;
    // What stays in registers of A, as far as the sums leave room.
    constexpr u32 HELD = WIDTH == 96 ? 96 : 48;
    DYNAMIC_SHARED(u8, shared);
    SHARED(KeysTask, tasks, 1);
    static_assert(EXCHANGE + 2 * SHARE + sizeof(KeysTask) <= LEAST_SHARED,
                  "more than a block can have on every device");
    const KeysTask& task = tasks[0];

    const u32 group = a.heads / a.kv_heads;
    const u32 key = block_y() * KEYS, pair = warp() % 2, own_key = key + 16 * STRIPS * pair;
    // Whether this warp forms dK, from what the other one of its keys forms for dV.
    const bool second = uniform(warp() >= 2);
    if (thread() == 0) tasks[0] = task_of_keys<KEYS, QUERIES>(a, segment_start, key);
    sync_threads();
    const u64 kv = key_row(a, task.at.sequence, task.at.head, 0);
    load_tile<WIDTH, KEYS, THREADS, ALIGNED>(0, {k + kv, a.kv_stride, a.queries, a.head_dim}, key);
    load_tile<WIDTH, KEYS, THREADS, ALIGNED>(LARGE, {v + kv, a.kv_stride, a.queries, a.head_dim}, key);
    const auto stage = [&](u32 i) { return STAGES + i % 2 * STAGE; };
    const auto fetch = [&](u32 head, u32 t, u32 i) {
        fetch_queries<WIDTH, QUERIES, THREADS, ALIGNED>(stage(i), q, dout, kept, a, task, head, t);
    };
    fetch(0, task.begin, 0);
    const u32 by_rows = lane_of_rows<WIDTH>(), by_columns = lane_of_columns<WIDTH>();
    const u32 own_a = (second ? LARGE : 0) + 16 * STRIPS * pair * WIDTH * 2 + by_rows;
    // In a stage.
    const u32 b = (second ? TILE : 0) + by_columns, d = (second ? 0 : TILE) + by_rows;
    u8* const exchange = shared + EXCHANGE + pair * SHARE + lane() * 16;
    Sums<STRIPS, WIDTH> sums;
    clear(sums);
    Held<STRIPS, HELD> held;
    wait_async<0>();
    sync_threads();
    hold<WIDTH, HELD>(held, own_a);
    u32 head = 0, t = task.begin;
    NO_UNROLL
    for (u32 i = 0;; ++i) {
        wait_async<0>();
        sync_threads();
        const bool ends = t + 1 == task.end, last = ends && head + 1 == group;
        const u32 next = ends ? task.begin : t + 1;
        head += ends;
        if (!last) fetch(head, next, i + 1);
        const u32 query = t * QUERIES;
        const Row* const rows = (const Row*)(shared + stage(i) + 2 * TILE);
        // Of the queries of this tile that exist.
        const u32 count = min_(QUERIES, a.queries - query);
        const bool sees = uniform(own_key < query + count && rows[0].low < (i32)(own_key + 16 * STRIPS));
        Sums<STRIPS, QUERIES> scores;
        if (sees) {
            multiply<WIDTH, HELD>(scores, held, own_a, stage(i) + b);
            if (!second) {
                if (!uniform(own_key + 16 * STRIPS <= query + 1 && rows[count - 1].low <= (i32)own_key))
                    hide_from_queries(scores, rows, own_key, query);
                UNROLL
                for (u32 n = 0; n < QUERIES / 4; ++n) {
                    const float lse = rows[8 * (n / 2) + lane() % 4 * 2 + n % 2].lse;
                    UNROLL
                    for (u32 j = 0; j < 2 * STRIPS; ++j) {
                        float& x = scores.x[j / 2][n / 2][j % 2 * 2 + n % 2];
                        x = exp2_fast(fma_(x, a.scale_log2, -lse));
                    }
                }
                UNROLL
                for (u32 c = 0; c < CHUNKS; ++c) {
                    const float(&x)[4] = scores.x[c % STRIPS][c / STRIPS];
                    store_16(exchange + c * 512, {{bits(x[0]), bits(x[1]), bits(x[2]), bits(x[3])}});
                }
            }
        }
        sync_threads();
        if (sees) {
            if (second) {
                UNROLL
                for (u32 c = 0; c < CHUNKS; ++c) {
                    float(&x)[4] = scores.x[c % STRIPS][c / STRIPS];
                    const Bits16 p = load_16(exchange + c * 512);
                    const Row* const own = rows + 8 * (c / STRIPS) + lane() % 4 * 2;
                    UNROLL
                    for (u32 e = 0; e < 4; ++e) x[e] = from_bits(p.x[e]) * (x[e] - own[e % 2].delta);
                }
            }
            accumulate<WIDTH>(sums, rounded(scores), stage(i) + d);
        }
        if (last) break;
        t = next;
    }

    const u32 rows = own_key < a.queries ? a.queries - own_key : 0;
    const float scale = second ? a.scale : 1.0f, factor[STRIPS][2] = {{scale, scale}, {scale, scale}};
    bf16* const to = second ? dk : dv;
    store_rows(sums, factor, to + key_row(a, task.at.sequence, task.at.head, own_key), a.kv_stride, rows, a.head_dim);
}

#define ATTENTION_GRAD_KEYS(SUFFIX, WIDTH, ALIGNED)                                                                    \
    KERNEL_RESIDENT(128, 2, attention_grad_keys_##SUFFIX, const bf16* q, const bf16* k, const bf16* v,                 \
                    const bf16* dout, const Row* kept, bf16* dk, bf16* dv, const u32* segment_start, Attention a) {    \
        grad_of_wide_keys<WIDTH, ALIGNED>(q, k, v, dout, kept, dk, dv, segment_start, a);                              \
    }
ATTENTION_GRAD_KEYS(96, 96, true)
ATTENTION_GRAD_KEYS(128, 128, true)
// Heads whose rows are not multiples of 16 bytes.
ATTENTION_GRAD_KEYS(odd, 128, false)
