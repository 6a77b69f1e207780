// Softmax cross-entropy of rows of logits, with the gradient in place of the logits: one block per row.
//
// Floor, in bytes of device memory per logit: 2 for the loss, 4 with the gradient; the row is read twice, but the
// second time it comes from the L2 cache, where a chunk of logits was just written by the product that made it.
#include "rows.h"

constexpr u32 WARPS = 8;
constexpr float LOG2_E = 1.44269504f;
constexpr float LN_2 = 0.693147181f;
constexpr u32 IGNORE = 0xffffffffu;

#define MINUS_INFINITY from_bits(0xff800000u)

// A running maximum m and the sum of 2^((x - m) log2 e) over what was seen.
struct Softmax {
    float most, sum;
};

DEVICE Softmax join(Softmax a, Softmax b) {
    // A part that saw nothing has most = -inf and sum = 0, and infinity minus infinity is no number.
    if (b.sum == 0.0f && b.most == MINUS_INFINITY) return a;
    if (a.sum == 0.0f && a.most == MINUS_INFINITY) return b;
    const float most = fmax_(a.most, b.most);
    return {most, a.sum * exp2_fast((a.most - most) * LOG2_E) + b.sum * exp2_fast((b.most - most) * LOG2_E)};
}

DEVICE Softmax of_block(Softmax mine) {
    SHARED(float, most, WARPS);
    SHARED(float, sum, WARPS);
    for (int mask = 16; mask > 0; mask >>= 1) {
        const float m = shuffle_xor(mine.most, mask), s = shuffle_xor(mine.sum, mask);
        mine = join(mine, {m, s});
    }
    if (lane() == 0) {
        most[warp()] = mine.most;
        sum[warp()] = mine.sum;
    }
    sync_threads();
    Softmax all = {most[0], sum[0]};
    for (u32 i = 1; i < WARPS; ++i) all = join(all, {most[i], sum[i]});
    return all;
}

DEVICE Softmax scan(const bf16* row, u32 vocab) {
    Softmax mine = {MINUS_INFINITY, 0.0f};
    for (u32 i = thread() * 8; i < vocab; i += WARPS * 256) {
        const Eight v = load_eight(row + i);
        const u32 count = in_row(i, vocab);
        // One rescaling for eight elements.
        float most = v.x[0];
        UNROLL
        for (int j = 1; j < 8; ++j) most = j < count ? fmax_(most, v.x[j]) : most;
        float sum = 0.0f;
        UNROLL
        for (int j = 0; j < 8; ++j) sum += j < count ? exp2_fast((v.x[j] - most) * LOG2_E) : 0.0f;
        mine = join(mine, {most, sum});
    }
    return mine;
}

DEVICE void replace(bf16* row, u32 vocab, u32 target, Softmax all, float gradient) {
    const float scale = gradient / all.sum;
    for (u32 i = thread() * 8; i < vocab; i += WARPS * 256) {
        Eight v = load_eight(row + i);
        UNROLL
        for (int j = 0; j < 8; ++j) {
            const float p = exp2_fast((v.x[j] - all.most) * LOG2_E) * scale;
            v.x[j] = i + j == target ? p - gradient : p;
        }
        store_eight(row + i, v);
    }
}

// losses[t] = -log softmax(logits[t])[targets[t]], zero where the target is IGNORE, not a number where there is no
// such token; with has_gradient the logits become their gradient times `gradient`.
KERNEL(256, cross_entropy, bf16* logits, const u32* targets, float* losses, u32 vocab, u32 has_gradient,
       float gradient) {
    bf16* row = logits + (u64)block_x() * pitch(vocab);
    const u32 target = targets[block_x()];
    if (target != IGNORE) {
        // The same branch in all threads of the block, so that all meet the barriers in it.
        const Softmax all = of_block(scan(row, vocab));
        if (thread() == 0) {
            const float logit = target < vocab ? to_float(row[target]) : from_bits(0x7fffffffu);
            losses[block_x()] = (all.most - logit) + log2_fast(all.sum) * LN_2;
        }
        // The target's logit is read before it is replaced.
        sync_threads();
        if (has_gradient) replace(row, vocab, target, all, gradient);
    } else {
        if (has_gradient) {
            for (u32 i = thread(); i < vocab; i += WARPS * 32) row[i] = 0;
        }
        if (thread() == 0) losses[block_x()] = 0.0f;
    }
}
