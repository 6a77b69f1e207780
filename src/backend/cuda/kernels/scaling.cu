// Multiplication and division of all elements by one number (src/backend/cpu/ops/scaling.rs, the same additions in the
// same order).
//
// Floor: one read and one write of x (8 bytes an element), and before a division one more read (4).
#include "adam.h"

KERNEL(256, scale_elements, float* x, u64 count, float factor, u32 narrow) {
    const u64 i = (u64)block_x() * threads() + thread();
    if (i < count) x[i] = rounded(x[i] * factor, narrow);
}

// The sum of squares of each leaf: one block.
KERNEL(256, square_sums, const float* x, u64 count, double* sums) {
    SHARED(float, lanes, LANES);
    const u64 leaf = block_x();
    const u32 size = (u32)min_<u64>(LEAF, count - leaf * LEAF);
    float sum = 0.0f;
    for (u32 i = thread(); i < size; i += LANES) sum += x[leaf * LEAF + i] * x[leaf * LEAF + i];
    const float total = fold(lanes, sum);
    if (thread() == 0) sums[leaf] = total;
}

// One thread adds up the leaves: neighbours, then neighbouring pairs, and so on. What has no neighbour yet is at most
// one sum for each bit of the number of leaves.
KERNEL(32, divisor_of_sums, const double* sums, u32 leaves, float eps, u32 narrow, float* divisor) {
    SHARED(double, open, 32);
    if (thread() != 0) return;
    u32 top = 0;
    for (u32 leaf = 0; leaf < leaves; ++leaf) {
        double sum = sums[leaf];
        for (u32 pairs = leaf; (pairs & 1) != 0; pairs >>= 1) sum = open[--top] + sum;
        open[top++] = sum;
    }
    double total = open[--top];
    while (top > 0) total = open[--top] + total;
    *divisor = rounded(rounded((float)sqrt_rn(total), narrow) + eps, narrow);
}

KERNEL(256, divide_elements, float* x, u64 count, const float* divisor, u32 narrow) {
    const u64 i = (u64)block_x() * threads() + thread();
    if (i < count) x[i] = rounded(x[i] / *divisor, narrow);
}
