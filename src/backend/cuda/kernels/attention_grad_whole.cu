// The gradient of causal attention over sequences so short that a head's queries, keys, values and gradients of outputs
// fit the shared memory of one block: in one pass, which reads each of them once and forms P and dS once. What a warp
// forms of dS it leaves in shared memory, where dQ finds what all keys give it: sums still have one order, and no
// float32 copy of a gradient is needed.
#include "attention_grad.h"
#include "rotation.h"

// Keys of a warp, and queries that it takes at a time.
static constexpr u32 BLOCK = 32;
// Warps that the registers of a multiprocessor suffice for: 256 queries.
static constexpr u32 WARPS = 8;

// Which keys, and of dQ which queries, a warp takes: of as many blocks as there are warps. Early keys are seen by most
// queries, late queries see most keys: of 8 warps those that share a scheduler, four apart, take as much as any other
// two.
DEVICE u32 block_of(u32 blocks) { return warp() < 4 ? warp() : blocks + 3 - warp(); }

// Fills a tile with the rows of a matrix, 32 by each warp, with zeros beyond it. The caller commits, waits and
// synchronizes.
template <u32 WIDTH> DEVICE void load_whole(u32 tile, const Matrix& matrix) {
    constexpr u32 CHUNKS = WIDTH / 8, PASS = 32 / CHUNKS;
    DYNAMIC_SHARED(u8, shared);
    // Otherwise addresses would be kept from one call to the next, in registers that the sums need.
    const u32 own = renewed(lane()), row = own / CHUNKS % PASS, chunk = own % CHUNKS, begin = BLOCK * warp();
    const bf16* from = matrix.from + ((begin + row) * matrix.stride + chunk * 8);
    const i32 rows = chunk * 8 < matrix.width ? (i32)(matrix.rows - begin - row) : 0;
    UNROLL
    for (u32 pass = 0; pass < BLOCK; pass += PASS) {
        copy_async_16(shared + tile + begin * WIDTH * 2 + chunk_at<WIDTH>(pass + row, chunk), from, (i32)pass < rows);
        from += PASS * matrix.stride;
    }
}

// Of a triangle of 32x32 tiles of dS, keys by queries: where that of some queries and of keys up to theirs begins.
DEVICE u32 tile_of(u32 queries, u32 keys) { return (queries * (queries + 1) / 2 + keys) * (BLOCK * BLOCK * 2); }

// Whether a query of a block of them sees one of 32 keys; `rows` begins with the block's.
DEVICE bool sees_block(const Row* rows, u32 key) { return uniform(rows[0].low < (i32)(key + BLOCK)); }

// Rounds sums times `scale` to bf16 and turns them back from where a rotary position embedding has turned what they are
// the gradient of: `table` has cosines and sines [positions, WIDTH / 2, 2] from the first row's position on, of which
// `rows` exist. Bit for bit what `rope` does to them when they are stored.
template <u32 STRIPS, u32 WIDTH>
DEVICE void turn_back(Sums<STRIPS, WIDTH>& sums, float scale, const float* table, u32 rows) {
    // As in `load_whole`.
    const u32 own = renewed(lane());
    UNROLL
    for (u32 i = 0; i < 2 * STRIPS; ++i) {
        // A branch keeps the compiler from loading the angles of all rows at once, for which there are no registers.
        if (!uniform(8 * i < rows)) break;
        const float* const angles = table + min_(8 * i + own / 4, rows - 1) * WIDTH + own % 4 * 4;
        UNROLL
        for (u32 n = 0; n < WIDTH / 16; ++n) {
            const Bits16 angle = load_16(angles + 16 * n);
            UNROLL
            for (u32 e = 0; e < 2; ++e) {
                float& low = sums.x[i / 2][n][i % 2 * 2 + e];
                float& high = sums.x[i / 2][n + WIDTH / 16][i % 2 * 2 + e];
                low = to_float(to_bf16(low * scale));
                high = to_float(to_bf16(high * scale));
                turn(low, high, from_bits(angle.x[2 * e]), -from_bits(angle.x[2 * e + 1]));
            }
        }
    }
}

