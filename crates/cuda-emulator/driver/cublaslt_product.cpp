#include "cublaslt_product.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

namespace {

// Rows and columns of a tile of the output, terms of a panel.
constexpr u64 ROWS = 64, COLUMNS = 8, TERMS = 256;

float widen(bf16 x) {
    const u32 bits = u32(x) << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

bf16 narrow(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    if (x != x) return 0x7fff;
    return static_cast<bf16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The widest vectors that the processor has give the same sums: each is one lane's, in the order of k.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
void tile(float (&sums)[COLUMNS][ROWS], const float* a, const float* b, u64 terms) {
    for (u64 column = 0; column < COLUMNS; column++) {
        float own[ROWS];
        memcpy(own, sums[column], sizeof own);
        for (u64 k = 0; k < terms; k++) {
            const float factor = b[k * COLUMNS + column];
            for (u64 row = 0; row < ROWS; row++) own[row] += a[k * ROWS + row] * factor;
        }
        memcpy(sums[column], own, sizeof own);
    }
}

// op(a)[row.., k..] as ROWS contiguous values for each k, zeros beyond the edge.
void pack_a(const Product& p, u64 row, u64 first, u64 terms, float* to) {
    const u64 rows = std::min(ROWS, p.m - row);
    memset(to, 0, terms * ROWS * sizeof *to);
    for (u64 k = 0; k < terms; k++) {
        for (u64 r = 0; r < rows; r++) {
            const u64 at = p.a_transposed ? (row + r) * p.a_stride + first + k : (first + k) * p.a_stride + row + r;
            to[k * ROWS + r] = widen(p.a[at]);
        }
    }
}

void pack_b(const Product& p, u64 column, u64 first, u64 terms, float* to) {
    const u64 columns = std::min(COLUMNS, p.n - column);
    memset(to, 0, terms * COLUMNS * sizeof *to);
    for (u64 c = 0; c < columns; c++) {
        for (u64 k = 0; k < terms; k++) {
            const u64 at =
                p.b_transposed ? (first + k) * p.b_stride + column + c : (column + c) * p.b_stride + first + k;
            to[k * COLUMNS + c] = widen(p.b[at]);
        }
    }
}

float old(const Product& p, u64 row, u64 column) {
    const u64 at = column * p.c_stride + row;
    return p.c_half ? widen(static_cast<const bf16*>(p.c)[at]) : static_cast<const float*>(p.c)[at];
}

void store(const Product& p, u64 row, u64 column, float sum) {
    // With beta 0 the old value is not read: it may be anything.
    const float x = p.beta == 0 ? p.alpha * sum : p.alpha * sum + p.beta * old(p, row, column);
    const u64 at = column * p.d_stride + row;
    if (p.d_half) {
        static_cast<bf16*>(p.d)[at] = narrow(x);
    } else {
        static_cast<float*>(p.d)[at] = x;
    }
}

// One strip of ROWS rows of the output.
void strip(const Product& p, u64 row) {
    const u64 panels = (p.k + TERMS - 1) / TERMS;
    std::vector<float> a(panels * TERMS * ROWS), b(TERMS * COLUMNS);
    for (u64 i = 0; i < panels; i++) {
        pack_a(p, row, i * TERMS, std::min(TERMS, p.k - i * TERMS), &a[i * TERMS * ROWS]);
    }
    for (u64 column = 0; column < p.n; column += COLUMNS) {
        float sums[COLUMNS][ROWS] = {};
        for (u64 i = 0; i < panels; i++) {
            const u64 terms = std::min(TERMS, p.k - i * TERMS);
            pack_b(p, column, i * TERMS, terms, b.data());
            tile(sums, &a[i * TERMS * ROWS], b.data(), terms);
        }
        for (u64 c = 0; c < std::min(COLUMNS, p.n - column); c++) {
            for (u64 r = 0; r < std::min(ROWS, p.m - row); r++) store(p, row + r, column + c, sums[c][r]);
        }
    }
}

}  // namespace

Product Product::at(u64 i) const {
    Product one = *this;
    one.a += i * distances[0];
    one.b += i * distances[1];
    one.c = static_cast<const char*>(c) + i * distances[2] * (c_half ? 2 : 4);
    one.d = static_cast<char*>(d) + i * distances[3] * (d_half ? 2 : 4);
    return one;
}

void multiply(const Product& product) {
    const u64 strips = (product.m + ROWS - 1) / ROWS, all = strips * product.count;
    std::atomic<u64> next{0};
    const auto work = [&] {
        for (u64 i; (i = next++) < all;) strip(product.at(i / strips), i % strips * ROWS);
    };
    // Below this a thread costs more than it saves.
    const bool alone = all == 1 || product.count * product.m * product.n * product.k < u64(1) << 20;
    if (alone || std::thread::hardware_concurrency() < 2) return work();
    std::thread second(work);
    work();
    second.join();
}
