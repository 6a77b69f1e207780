// Attention of few queries to many keys, as sampling needs it: the keys are divided among blocks, whose parts are put
// together by a second kernel.
#include "attention.h"

// Rows are the queries of all heads that share a head of keys, in the order of the queries: sixteen to a block.
struct Rows {
    u32 kv_head;
    u32 first;
    u32 count;
};

// The query and the head of a row.
DEVICE u32 query_of(const Attention& a, const Rows& rows, u32 row) {
    return (rows.first + min_(row, rows.count - 1)) / (a.heads / a.kv_heads);
}
DEVICE u32 head_of(const Attention& a, const Rows& rows, u32 row) {
    const u32 group = a.heads / a.kv_heads;
    return rows.kv_head * group + (rows.first + min_(row, rows.count - 1)) % group;
}

// A part of a row's result beside its sums: the highest score, unscaled, and the sum of the numerators relative to it.
struct Part {
    float highest;
    float total;
};

// What brings a part's sums to another reference.
DEVICE float weight(const Part& part, float highest, float scale) {
    // Where nothing was seen at all, any finite reference makes the weights zero.
    const float reference = bits(highest) == (INFINITY_BITS | 1u << 31) ? 0.0f : highest;
    return exp2_fast((part.highest - reference) * scale);
}

// A block takes 16 rows and `chunk` keys (a multiple of 64), a warp 16 of each 64 keys. `part_sums` [chunks, B H S, D]
// and `parts` [chunks, B H S] receive the parts; where one chunk is all they are null.
//
// Floor: the bytes of keys and values, each read once for the heads that share it.
template <u32 WIDTH, bool ALIGNED>
DEVICE void decode(const bf16* q, const bf16* k, const bf16* v, bf16* out, float* lse, const u32* segment_start,
                        float* part_sums, Part* parts, u32 chunk, const Attention& a) {
    constexpr u32 THREADS = 128, WARPS = THREADS / 32, ROWS = 16, KEYS = 64;
    constexpr u32 STAGES = ROWS * WIDTH * 2, TILE = KEYS * WIDTH * 2;
    DYNAMIC_SHARED(u8, shared);
    SHARED(Seen, seen, ROWS);
    SHARED(float, totals, 2 * THREADS);
    SHARED(Part, of_warps, WARPS * ROWS);
    static_assert(STAGES + 4 * TILE + sizeof(Seen) * ROWS + 8 * THREADS + sizeof(Part) * WARPS * ROWS <= LEAST_SHARED,
                  "more than a block can have on every device");

    const u32 group = a.heads / a.kv_heads, sequence = block_x() / a.kv_heads;
    const Rows rows = {block_x() % a.kv_heads, block_y() * ROWS, min_(ROWS, a.queries * group - block_y() * ROWS)};
    if (thread() < ROWS) seen[thread()] = seen_by(a, segment_start, sequence, query_of(a, rows, thread()));
    UNROLL
    for (u32 at = thread(); at < ROWS * WIDTH / 2; at += THREADS) {
        const u32 row = at / (WIDTH / 2), column = at % (WIDTH / 2) * 2;
        const bf16* const from = q + query_row(a, sequence, head_of(a, rows, row), query_of(a, rows, row)) + column;
        const bool inside = row < rows.count && column < a.head_dim;
        *(u32*)(shared + chunk_at<WIDTH>(row, column / 8) + column % 8 * 2) = inside ? *(const u32*)from : 0;
    }
    sync_threads();

    const Seen head = seen[0], tail = seen[ROWS - 1];
    const Sight sight = {{head.from, tail.to}, {tail.from, head.to}};
    // Tiles of this chunk that are seen, which may be none.
    const u32 begin = max_(block_z() * chunk, (u32)head.from) / KEYS;
    const u32 end = ceil_div(min_(block_z() * chunk + chunk, (u32)tail.to + 1), KEYS);
    const u64 from = key_row(a, sequence, rows.kv_head, 0);
    const Matrix k_rows = {k + from, a.kv_stride, a.start + a.queries, a.head_dim};
    const Matrix v_rows = {v + from, a.kv_stride, a.start + a.queries, a.head_dim};
    const auto stage = [&](u32 t) { return STAGES + t % 2 * 2 * TILE; };
    const auto fetch = [&](u32 t) {
        load_tile<WIDTH, KEYS, THREADS, ALIGNED>(stage(t), k_rows, t * KEYS);
        load_tile<WIDTH, KEYS, THREADS, ALIGNED>(stage(t) + TILE, v_rows, t * KEYS);
        commit_async();
    };
    const u32 by_rows = lane_of_rows<WIDTH>(), by_columns = lane_of_columns<WIDTH>();
    const u32 own = 16 * warp(), own_tile = own * WIDTH * 2;
    Sums<1, WIDTH> sums;
    clear(sums);
    auto soft = softmax_begin<1>(totals + thread(), THREADS);
    if (begin < end) fetch(begin);
    NO_UNROLL
    for (u32 t = begin; t < end; ++t) {
        wait_async<0>();
        sync_threads();
        if (t + 1 < end) fetch(t + 1);
        const u32 key = t * KEYS + own;
        if (!sees_any(sight, key, 16)) continue;
        Sums<1, 16> scores;
        multiply<WIDTH>(scores, by_rows, stage(t) + own_tile + by_columns);
        if (!sees_all(sight, key, 16)) hide(scores, key, [&](u32 i) { return seen[i]; });
        softmax_step(soft, scores, sums, a.scale_log2);
        accumulate<WIDTH>(sums, rounded(scores), stage(t) + TILE + own_tile + by_rows);
    }

    // The warps' parts meet where the tiles were.
    sync_threads();
    float* const sums_of_warps = (float*)(shared + STAGES);
    UNROLL
    for (u32 half = 0; half < 2; ++half) {
        const u32 row = 8 * half + lane() / 4;
        const float total = quad_sum(totals[half * THREADS + thread()]);
        if (lane() % 4 == 0) of_warps[warp() * ROWS + row] = {soft.highest[0][half], total};
        UNROLL
        for (u32 n = 0; n < WIDTH / 8; ++n) {
            float* const to = sums_of_warps + (warp() * ROWS + row) * WIDTH + 8 * n + lane() % 4 * 2;
            to[0] = sums.x[0][n][2 * half];
            to[1] = sums.x[0][n][2 * half + 1];
        }
    }
    sync_threads();
    const u64 all = (u64)a.batch * a.heads * a.queries;
    UNROLL
    for (u32 at = thread(); at < ROWS * WIDTH / 2; at += THREADS) {
        const u32 row = at / (WIDTH / 2), column = at % (WIDTH / 2) * 2;
        const u32 query = query_of(a, rows, row), query_head = head_of(a, rows, row);
        const u64 own_sum = row_sum(a, sequence, query_head, query);
        Part joined = {-from_bits(INFINITY_BITS), 0.0f};
        UNROLL
        for (u32 w = 0; w < WARPS; ++w) joined.highest = fmax_(joined.highest, of_warps[w * ROWS + row].highest);
        float left = 0.0f, right = 0.0f;
        UNROLL
        for (u32 w = 0; w < WARPS; ++w) {
            const Part part = of_warps[w * ROWS + row];
            const float factor = weight(part, joined.highest, a.scale_log2);
            const float* const from = sums_of_warps + (w * ROWS + row) * WIDTH + column;
            joined.total = fma_(part.total, factor, joined.total);
            left = fma_(from[0], factor, left);
            right = fma_(from[1], factor, right);
        }
        if (row >= rows.count || column >= a.head_dim) continue;
        if (parts) {
            float* const to = part_sums + (block_z() * all + own_sum) * a.head_dim + column;
            to[0] = left;
            to[1] = right;
            if (column == 0) parts[block_z() * all + own_sum] = joined;
        } else {
            const float inverse = 1.0f / joined.total;
            bf16* const to = out + query_row(a, sequence, query_head, query) + column;
            *(u32*)to = pack_bf16(left * inverse, right * inverse);
            if (column == 0) lse[own_sum] = log_sum(joined.highest, joined.total, a.scale);
        }
    }
}