// A block takes one head of keys, a warp 32 of them and as many queries, and runs over the query heads that share it. A
// head in two steps: warps that own keys run over their queries, as in `grad_of_keys`, and then warps that own queries
// over what was left of dS. `table` is null, or that by which queries and keys were rotated: dQ and dK are turned back.
//
// Floor: 10 D operations per pair of query and key, one exp2; 16 D bytes of device memory per query and key.
template <u32 WIDTH>
DEVICE void grad_of_whole_heads(const bf16* q, const bf16* k, const bf16* v, const bf16* out, const float* lse,
                                const bf16* dout, bf16* dq, bf16* dk, bf16* dv, const float* table,
                                const u32* segment_start, const Attention& a) {
    constexpr u32 STRIPS = BLOCK / 16;
    DYNAMIC_SHARED(u8, shared);
    const u32 blocks = ceil_div(a.queries, BLOCK), tokens = blocks * BLOCK, size = tokens * WIDTH * 2;
    // Behind keys, values, queries and gradients of outputs; and where outputs are first.
    const u32 differences = 4 * size;
    Row* const rows = (Row*)(shared + differences + max_(size, tile_of(blocks, 0)));
    REQUIRE(threads() == tokens && blocks <= WARPS);

    const u32 group = a.heads / a.kv_heads, own = block_of(blocks), own_key = own * BLOCK;
    const Place at = place(a.kv_heads);
    const u64 keys = key_row(a, at.sequence, at.head, 0);
    load_whole<WIDTH>(0, {k + keys, a.kv_stride, a.queries, a.head_dim});
    load_whole<WIDTH>(size, {v + keys, a.kv_stride, a.queries, a.head_dim});
    const auto fetch = [&](u32 head) {
        const u64 from = query_row(a, at.sequence, at.head * group + head, 0);
        load_whole<WIDTH>(2 * size, {q + from, a.stride, a.queries, a.head_dim});
        load_whole<WIDTH>(3 * size, {dout + from, a.stride, a.queries, a.head_dim});
        commit_async();
    };
    fetch(0);
    const u32 by_rows = lane_of_rows<WIDTH>(), by_columns = lane_of_columns<WIDTH>();
    const u32 own_k = own_key * WIDTH * 2 + by_rows, own_v = own_k + size;
    Sums<STRIPS, WIDTH> dk_sums, dv_sums;
    clear(dk_sums);
    clear(dv_sums);
    NO_UNROLL
    for (u32 head = 0; head < group; ++head) {
        const u64 outputs = query_row(a, at.sequence, at.head * group + head, 0);
        load_whole<WIDTH>(differences, {out + outputs, a.stride, a.queries, a.head_dim});
        commit_async();
        Row row = {0.0f, 0.0f, 0, 0};
        if (thread() < a.queries)
            row = {lse[row_sum(a, at.sequence, at.head * group + head, thread())] * LOG2_E, 0.0f,
                   seen_by(a, segment_start, at.sequence, thread()).from, 0};
        rows[thread()] = row;
        wait_async<0>();
        sync_threads();
        // Four lanes share a row.
        NO_UNROLL
        for (u32 query = thread() / 4; query < tokens; query += tokens / 4) {
            float delta = 0.0f;
            UNROLL
            for (u32 c = 0; c < WIDTH / 32; ++c) {
                const u32 chunk = chunk_at<WIDTH>(query, 4 * c + lane() % 4);
                const Bits16 x = load_16(shared + differences + chunk), y = load_16(shared + 3 * size + chunk);
                UNROLL
                for (u32 i = 0; i < 4; ++i) {
                    delta = fma_(low_to_float(x.x[i]), low_to_float(y.x[i]), delta);
                    delta = fma_(high_to_float(x.x[i]), high_to_float(y.x[i]), delta);
                }
            }
            delta = quad_sum(delta);
            if (lane() % 4 == 0) rows[query].delta = delta;
        }
        sync_threads();

        NO_UNROLL
        for (u32 block = own; block < blocks; ++block) {
            const u32 query = block * BLOCK, tile = 2 * size + query * WIDTH * 2;
            const Row* const seers = rows + query;
            if (!sees_block(seers, own_key)) continue;
            Sums<STRIPS, BLOCK> p, ds;
            multiply<WIDTH>(p, own_k, tile + by_columns);
            if (!uniform(own_key + BLOCK <= query + 1 && seers[min_(BLOCK, a.queries - query) - 1].low <= (i32)own_key))
                hide_from_queries(p, seers, own_key, query);
            multiply<WIDTH>(ds, own_v, tile + size + by_columns);
            through_softmax(p, ds, seers, a.scale_log2);
            accumulate<WIDTH>(dv_sums, rounded(p), tile + size + by_rows);
            const auto left = rounded(ds);
            accumulate<WIDTH>(dk_sums, left, tile + by_rows);
            u8* const to = shared + differences + tile_of(block, own) + lane() % 4 * 4;
            UNROLL
            for (u32 i = 0; i < 4 * STRIPS * BLOCK / 16; ++i) {
                const u32 column = i / 4 / STRIPS, strip = i / 4 % STRIPS, row = 16 * strip + i % 2 * 8;
                *(u32*)(to + chunk_at<BLOCK>(lane() / 4, 2 * column + i % 4 / 2) + row * BLOCK * 2) =
                    left.x[column][strip][i % 4];
            }
        }
        sync_threads();
        if (head + 1 < group) fetch(head + 1);

        Sums<STRIPS, WIDTH> dq_sums;
        clear(dq_sums);
        NO_UNROLL
        for (u32 block = 0; block <= own; ++block) {
            if (!sees_block(rows + own_key, block * BLOCK)) continue;
            const u32 tile = differences + tile_of(own, block) + lane_of_columns<BLOCK>();
            UNROLL
            for (u32 row = 0; row < BLOCK; row += 16) {
                u32 ds[STRIPS][4];
                UNROLL
                for (u32 s = 0; s < STRIPS; ++s)
                    load_matrix_x4_transposed(ds[s], lane_chunk<BLOCK>(tile, row, 16 * s));
                multiply_columns<WIDTH>(dq_sums, ds, block * BLOCK * WIDTH * 2 + by_rows, row);
            }
        }
        if (table) turn_back(dq_sums, a.scale, table + own_key * WIDTH, a.queries - own_key);
        const float scale = table ? 1.0f : a.scale, factor[STRIPS][2] = {{scale, scale}, {scale, scale}};
        const u64 to = query_row(a, at.sequence, at.head * group + head, own_key);
        store_rows(dq_sums, factor, dq + to, a.stride, a.queries - own_key, a.head_dim);
        // What is left of this head's dS and rows is not read any more.
        sync_threads();
    }

    float factor[STRIPS][2];
    UNROLL
    for (u32 j = 0; j < 2 * STRIPS; ++j) factor[j / 2][j % 2] = 1.0f;
    const u64 to = key_row(a, at.sequence, at.head, own_key);
    store_rows(dv_sums, factor, dv + to, a.kv_stride, a.queries - own_key, a.head_dim);
    UNROLL
    for (u32 j = 0; j < 2 * STRIPS; ++j) factor[j / 2][j % 2] = table ? 1.0f : a.scale;
    if (table) turn_back(dk_sums, a.scale, table + own_key * WIDTH, a.queries - own_key);
    store_rows(dk_sums, factor, dk + to, a.kv_stride, a.queries - own_key, a.head_dim);
}

#define ATTENTION_GRAD_WHOLE(WIDTH)                                                                                    \
    KERNEL(32 * WARPS, attention_grad_whole_##WIDTH, const bf16* q, const bf16* k, const bf16* v, const bf16* out,     \
           const float* lse, const bf16* dout, bf16* dq, bf16* dk, bf16* dv, const float* table,                       \
           const u32* segment_start, Attention a) {                                                                    \
        grad_of_whole_heads<WIDTH>(q, k, v, out, lse, dout, dq, dk, dv, table, segment_start, a);                      \
    }
ATTENTION_GRAD_WHOLE(32)
ATTENTION_GRAD_WHOLE(64)
