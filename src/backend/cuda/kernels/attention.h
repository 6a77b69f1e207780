// What the passes of attention share: shapes, the order of blocks, and who sees whom.
#pragma once
#include "tiles.h"

// As `Sizes` in attention.rs. Letters as in backend/mod.rs: q and out [B, S, H, D], k and v [B, capacity, K, D].
struct Attention {
    u32 batch;
    u32 queries;
    u32 start;
    u32 capacity;
    u32 heads;
    u32 kv_heads;
    u32 head_dim;
    // Elements from one token to the next, of q and of k; as many tokens as a sequence has span less than 2^31.
    u32 stride;
    u32 kv_stride;
    // 1 / sqrt(D), and the same for exponents of two: exp(x scale) = exp2(x scale_log2).
    float scale;
    float scale_log2;
};
SIZE_ON_HOST(Attention, 44);

// Shared memory that a block can have on every device, static and dynamic: 99 KiB on sm_86, 89 and 120.
static constexpr u32 LEAST_SHARED = 99 * 1024;

CONSTANT float LOG2_E = 1.44269504088896340736f;
CONSTANT float LN_2 = 0.69314718055994530942f;
CONSTANT u32 INFINITY_BITS = 0x7f800000u;

// A row of q, out or their gradients.
DEVICE u64 query_row(const Attention& a, u32 sequence, u32 head, u32 query) {
    return ((u64)sequence * a.queries + query) * a.stride + head * a.head_dim;
}

// A row of k or v.
DEVICE u64 key_row(const Attention& a, u32 sequence, u32 kv_head, u32 key) {
    return ((u64)sequence * a.capacity + key) * a.kv_stride + kv_head * a.head_dim;
}

// An element of lse [B, H, S].
DEVICE u64 row_sum(const Attention& a, u32 sequence, u32 head, u32 query) {
    return ((u64)sequence * a.heads + head) * a.queries + query;
}

// What a block works on.
struct Place {
    u32 sequence;
    u32 head;
    u32 tile;
};

// Blocks come in waves of heads (of all sequences, z), in a wave tile by tile (y). What the heads of a wave (x) read
// stays in the device's cache while all of their tiles use it, and the tiles that come first are the longest, so that
// what is left at the end is short.
DEVICE Place place(u32 heads) {
    const u32 head = block_z() * grid_x() + block_x();
    return {head / heads, head % heads, block_y()};
}

// The keys that a query sees, the first and the last.
struct Seen {
    i32 from;
    i32 to;
};

// What is computed for a query beyond the sequence is not kept. `segment_start` is null if all keys before a query are
// visible.
DEVICE Seen seen_by(const Attention& a, const u32* segment_start, u32 sequence, u32 query) {
    const u32 own = min_(query, a.queries - 1);
    // Limited, so that no value makes a block read keys that do not exist, or never end.
    const u32 from = segment_start ? min_(segment_start[(u64)sequence * a.queries + own], a.start + own) : 0;
    return {(i32)from, (i32)(a.start + own)};
}

// What a block or a warp must look at; rows are queries in ascending order.
struct Sight {
    // Seen by any row; nothing if no row exists.
    Seen any;
    // Seen by every row.
    Seen all;
};

// `rows` queries from `query` on.
DEVICE Sight sight_of(const Attention& a, const u32* segment_start, u32 sequence, u32 query, u32 rows) {
    if (query >= a.queries) return {{0, -1}, {0, -1}};
    const Seen head = seen_by(a, segment_start, sequence, query);
    const Seen tail = seen_by(a, segment_start, sequence, query + rows - 1);
    return {{head.from, tail.to}, {tail.from, head.to}};
}

// A condition that is the same in all lanes, as the compiler cannot know: its branch needs no care for stragglers.
DEVICE bool uniform(bool condition) { return ballot(condition) != 0; }

// Whether any row sees one of the keys key .. key + keys - 1.
DEVICE bool sees_any(const Sight& sight, i32 key, i32 keys) {
    return uniform(key <= sight.any.to && key + keys > sight.any.from);
}

// Whether every row sees all of them.
DEVICE bool sees_all(const Sight& sight, i32 key, i32 keys) {
    return uniform(key + keys - 1 <= sight.all.to && key >= sight.all.from);
}

