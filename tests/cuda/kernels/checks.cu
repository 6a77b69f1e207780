// Kernels of the emulator's own tests, one for each thing that gpu.h offers.
#include "gpu.h"

KERNEL(1024, check_scale, const float* x, float* y, u32 count, float factor) {
    const u64 i = u64(block_x()) * threads() + thread();
    if (i < count) y[i] = x[i] * factor;
}

// Conversions and arithmetic: 40 results for each of `count` floats.
KERNEL_RESIDENT(256, 2, check_arithmetic, const float* x, u32* y, u32 count) {
    const u64 i = u64(block_x()) * threads() + thread();
    if (i >= count) return;
    const float a = x[i], b = x[(i + 1) % count];
    u32* to = y + i * 40;
    u32 n = 0;
    to[n++] = to_bf16(a);
    to[n++] = pack_bf16(a, b);
    to[n++] = float_to_f16(a);
    to[n++] = bits(f16_to_float((u16)(bits(a) >> 16)));
    to[n++] = bits(to_float((bf16)(bits(a) >> 16)));
    to[n++] = bits(fabs_(a));
    to[n++] = bits(fmax_(a, b));
    to[n++] = bits(fmin_(a, b));
    to[n++] = bits(round_even(a));
    to[n++] = bits(floor_(a));
    to[n++] = bits(ceil_(a));
    to[n++] = bits(trunc_(a));
    to[n++] = bits(copysign_(a, b));
    to[n++] = (u32)round_to_i32(a);
    to[n++] = bits(sqrt_rn(a));
    to[n++] = bits(div_rn(a, b));
    to[n++] = bits(a / b);
    to[n++] = bits(fma_(a, b, a));
    to[n++] = bits(a * b + a);
    to[n++] = multiply_high(bits(a), bits(b));
    to[n++] = count_ones(bits(a));
    to[n++] = leading_zeros(bits(a));
    to[n++] = permute_bytes(bits(a), bits(b), bits(a) & 0x7777);
    to[n++] = low_to_float(bits(a)) == to_float((bf16)bits(a));
    to[n++] = bits(high_to_float(bits(a)));
    to[n++] = bits((float)sqrt_rn((double)a));
    to[n++] = bits((float)div_rn((double)a, (double)b));
    // Approximate from here on.
    to[n++] = bits(exp2_fast(a));
    to[n++] = bits(log2_fast(a));
    to[n++] = bits(rsqrt_fast(a));
    to[n++] = bits(rcp_fast(a));
    to[n++] = bits(exp_(a));
    to[n++] = bits(log_(a));
    to[n++] = bits(sin_(a));
    to[n++] = bits(cos_(a));
    to[n++] = bits(tanh_(a));
    while (n < 40) to[n++] = 0;
}

// 16 results of each lane of one warp.
KERNEL(32, check_warp, const u32* x, u32* y, double* sums) {
    const u32 own = x[lane()];
    u32* to = y + lane() * 16;
    to[0] = shuffle_xor(own, 5);
    to[1] = shuffle_down(own, 3);
    to[2] = shuffle_up(own, 3);
    to[3] = shuffle(own, 7);
    to[4] = shuffle(own, own % 64);
    to[5] = ballot(own % 3 == 0);
    to[6] = bits(shuffle_xor((float)own, 1));
    to[7] = (u32)shuffle_xor((i32)own, 2);
    const u64 wide = shuffle_xor((u64)own << 32 | lane(), 31);
    to[8] = (u32)wide;
    to[9] = (u32)(wide >> 32);
    to[10] = bits(warp_sum((float)own));
    to[11] = bits(warp_max((float)own));
    to[12] = warp_sum(own);
    to[13] = (u32)min_(own, 9u);
    to[14] = (u32)max_(own, 9u);
    to[15] = ceil_div(own, 4u);
    sync_warp();
    sums[lane()] = warp_sum((double)own * 1e-3);
}

// Blocks of threads: sums over a block, wide loads, atomics, the last block to finish.
KERNEL(256, check_block, const float* x, float* y, u32* counters, u64* total, float* sum) {
    SHARED(float, partial, 8);
    SHARED(u32, ticket, 1);
    DYNAMIC_SHARED(Bits16, staged);
    const u64 first = (u64(block_z() * grid_y() + block_y()) * grid_x() + block_x()) * threads();
    staged[thread()] = load_16(x + (first + thread()) * 4);
    sync_threads();
    const Bits16 other = staged[threads() - 1 - thread()];
    store_16(y + (first + thread()) * 4, other);
    const float own = warp_sum(from_bits(other.x[0]));
    if (lane() == 0) partial[warp()] = own;
    sync_threads();
    atomic_max(&counters[0], thread() + 1);
    atomic_add(&counters[1], 1u);
    if (thread() == 0) {
        float all = 0;
        for (u32 w = 0; w < threads() / 32; w++) all += partial[w];
        atomic_add(sum, all);
        atomic_add(total, u64(1) << 33);
        fence();
        ticket[0] = atomic_add(&counters[2], 1u);
    }
    sync_threads();
    if (ticket[0] == grid_x() * grid_y() * grid_z() - 1 && thread() == 0) counters[3] = counters[2];
}

