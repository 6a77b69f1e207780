// The gradient's statistics: what the optimizer knows of a tensor before it moves an element.
//
// Floor: one read of the gradient (4 bytes an element) by `optimizer_leaves`. The sum of squares of the clipped
// gradient needs the largest magnitude first and would need a second read; but where no element of a leaf exceeds the
// threshold it is the sum of the unclipped squares, bit for bit, so `optimizer_clipped` reads only the leaves that hold
// an outlier. The order of all additions is that of src/backend/cpu/ops/adam.rs: 256 interleaved lanes within a leaf,
// folded half by half, then a tree over the leaves in which neighbours meet.
//
// A launch has several tensors, whose leaves are counted on from one to the next.

#include "adam.h"

struct Gradient {
    const float* grad;
    float* scalars;
    // Elements.
    u64 count;
    // The first of its leaves among those of all, and how many it has.
    u32 leaf;
    u32 leaves;
};
SIZE_ON_HOST(Gradient, 32);

struct Gradients {
    Gradient of[MOST_MEMBERS];
    u32 count;
    u32 leaves;
};
SIZE_ON_HOST(Gradients, 520);

// Which of them a leaf is of.
DEVICE u32 owner_of(const Gradients& gradients, u32 leaf) {
    u32 i = 0;
    while (i + 1 < gradients.count && gradients.of[i + 1].leaf <= leaf) ++i;
    return i;
}

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

// Calls `take` with the elements of a leaf of all.
template <typename Take> DEVICE void each_of_leaf(const Gradient& gradient, u32 leaf, Take take) {
    const u64 first = (u64)(leaf - gradient.leaf) * LEAF;
    each_element(gradient.grad + first, (u32)min_<u64>(LEAF, gradient.count - first), take);
}