// Makes scores of what a row does not see minus infinity; columns are keys from `key` on, `seen_of(row)` is what it
// does see.
template <u32 STRIPS, u32 KEYS, typename F> DEVICE void hide(Sums<STRIPS, KEYS>& scores, i32 key, const F& seen_of) {
    UNROLL
    for (u32 i = 0; i < 2 * STRIPS; ++i) {
        const Seen seen = seen_of(8 * i + lane() / 4);
        // Of this lane's columns 8 n + e, those from `begin` to `end` are seen.
        const i32 own = key + (i32)(lane() % 4 * 2), begin = seen.from - own, end = seen.to - own;
        UNROLL
        for (u32 n = 0; n < KEYS / 4; ++n) {
            const i32 column = 8 * (n / 2) + n % 2;
            if (column < begin || column > end) scores.x[i / 2][n / 2][i % 2 * 2 + n % 2] = -from_bits(INFINITY_BITS);
        }
    }
}

// The sum of what the four lanes of a row hold.
DEVICE float quad_sum(float x) {
    x += shuffle_xor(x, 1);
    return x + shuffle_xor(x, 2);
}

// The logarithm of a sum of exponentials of scores from their sum relative to the highest.
DEVICE float log_sum(float highest, float total, float scale) {
    return fma_(highest, scale, log2_fast(total) * LN_2);
}

// The softmax of scores that come some keys at a time: of one lane, for rows l / 4 and l / 4 + 8 of each strip.
template <u32 STRIPS> struct Softmax {
    // The highest score so far, unscaled.
    float highest[STRIPS][2];
    // The sums of the numerators so far, of this lane's columns only: `apart` numbers apart in shared memory, since
    // heads of 128 leave no register for them.
    float* total;
    u32 apart;
};

template <u32 STRIPS> DEVICE Softmax<STRIPS> softmax_begin(float* total, u32 apart) {
    Softmax<STRIPS> soft;
    soft.total = total;
    soft.apart = apart;
    UNROLL
    for (u32 row = 0; row < 2 * STRIPS; ++row) {
        soft.highest[row / 2][row % 2] = -from_bits(INFINITY_BITS);
        total[row * apart] = 0.0f;
    }
    return soft;
}

// Replaces scores by numerators relative to the highest score so far, and brings the sums to the same reference.
// `scale` is that of the scores, for exponents of two.
template <u32 STRIPS, u32 KEYS, u32 WIDTH>
DEVICE void softmax_step(Softmax<STRIPS>& soft, Sums<STRIPS, KEYS>& scores, Sums<STRIPS, WIDTH>& sums, float scale) {
    UNROLL
    for (u32 s = 0; s < STRIPS; ++s) {
        UNROLL
        for (u32 half = 0; half < 2; ++half) {
            float highest = soft.highest[s][half];
            UNROLL
            for (u32 n = 0; n < KEYS / 8; ++n)
                highest = fmax_(highest, fmax_(scores.x[s][n][2 * half], scores.x[s][n][2 * half + 1]));
            highest = fmax_(highest, shuffle_xor(highest, 1));
            highest = fmax_(highest, shuffle_xor(highest, 2));
            // A row that has seen nothing yet: any finite reference makes its numerators zero.
            const float reference = bits(highest) == (INFINITY_BITS | 1u << 31) ? 0.0f : highest * scale;
            const float decay = exp2_fast(fma_(soft.highest[s][half], scale, -reference));
            soft.highest[s][half] = highest;
            float total = 0.0f;
            UNROLL
            for (u32 n = 0; n < KEYS / 8; ++n) {
                UNROLL
                for (u32 e = 0; e < 2; ++e) {
                    float& x = scores.x[s][n][2 * half + e];
                    x = exp2_fast(fma_(x, scale, -reference));
                    total += x;
                }
            }
            float& kept = soft.total[(2 * s + half) * soft.apart];
            kept = fma_(kept, decay, total);
            UNROLL
            for (u32 n = 0; n < WIDTH / 8; ++n) {
                sums.x[s][n][2 * half] *= decay;
                sums.x[s][n][2 * half + 1] *= decay;
            }
        }
    }
}

