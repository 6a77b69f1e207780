// Attention to a prefix (src/backend/ops/prefix.rs): a warp per query of a head, or per key of a prefix, with four
// elements of a head to a lane. A prefix is a few keys long and stays in the cache: what is read and written is rows of
// queries.
// Floors, in bytes of device memory per element of q: forward 6, the gradient 8, and 4 for each eight keys.
#include "adam.h"
#include "rows.h"

// As in src/backend/cuda/ops/prefix.rs.
struct PrefixSizes {
    // Queries of heads: tokens times heads.
    u32 rows;
    u32 queries;
    u32 heads;
    u32 kv_heads;
    u32 head_dim;
    // Keys of the prefix.
    u32 length;
    u32 compensate;
    // 1 / sqrt(D)
    float scale;
};
SIZE_ON_HOST(PrefixSizes, 32);

// What the pass over queries leaves for that over keys: weights are `by` times the softmax over the prefix alone, whose
// logarithm of the sum is `lse`, and their gradients are counted from `base`.
struct alignas(16) PrefixRow {
    float lse;
    float by;
    float base;
    u32 unused;
};
SIZE_ON_HOST(PrefixRow, 16);

constexpr u32 PER_LANE = 4;

// Elements lane, lane + 32, ... of a head.
struct Head {
    float x[PER_LANE];
};

template <typename T> DEVICE Head load_head(const T* from, u32 width) {
    Head head;
    UNROLL
    for (u32 e = 0; e < PER_LANE; ++e) {
        const u32 i = lane() + 32 * e;
        if constexpr (sizeof(T) == 2) {
            head.x[e] = i < width ? to_float(from[i]) : 0.0f;
        } else {
            head.x[e] = i < width ? from[i] : 0.0f;
        }
    }
    return head;
}

// The same number in all lanes.
DEVICE float product_of(const Head& a, const Head& b) {
    float sum = 0.0f;
    UNROLL
    for (u32 e = 0; e < PER_LANE; ++e) sum = fma_(a.x[e], b.x[e], sum);
    return warp_sum(sum);
}

DEVICE void add_scaled(Head& to, float by, const Head& from) {
    UNROLL
    for (u32 e = 0; e < PER_LANE; ++e) to.x[e] = fma_(by, from.x[e], to.x[e]);
}

DEVICE float scale_or_one(const float* scale) { return scale ? *scale : 1.0f; }

// Where things of a query of a head are; rows are counted as in lse, [B, H, S].
struct RowPlace {
    u64 q;
    u32 kv_head;
};

DEVICE RowPlace place_of(const PrefixSizes& a, u32 row) {
    const u32 query = row % a.queries, head = row / a.queries % a.heads, sequence = row / a.queries / a.heads;
    const u64 token = (u64)sequence * a.queries + query;
    return {token * pitch(a.heads * a.head_dim) + head * a.head_dim, head / (a.heads / a.kv_heads)};
}

DEVICE const float* prefix_row(const float* all, const PrefixSizes& a, u32 j, u32 kv_head) {
    return all + ((u64)j * a.kv_heads + kv_head) * a.head_dim;
}

// The softmax over the prefix alone, key by key.
struct Soft {
    float highest;
    float total;
};

// Adds a score; gives its numerator, and in `decay` what those before are multiplied by.
DEVICE float add_score(Soft& soft, float score, float& decay) {
    const float highest = fmax_(soft.highest, score);
    decay = exp_(soft.highest - highest);
    const float numerator = exp_(score - highest);
    soft.total = fma_(soft.total, decay, numerator);
    soft.highest = highest;
    return numerator;
}

DEVICE Soft no_scores() { return {-from_bits(0x7f800000u), 0.0f}; }
DEVICE float log_of(const Soft& soft) { return soft.highest + log_(soft.total); }

KERNEL(256, prefix_attention, const bf16* q, const float* key, const float* value, const float* key_scale,
       const float* value_scale, float* lse, PrefixSizes a, bf16* out, float factor) {
    const u32 row = block_x() * 8 + warp();
    if (row >= a.rows) return;
    const RowPlace at = place_of(a, row);
    const float scale = a.scale * scale_or_one(key_scale);
    const Head own_q = load_head(q + at.q, a.head_dim);
    Soft soft = no_scores();
    Head sum = {};
    for (u32 j = 0; j < a.length; ++j) {
        const Head k = load_head(prefix_row(key, a, j, at.kv_head), a.head_dim);
        const Head v = load_head(prefix_row(value, a, j, at.kv_head), a.head_dim);
        float decay;
        const float numerator = add_score(soft, scale * product_of(own_q, k), decay);
        UNROLL
        for (u32 e = 0; e < PER_LANE; ++e) sum.x[e] = fma_(sum.x[e], decay, numerator * v.x[e]);
    }
    const float own = log_of(soft), text = lse[row], low = fmin_(own, text), high = fmax_(own, text);
    const float all = high + log_(1.0f + exp_(low - high));
    const float keep = (1.0f - factor) + factor * exp_(text - all);
    const float lambda = a.compensate ? 1.0f : exp_(own - all);
    const float by = factor * lambda * scale_or_one(value_scale) / soft.total;
    UNROLL
    for (u32 e = 0; e < PER_LANE; ++e) {
        const u32 i = lane() + 32 * e;
        if (i < a.head_dim) out[at.q + i] = to_bf16(fma_(by, sum.x[e], keep * to_float(out[at.q + i])));
    }
    sync_warp();
    if (lane() == 0) lse[row] = all;
}

// What the prefix alone makes of a query and its gradient.
struct Alone {
    // The logarithm of its sum.
    float lse;
    // The mean of the products of the output's gradient and values.
    float mean;
};