// Per leaf (one block) the largest magnitude, as bits, whose order is that of magnitudes (infinities and NaN are the
// largest of all), and the sum of squares of the gradient as it came. `largest` has the magnitude of each tensor, and
// is zero between updates.
KERNEL(256, optimizer_leaves, TABLE Gradients gradients, u32* maxima, double* raw, u32* largest) {
    SHARED(float, lanes, LANES);
    SHARED(u32, most_of_warp, LANES / 32);
    const u32 leaf = block_x(), owner = owner_of(gradients, leaf);
    u32 most = 0;
    float sum = 0.0f;
    each_of_leaf(gradients.of[owner], leaf, [&](float x) {
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
        atomic_max(largest + owner, most);
    }
}

// The sums of squares after AdaClip, of the leaves where it changes anything.
KERNEL(256, optimizer_clipped, TABLE Gradients gradients, const u32* maxima, double* sums, const u32* largest,
       AdamArgs constants) {
    SHARED(float, lanes, LANES);
    for (u32 leaf = block_x(); leaf < gradients.leaves; leaf += grid_x()) {
        const u32 owner = owner_of(gradients, leaf);
        const float gmax = from_bits(largest[owner]);
        float threshold = gradients.of[owner].scalars[0];
        const float at = clip_at(constants, threshold, gmax);
        if (!(from_bits(maxima[leaf]) > at)) continue;
        float sum = 0.0f;
        each_of_leaf(gradients.of[owner], leaf, [&](float x) {
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

// What a lane folds by itself, and a warp at once.
static constexpr u32 OF_LANE = 8, OF_WARP = 32 * OF_LANE;

// The tree over up to OF_WARP values from `from` on, whose number is a power of two with those that are not there as
// zeros: `load` gives one. The result is lane 0's.
template <typename Load> DEVICE Squares fold_leaves(u32 from, u32 count, Load load) {
    Squares x[OF_LANE];
    UNROLL
    for (u32 i = 0; i < OF_LANE; ++i) {
        const u32 at = from + lane() * OF_LANE + i;
        x[i] = at < count ? load(at) : Squares{0.0, 0.0};
    }
    UNROLL
    for (u32 by = 1; by < OF_LANE; by *= 2) {
        UNROLL
        for (u32 i = 0; i < OF_LANE; i += 2 * by) {
            x[i].clipped += x[i + by].clipped;
            x[i].raw += x[i + by].raw;
        }
    }
    return neighbours(x[0]);
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

// What a verdict adds to the outcomes of a step.
struct Outcome {
    double grad_sq;
    u64 skipped;
};

// Says what the elements of one tensor shall do, and updates its scalars.
DEVICE Outcome decide(const AdamArgs& c, const Gradient& gradient, float (&kept)[3], Squares total, bool held,
                      GradStats& v) {
    // The sum of finite leaves is far below this, one of an infinite leaf or of NaN is not.
    const bool bad = !is_finite(v.gmax) || !(total.raw < 1e300);
    if (held || bad) {
        v.mode = SKIPPED;
        return {0.0, held ? 0u : 1u};
    }
    if (c.freeze_on_zero_grad != 0 && v.gmax == 0.0f) {
        v.mode = FROZEN;
    } else if (c.use_stable_spam != 0) {
        normalize(c, kept, (float)sqrt_rn(total.clipped), v);
    }
    for (u32 i = 0; i < 3; ++i) gradient.scalars[i] = kept[i];
    return {total.raw, 0};
}

// Folds the leaves of each tensor and says what its elements shall do. One block, a warp for each tensor: so the
// outcomes are added in the order of the tensors, and no block waits for another.
KERNEL(32 * MOST_MEMBERS, optimizer_verdict, TABLE Gradients gradients, const u32* maxima, double* sums, double* raw,
       u32* largest, AdamArgs constants, GradStats* verdicts, UpdateStats* outcomes) {
    SHARED(Outcome, of_tensors, MOST_MEMBERS);
    const Gradient& gradient = gradients.of[warp()];
    const bool held = outcomes->held != 0;
    const float gmax = from_bits(largest[warp()]);
    float kept[3] = {gradient.scalars[0], gradient.scalars[1], gradient.scalars[2]};
    GradStats v = {clip_at(constants, kept[0], gmax), gmax, 1.0f, MOVED};
    maxima += gradient.leaf;
    sums += gradient.leaf;
    raw += gradient.leaf;
    Squares total = {0.0, 0.0};
    bool first = true;
    // Each round folds whole subtrees into the first places of the arrays.
    for (u32 count = gradient.leaves; first || count > 1; count = ceil_div(count, OF_WARP), first = false) {
        for (u32 from = 0; from < count; from += OF_WARP) {
            total = fold_leaves(from, count, [&](u32 i) {
                const double plain = raw[i];
                return Squares{first && !(from_bits(maxima[i]) > v.at) ? plain : sums[i], plain};
            });
            sync_warp();
            if (lane() == 0) {
                sums[from / OF_WARP] = total.clipped;
                raw[from / OF_WARP] = total.raw;
            }
        }
        sync_warp();
    }
    if (lane() == 0) {
        largest[warp()] = 0;
        of_tensors[warp()] = decide(constants, gradient, kept, total, held, v);
        verdicts[warp()] = v;
    }
    sync_threads();
    if (thread() != 0) return;
    for (u32 i = 0; i < gradients.count; ++i) {
        outcomes->grad_sq += of_tensors[i].grad_sq;
        outcomes->skipped += of_tensors[i].skipped;
    }
}

// Holds all updates until the host asks for their outcomes, if a number is not finite.
KERNEL(256, optimizer_hold, const float* numbers, u32 count, UpdateStats* outcomes) {
    bool bad = false;
    for (u32 i = block_x() * threads() + thread(); i < count; i += grid_x() * threads()) {
        bad = bad || !is_finite(numbers[i]);
    }
    // The same word whoever writes it; atomic, since several blocks may.
    if (ballot(bad) != 0 && lane() == 0) atomic_max(&outcomes->held, 1u);
}