// A 16x16 matrix from shared memory by each of the four ways, 12 registers of each lane.
KERNEL(32, check_load_matrix, const bf16* x, u32* y) {
    SHARED(bf16, tile, 16 * 16);
    store_16(tile + lane() * 8, load_16(x + lane() * 8));
    sync_warp();
    u32 four[4], two[2];
    u32* to = y + lane() * 12;
    // Matrices in the order of mma_bf16's a: rows 0-7 and 8-15 of columns 0-7, then of columns 8-15.
    const bf16* row = tile + (lane() % 16) * 16 + (lane() / 16) * 8;
    load_matrix_x4(four, row);
    for (u32 i = 0; i < 4; i++) to[i] = four[i];
    load_matrix_x4_transposed(four, row);
    for (u32 i = 0; i < 4; i++) to[4 + i] = four[i];
    load_matrix_x2(two, row);
    to[8] = two[0], to[9] = two[1];
    load_matrix_x2_transposed(two, row);
    to[10] = two[0], to[11] = two[1];
}

// d += a b from fragments as they are.
KERNEL(32, check_mma, const u32* a, const u32* b, float* d) {
    u32 left[4], right[2];
    float sum[4];
    for (u32 i = 0; i < 4; i++) left[i] = a[lane() * 4 + i], sum[i] = d[lane() * 4 + i];
    for (u32 i = 0; i < 2; i++) right[i] = b[lane() * 2 + i];
    mma_bf16(sum, left, right);
    for (u32 i = 0; i < 4; i++) d[lane() * 4 + i] = sum[i];
}

// The same of bytes.
KERNEL(32, check_mma_s8, const u32* a, const u32* b, i32* d) {
    u32 left[4], right[2];
    i32 sum[4];
    for (u32 i = 0; i < 4; i++) left[i] = a[lane() * 4 + i], sum[i] = d[lane() * 4 + i];
    for (u32 i = 0; i < 2; i++) right[i] = b[lane() * 2 + i];
    mma_s8(sum, left, right, sum);
    for (u32 i = 0; i < 4; i++) d[lane() * 4 + i] = sum[i];
}

#if HAS_FP8
KERNEL(32, check_mma_e4m3, const u32* a, const u32* b, float* d) {
    u32 left[4], right[2];
    float sum[4];
    for (u32 i = 0; i < 4; i++) left[i] = a[lane() * 4 + i], sum[i] = d[lane() * 4 + i];
    for (u32 i = 0; i < 2; i++) right[i] = b[lane() * 2 + i];
    mma_e4m3(sum, left, right, sum);
    for (u32 i = 0; i < 4; i++) d[lane() * 4 + i] = sum[i];
}
#endif

CONSTANT float THIRDS[3] = {0.0f, 0.25f, 0.5f};

template <int PARTS> DEVICE void copy_parts(const Bits16* x, Bits16* y, Bits16* stage, u32 count) {
    copy_async_16(stage + thread(), x + thread(), thread() < count);
    commit_async();
    copy_async_16(stage + threads() + thread(), x + threads() + thread(), threads() + thread() < count);
    commit_async();
    wait_async<1>();
    sync_threads();
    store_16_once(y + threads() - 1 - thread(), load_16(stage + threads() - 1 - thread()));
    wait_async<0>();
    sync_threads();
    UNROLL
    for (int part = 1; part < PARTS; part++) y[2 * threads() - 1 - thread()] = stage[2 * threads() - 1 - thread()];
}

KERNEL(128, check_copies, const Bits16* x, Bits16* y, u32 count, float* thirds) {
    DYNAMIC_SHARED(Bits16, stage);
    REQUIRE(count <= 2 * threads());
    copy_parts<2>(x, y, stage, count);
    Bits8 eight = load_8(x);
    if (thread() < 3) thirds[thread()] = THIRDS[thread()];
    if (thread() == 0) store_8(thirds + 4, eight);
}