DEVICE Alone alone_of(const PrefixSizes& a, const Head& q, const Head& dout, const float* key, const float* value,
                      u32 kv_head, float scale, float value_scale) {
    Soft soft = no_scores();
    float sum = 0.0f;
    for (u32 j = 0; j < a.length; ++j) {
        const Head k = load_head(prefix_row(key, a, j, kv_head), a.head_dim);
        const Head v = load_head(prefix_row(value, a, j, kv_head), a.head_dim);
        float decay;
        const float numerator = add_score(soft, scale * product_of(q, k), decay);
        sum = fma_(sum, decay, numerator * product_of(dout, v));
    }
    return {log_of(soft), value_scale * sum / soft.total};
}

KERNEL(256, prefix_delta, const bf16* q, const float* key, const float* value, const float* key_scale,
       const float* value_scale, const float* lse, PrefixSizes a, const bf16* dout, float* delta) {
    const u32 row = block_x() * 8 + warp();
    if (row >= a.rows) return;
    float share = 0.0f;
    if (!a.compensate) {
        const RowPlace at = place_of(a, row);
        const Head own_q = load_head(q + at.q, a.head_dim), own_dout = load_head(dout + at.q, a.head_dim);
        const Alone alone = alone_of(a, own_q, own_dout, key, value, at.kv_head, a.scale * scale_or_one(key_scale),
                                     scale_or_one(value_scale));
        share = exp_(alone.lse - lse[row]) * alone.mean;
    }
    if (lane() == 0) delta[row] = share;
}

KERNEL(256, prefix_grad_queries, const bf16* q, const float* key, const float* value, const float* key_scale,
       const float* value_scale, const float* lse, PrefixSizes a, const bf16* dout, const float* delta, bf16* dq,
       PrefixRow* rows) {
    const u32 row = block_x() * 8 + warp();
    if (row >= a.rows) return;
    const RowPlace at = place_of(a, row);
    const float scale = a.scale * scale_or_one(key_scale), values = scale_or_one(value_scale);
    const Head own_q = load_head(q + at.q, a.head_dim), own_dout = load_head(dout + at.q, a.head_dim);
    const Alone alone = alone_of(a, own_q, own_dout, key, value, at.kv_head, scale, values);
    const float lambda = exp_(alone.lse - lse[row]);
    const float by = a.compensate ? 1.0f : lambda;
    const float base = a.compensate ? fma_(lambda, delta[row], alone.mean) : delta[row];
    Head sum = {};
    for (u32 j = 0; j < a.length; ++j) {
        const Head k = load_head(prefix_row(key, a, j, at.kv_head), a.head_dim);
        const Head v = load_head(prefix_row(value, a, j, at.kv_head), a.head_dim);
        const float weight = by * exp_(scale * product_of(own_q, k) - alone.lse);
        add_scaled(sum, weight * (values * product_of(own_dout, v) - base) * scale, k);
    }
    UNROLL
    for (u32 e = 0; e < PER_LANE; ++e) {
        const u32 i = lane() + 32 * e;
        if (i < a.head_dim) dq[at.q + i] = to_bf16(to_float(dq[at.q + i]) + sum.x[e]);
    }
    if (lane() == 0) rows[row] = {alone.lse, by, base, 0};
}

// Sums over a chunk's tokens, in order, and over the heads that share a key's.
KERNEL(256, prefix_grad_keys, const bf16* q, const float* key, const float* value, const float* key_scale,
       const float* value_scale, const float* lse, PrefixSizes a, const bf16* dout, const PrefixRow* rows, float* dkeys,
       float* dvalues, u32 tokens_per_chunk) {
    const u32 kv_head = block_x(), j = block_y() * 8 + warp(), chunk = block_z();
    if (j >= a.length) return;
    const u32 tokens = a.rows / a.heads, group = a.heads / a.kv_heads;
    const u32 first = chunk * tokens_per_chunk, last = min_(first + tokens_per_chunk, tokens);
    const float scale = a.scale * scale_or_one(key_scale), values = scale_or_one(value_scale);
    const Head k = load_head(prefix_row(key, a, j, kv_head), a.head_dim);
    const Head v = load_head(prefix_row(value, a, j, kv_head), a.head_dim);
    Head dkey = {}, dvalue = {};
    for (u32 token = first; token < last; ++token) {
        for (u32 head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            const u32 row = (token / a.queries * a.heads + head) * a.queries + token % a.queries;
            const RowPlace at = place_of(a, row);
            const Head own_q = load_head(q + at.q, a.head_dim), own_dout = load_head(dout + at.q, a.head_dim);
            const PrefixRow kept = rows[row];
            const float weight = kept.by * exp_(scale * product_of(own_q, k) - kept.lse);
            add_scaled(dkey, weight * (values * product_of(own_dout, v) - kept.base) * a.scale, own_q);
            add_scaled(dvalue, weight, own_dout);
        }
    }
    const u64 to = (((u64)chunk * a.length + j) * a.kv_heads + kv_head) * a.head_dim;
    UNROLL
    for (u32 e = 0; e < PER_LANE; ++e) {
        const u32 i = lane() + 32 * e;
        if (i < a.head_dim) {
            dkeys[to + i] = dkey.x[e];
            dvalues[to + i] = dvalue.x[e];
        }
    }
}

// One block.
KERNEL(256, scaled_grad, float* grad, const float* values, const float* scale, float* dscale, u32 count) {
    SHARED(float, lanes, LANES);
    const float by = *scale;
    float sum = 0.0f;
    for (u32 i = thread(); i < count; i += LANES) {
        sum += grad[i] * values[i];
        grad[i] *= by;
    }
    const float total = fold(lanes, sum);
    if (thread() == 0) *dscale = total;
}
