// The roots and quotients of the plain update (adam_element.h) beside the device's own, correctly rounded ones.
#include "gpu.h"
#include "adam_element.h"

// Of many threads' counts: cases, wrong ones, and the sum of the bits of all results.
DEVICE void add_counts(u64* counts, u64 cases, u64 wrong, u64 sum) {
    atomic_add(counts, cases);
    atomic_add(counts + 1, wrong);
    atomic_add(counts + 2, sum);
}

// Roots of `count` floats from 1 on: those of two binades are all that a root depends on.
KERNEL(256, exact_roots, u32 count, u64* counts) {
    u64 cases = 0, wrong = 0, sum = 0;
    for (u32 i = block_x() * threads() + thread(); i < count; i += grid_x() * threads()) {
        const float v = from_bits(0x3f800000u + i);
        const u32 root = bits(root_of(v));
        cases += 1;
        wrong += root != bits(sqrt_rn(v));
        sum += root;
    }
    add_counts(counts, cases, wrong, sum);
}

// Quotients a / b of 24-bit integers that lie nearest to the middle between two floats. Such a middle is m / 2^s with m
// odd and of 25 bits, and a 2^s = m b + r with a small r: for each odd b (even ones halve to others) and each r, m is
// -r / b modulo 2^s.
// Of the first `count` odd numbers from 2^23 on.
KERNEL(256, exact_quotients, u32 count, u64* counts) {
    u64 cases = 0, wrong = 0, sum = 0;
    for (u32 i = block_x() * threads() + thread(); i < count; i += grid_x() * threads()) {
        const u32 b = (1u << 23) + 1 + 2 * i;
        // Newton's steps double the bits that are right, of which an odd number has three at first.
        u32 inverse = b;
        for (u32 j = 0; j < 4; ++j) inverse *= 2 - b * inverse;
        for (u32 s = 24; s <= 25; ++s) {
            for (i32 r = -6; r <= 6; ++r) {
                const u32 low = ((u32)(-r) * inverse) & ((1u << s) - 1);
                const u32 m = low | 1u << 24;
                const u64 a = ((u64)m * b + (u64)(i64)r) >> s;
                if (!(m & 1) || (s == 25 && m != low) || a < 1u << 23 || a >= 1u << 24) continue;
                const float x = (float)(u32)a, y = (float)b;
                const u32 found = bits(quotient(x, y));
                cases += 1;
                wrong += found != bits(x / y);
                sum += found;
            }
        }
    }
    add_counts(counts, cases, wrong, sum);
}
