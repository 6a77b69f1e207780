// The gradient's statistics: what the optimizer knows of a tensor before it moves an element.
//
// Floor: one read of the gradient (4 bytes an element) by `optimizer_leaves`. The sum of squares of the clipped
// gradient needs the largest magnitude first and would need a second read; but where no element of a leaf exceeds the
// threshold it is the sum of the unclipped squares, bit for bit, so `optimizer_clipped` reads only the leaves that hold
// an outlier. The order of all additions is that of src/backend/cpu/ops/adam.rs: 256 interleaved lanes within a leaf,
// folded half by half, then a tree over the leaves in which neighbours meet.

#include "adam.h"

// Calls `take` with this thread's elements of a leaf in their order: `count` elements from `grad` on.
template <typename Take> DEVICE void each_element(const float* grad, u32 count, Take take) {
    if (count == LEAF) {
        for (u32 from = 0; from < LEAF; from += 16 * LANES) {
            float x[16];
            UNROLL
            for (u32 i = 0; i < 16; ++i) x[i] = grad[from + i * LANES + thread()];
            UNROLL
            for (u32 i = 0; i < 16; ++i) take(x[i]);
        }
    } else {
        for (u32 i = thread(); i < count; i += LANES) take(grad[i]);
    }
}

DEVICE u32 leaf_len(u64 count, u64 leaf) { return (u32)min_<u64>(LEAF, count - leaf * LEAF); }

// Per leaf (one block) the largest magnitude, as bits, whose order is that of magnitudes (infinities and NaN are the
// largest of all), and the sum of squares of the gradient as it came.
KERNEL(256, optimizer_leaves, const float* grad, u64 count, u32* maxima, double* raw, UpdateStats* outcomes) {
    SHARED(float, lanes, LANES);
    SHARED(u32, most_of_warp, LANES / 32);
    const u64 leaf = block_x();
    u32 most = 0;
    float sum = 0.0f;
    each_element(grad + leaf * LEAF, leaf_len(count, leaf), [&](float x) {
        most = max_(most, bits(x) & 0x7fffffffu);
        sum += x * x;
    });
    UNROLL
    for (u32 by = 16; by > 0; by /= 2) most = max_(most, shuffle_xor(most, by));
    if (lane() == 0) most_of_warp[warp()] = most;
    // Its barriers also stand between the maxima's writes and reads.
    const float total = fold(lanes, sum);
    if (thread() == 0) {
        for (u32 i = 1; i < LANES / 32; ++i) most = max_(most, most_of_warp[i]);
        maxima[leaf] = most;
        raw[leaf] = total;
        atomic_max(&outcomes->gmax, most);
    }
}

// The sums of squares after AdaClip, of the leaves where it changes anything.
KERNEL(256, optimizer_clipped, const float* grad, u64 count, u32 leaves, const u32* maxima, double* sums,
       const float* scalars, AdamArgs constants, const UpdateStats* outcomes) {
    SHARED(float, lanes, LANES);
    const float gmax = from_bits(outcomes->gmax);
    float threshold = scalars[0];
    const float at = clip_at(constants, threshold, gmax);
    for (u32 leaf = block_x(); leaf < leaves; leaf += grid_x()) {
        if (!(from_bits(maxima[leaf]) > at)) continue;
        float sum = 0.0f;
        each_element(grad + (u64)leaf * LEAF, leaf_len(count, leaf), [&](float x) {
            const float y = clipped(x, at, gmax);
            sum += y * y;
        });
        const float total = fold(lanes, sum);
        if (thread() == 0) sums[leaf] = total;
    }
}

// Per row (one warp) whether it has a gradient.
KERNEL(256, optimizer_touched_rows, const float* grad, u32 rows, u32 cols, u32* touched) {
    const u32 row = block_x() * (threads() / 32) + warp();
    if (row >= rows) return;
    const float* from = grad + (u64)row * cols;
    bool any = false;
    for (u32 j = lane(); j < cols; j += 32) any = any || from[j] != 0.0f;
    const u32 lanes = ballot(any);
    if (lane() == 0) touched[row] = lanes != 0 ? 1 : 0;
}