// Puts `chunks` parts together, a row to a warp.
DEVICE void join_parts(const float* part_sums, const Part* parts, u32 chunks, bf16* out, float* lse,
                       const Attention& a) {
    const u64 all = (u64)a.batch * a.heads * a.queries, own_sum = (u64)block_x() * (threads() / 32) + warp();
    if (own_sum >= all) return;
    const u32 query = own_sum % a.queries, head = own_sum / a.queries % a.heads;
    const u32 sequence = own_sum / a.queries / a.heads;
    Part joined = {-from_bits(INFINITY_BITS), 0.0f};
    for (u32 c = 0; c < chunks; ++c) joined.highest = fmax_(joined.highest, parts[c * all + own_sum].highest);
    for (u32 c = 0; c < chunks; ++c) {
        const Part part = parts[c * all + own_sum];
        joined.total = fma_(part.total, weight(part, joined.highest, a.scale_log2), joined.total);
    }
    const float inverse = 1.0f / joined.total;
    for (u32 column = 2 * lane(); column < a.head_dim; column += 64) {
        float left = 0.0f, right = 0.0f;
        for (u32 c = 0; c < chunks; ++c) {
            const float factor = weight(parts[c * all + own_sum], joined.highest, a.scale_log2);
            const float* const from = part_sums + (c * all + own_sum) * a.head_dim + column;
            left = fma_(from[0], factor, left);
            right = fma_(from[1], factor, right);
        }
        *(u32*)(out + query_row(a, sequence, head, query) + column) = pack_bf16(left * inverse, right * inverse);
    }
    if (lane() == 0) lse[own_sum] = log_sum(joined.highest, joined.total, a.scale);
}

#define DECODE(SUFFIX, WIDTH, ALIGNED)                                                                                 \
    KERNEL_RESIDENT(128, 2, attention_decode_##SUFFIX, const bf16* q, const bf16* k, const bf16* v, bf16* out,         \
                    float* lse, const u32* segment_start, float* part_sums, Part* parts, u32 chunk, Attention a) {     \
        decode<WIDTH, ALIGNED>(q, k, v, out, lse, segment_start, part_sums, parts, chunk, a);                          \
    }
DECODE(32, 32, true)
DECODE(64, 64, true)
DECODE(96, 96, true)
DECODE(128, 128, true)
// Heads whose rows are not multiples of 16 bytes.
DECODE(odd, 128, false)

KERNEL(128, attention_decode_join, const float* part_sums, const Part* parts, u32 chunks, bf16* out, float* lse,
       Attention a) {
    join_parts(part_sums, parts, chunks, out, lse, a);
}
