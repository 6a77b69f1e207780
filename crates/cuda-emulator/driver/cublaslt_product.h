// Products of column-major matrices: d = alpha op(a) op(b) + beta c.
#pragma once
#include "../runtime/types.h"

struct Product {
    u64 m, n, k;
    const bf16 *a, *b;
    u64 a_stride, b_stride;  // between columns, in elements
    bool a_transposed, b_transposed;
    const void* c;
    void* d;
    u64 c_stride, d_stride;
    bool c_half, d_half;  // bf16 rather than float
    float alpha, beta;
    // How many, and elements from one matrix to the next: of a, b, c, d.
    u64 count, distances[4];

    // The product `i` alone.
    Product at(u64 i) const;
};

void multiply(const Product& product);