struct Squares {
    double clipped;
    double raw;
};

// Neighbours added over distances 1, 2, 4 ... 16 (nothing is added beyond the last: the squares are not negative, so
// zeros change no sum); the result is lane 0's.
DEVICE Squares neighbours(Squares x) {
    UNROLL
    for (u32 by = 1; by < 32; by *= 2) {
        x.clipped += shuffle_down(x.clipped, by);
        x.raw += shuffle_down(x.raw, by);
    }
    return x;
}

// The tree over values of as many threads as the block has, a power of two; the result is thread 0's. `sums` holds one
// value per warp.
DEVICE Squares tree(Squares* sums, Squares x) {
    x = neighbours(x);
    if (lane() == 0) sums[warp()] = x;
    sync_threads();
    if (warp() == 0) x = neighbours(lane() < threads() / 32 ? sums[lane()] : Squares{0.0, 0.0});
    sync_threads();
    return x;
}

// AdaGN: the gradient gets the norm that its history predicts. `kept` are T, mu and nu.
DEVICE void normalize(const AdamArgs& c, float (&kept)[3], float norm, GradStats& verdict) {
    if (norm == 0.0f && c.freeze_on_zero_grad != 0) {
        verdict.mode = FROZEN;
        return;
    }
    kept[1] = average(c, 0, kept[1], norm);
    kept[2] = average(c, 1, kept[2], norm * norm);
    const float mean = kept[1] / c.gamma_corrections[0];
    const float mean_sq = kept[2] / c.gamma_corrections[1];
    verdict.norm = norm > 0.0f ? mean / (sqrt_rn(mean_sq) + c.eps) / norm : 0.0f;
}

// Folds the leaves, updates the tensor's scalars and says what the elements shall do. One block, a power of two of
// threads.
KERNEL(1024, optimizer_verdict, u32 leaves, const u32* maxima, double* sums, double* raw, float* scalars,
       AdamArgs constants, GradStats* verdict, UpdateStats* outcomes) {
    SHARED(Squares, of_warps, 32);
    const float gmax = from_bits(outcomes->gmax);
    float kept[3] = {scalars[0], scalars[1], scalars[2]};
    GradStats v = {clip_at(constants, kept[0], gmax), gmax, 1.0f, MOVED};
    Squares total = {0.0, 0.0};
    bool first = true;
    // Each round folds as many as there are threads, which are whole subtrees, into the first places of the arrays.
    for (u32 count = leaves; first || count > 1; count = ceil_div(count, threads()), first = false) {
        for (u32 from = 0; from < count; from += threads()) {
            const u32 i = from + thread();
            Squares x = {0.0, 0.0};
            if (i < count) {
                x.raw = raw[i];
                x.clipped = first && !(from_bits(maxima[i]) > v.at) ? x.raw : sums[i];
            }
            total = tree(of_warps, x);
            if (thread() == 0) {
                sums[from / threads()] = total.clipped;
                raw[from / threads()] = total.raw;
            }
        }
        sync_threads();
    }
    if (thread() != 0) return;
    outcomes->gmax = 0;
    // The sum of finite leaves is far below this, one of an infinite leaf or of NaN is not.
    if (!is_finite(gmax) || !(total.raw < 1e300)) {
        v.mode = SKIPPED;
        outcomes->skipped += 1;
    } else {
        if (constants.freeze_on_zero_grad != 0 && gmax == 0.0f) {
            v.mode = FROZEN;
        } else if (constants.use_stable_spam != 0) {
            normalize(constants, kept, (float)sqrt_rn(total.clipped), v);
        }
        for (u32 i = 0; i < 3; ++i) scalars[i] = kept[i];
        outcomes->grad_sq += total.raw;
    }
    *verdict = v;
}
