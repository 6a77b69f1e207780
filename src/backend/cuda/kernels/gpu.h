// What every kernel is written with. Kernels include this file and nothing else; it is the one place that holds PTX.
//
// Two compilers read it: NVRTC, for which the functions below are instructions, and a host compiler (C++17, no
// contraction), for which they are the same names in the emulator that the tests use
// (crates/cuda-emulator/runtime/device.h).
//
//     KERNEL(256, scale_rows, const bf16* x, bf16* y, u32 columns, float factor) {       // at most 256 threads a block
//         SHARED(float, sums, 8);                                     // sums is a float[8], its content undefined
//         DYNAMIC_SHARED(bf16, tile);                                 // the launch's dynamic bytes as bf16*
//         const u64 row = block_x();                                  // offsets of elements in 64 bits
//         for (u32 c = thread(); c < columns; c += threads()) {
//             y[row * columns + c] = to_bf16(to_float(x[row * columns + c]) * factor);
//         }
//     }
//
// Functions that kernels call are `DEVICE float f(...)`, tables are `CONSTANT float TABLE[16] = {...}`, loops to be
// unrolled stand under `UNROLL`. Templates are fine; a KERNEL is one instance that calls them.
//
// Rules, which the emulator enforces where it can:
// - no thread returns, and no branch is taken by a part of the threads, before a barrier (`sync_threads`) or, within a
//   warp, a collective (`sync_warp`, shuffles, `ballot`, `load_matrix_*`, `mma_*`): all reach the same line;
// - blocks are one-dimensional and whole warps; no block waits for another;
// - between two threads' accesses to the same shared memory, one of them a write, lies a `sync_threads`, or for lanes
//   of one warp a `sync_warp`; other collectives order no memory. This holds for writing the same value too;
// - shared memory is undefined at the start; asynchronous copies are undefined until waited for AND a barrier passed;
// - no contraction: `a * b + c` rounds twice (--fmad=false, -ffp-contract=off), `fma_(a, b, c)` once; `/` is IEEE;
// - a conversion of a float that does not fit its integer is undefined, except by `round_to_i32`, which saturates.
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef long long i64;
// The bits of a bfloat16.
typedef unsigned short bf16;

// Registers of one wide load or store.
struct alignas(16) Bits16 {
    u32 x[4];
};
struct alignas(8) Bits8 {
    u32 x[2];
};

#ifdef __CUDACC__

#define DEVICE static __device__ __forceinline__
#define CONSTANT static __constant__ const
#define UNROLL _Pragma("unroll")
#define UNROLL_4 _Pragma("unroll 4")
#define NO_UNROLL _Pragma("unroll 1")

// A kernel by its unmangled name, for blocks of at most `max_threads`.
#define KERNEL(max_threads, name, ...) extern "C" __global__ void __launch_bounds__(max_threads) name(__VA_ARGS__)
// The same where at least `min_blocks` blocks shall fit a multiprocessor (which bounds the registers).
#define KERNEL_RESIDENT(max_threads, min_blocks, name, ...) \
    extern "C" __global__ void __launch_bounds__(max_threads, min_blocks) name(__VA_ARGS__)

// In front of a parameter that is a long table: threads read it where the launch left it, by indices too, and none has
// a copy.
#define TABLE const __grid_constant__

#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
extern __shared__ __align__(128) unsigned char dynamic_shared_bytes[];
#define DYNAMIC_SHARED(type, name) type* const name = (type*)dynamic_shared_bytes

// A condition that holds, checked by the emulator only.
#define REQUIRE(condition) ((void)0)

DEVICE u32 thread() { return threadIdx.x; }
DEVICE u32 threads() { return blockDim.x; }
DEVICE u32 warp() { return threadIdx.x >> 5; }
DEVICE u32 lane() { return threadIdx.x & 31; }
DEVICE u32 block_x() { return blockIdx.x; }
DEVICE u32 block_y() { return blockIdx.y; }
DEVICE u32 block_z() { return blockIdx.z; }
DEVICE u32 grid_x() { return gridDim.x; }
DEVICE u32 grid_y() { return gridDim.y; }
DEVICE u32 grid_z() { return gridDim.z; }

DEVICE void sync_threads() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
// Orders this thread's writes before its later ones for all blocks (for "the last block to finish" patterns).
DEVICE void fence() { __threadfence(); }

// T: u32, i32, u64, i64, float, double.
template <typename T> DEVICE T shuffle_xor(T x, u32 mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
template <typename T> DEVICE T shuffle_down(T x, u32 by) { return __shfl_down_sync(0xffffffffu, x, by); }
template <typename T> DEVICE T shuffle_up(T x, u32 by) { return __shfl_up_sync(0xffffffffu, x, by); }
template <typename T> DEVICE T shuffle(T x, u32 from) { return __shfl_sync(0xffffffffu, x, from); }
DEVICE u32 ballot(bool condition) { return __ballot_sync(0xffffffffu, condition); }

DEVICE float from_bits(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 bits(float x) { return __float_as_uint(x); }

// To the nearest, ties to even; NaN becomes 0x7fff.
DEVICE u32 pack_bf16(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}
DEVICE bf16 to_bf16(float x) { return (bf16)pack_bf16(x, 0.0f); }

// f16 bits, to the nearest, ties to even; NaN becomes 0x7fff.
DEVICE u16 float_to_f16(float x) {
    u16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
    return half;
}
DEVICE float f16_to_float(u16 half) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(half));
    return x;
}

// Addresses of wide loads and stores are multiples of their size.
DEVICE Bits16 load_16(const void* from) {
    const uint4 v = *(const uint4*)from;
    return {{v.x, v.y, v.z, v.w}};
}
DEVICE void store_16(void* to, Bits16 bits) { *(uint4*)to = make_uint4(bits.x[0], bits.x[1], bits.x[2], bits.x[3]); }
DEVICE Bits8 load_8(const void* from) {
    const uint2 v = *(const uint2*)from;
    return {{v.x, v.y}};
}
DEVICE void store_8(void* to, Bits8 bits) { *(uint2*)to = make_uint2(bits.x[0], bits.x[1]); }
// The same for global memory that is touched once: first out of the caches.
DEVICE Bits16 load_16_once(const void* from) {
    const uint4 v = __ldcs((const uint4*)from);
    return {{v.x, v.y, v.z, v.w}};
}
DEVICE void store_16_once(void* to, Bits16 bits) {
    __stcs((uint4*)to, make_uint4(bits.x[0], bits.x[1], bits.x[2], bits.x[3]));
}

DEVICE u32 shared_address(const void* shared) { return (u32)__cvta_generic_to_shared(shared); }

// 16 bytes from global to shared memory, later: zeros instead where `in_range` is false (the source is not touched).
DEVICE void copy_async_16(void* shared, const void* global, bool in_range) {
    const u32 size = in_range ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(size)
                 : "memory");
}
// Ends a group of this thread's copies.
DEVICE void commit_async() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most the `N` youngest groups of this thread are under way.
template <int N> DEVICE void wait_async() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// 8x8 matrices of 16-bit elements from rows of 16 bytes: lanes 8i .. 8i+7 give the addresses of matrix i's rows. Lane l
// receives of each matrix the elements (l / 4, 2 (l % 4)) in the low half and (l / 4, 2 (l % 4) + 1) in the high half;
// transposed: (2 (l % 4), l / 4) and (2 (l % 4) + 1, l / 4). Of x2, the addresses of lanes 16 .. 31 are not used.
DEVICE void load_matrix_x4(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void load_matrix_x4_transposed(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void load_matrix_x2(u32 (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void load_matrix_x2_transposed(u32 (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

// D += A B with A 16x16, B 16x8 (bf16), D 16x8 (f32). With g = lane / 4 and t = 2 (lane % 4), low half first:
//   a[0] = A[g][t, t+1]   a[1] = A[g+8][t, t+1]   a[2] = A[g][t+8, t+9]   a[3] = A[g+8][t+8, t+9]
//   b[0] = B[t, t+1][g]   b[1] = B[t+8, t+9][g]
//   d[0, 1] = D[g][t, t+1]   d[2, 3] = D[g+8][t, t+1]
DEVICE void mma_bf16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// D = C + A B with A 16x32 and B 32x8 of bytes, C and D as above; C may be D. With g = lane / 4, k = 4 (lane % 4), low
// byte first:
//   a[0] = A[g][k .. k+3]   a[1] = A[g+8][k .. k+3]   a[2] = A[g][k+16 .. k+19]   a[3] = A[g+8][k+16 .. k+19]
//   b[0] = B[k .. k+3][g]   b[1] = B[k+16 .. k+19][g]
// Signed integers; D is exact modulo 2^32.
DEVICE void mma_s8(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2], const i32 (&c)[4]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%10, %11, %12, %13};"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]), "r"(c[2]),
                   "r"(c[3]));
}
// Floats of eight bits, of which devices since 8.9 have products: four exponent bits of bias 7, three of mantissa,
// 0x7f and 0xff not a number, none infinite. Of 32 products and C none keeps bits far below the largest.
#define HAS_FP8 (__CUDA_ARCH__ >= 890)
#if HAS_FP8
DEVICE void mma_e4m3(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], const float (&c)[4]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%10, %11, %12, %13};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
                   "f"(c[3]));
}
#endif

// Each returns the value before.
DEVICE u32 atomic_max(u32* to, u32 x) { return atomicMax(to, x); }
DEVICE u32 atomic_add(u32* to, u32 x) { return atomicAdd(to, x); }
DEVICE u64 atomic_add(u64* to, u64 x) { return atomicAdd(to, x); }
DEVICE float atomic_add(float* to, float x) { return atomicAdd(to, x); }

// Approximations of a few units in the last place; subnormal arguments and results become zero.
DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float log2_fast(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float rsqrt_fast(float x) {
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float rcp_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Correctly rounded.
DEVICE float sqrt_rn(float x) { return __fsqrt_rn(x); }
DEVICE double sqrt_rn(double x) { return __dsqrt_rn(x); }
DEVICE float div_rn(float a, float b) { return __fdiv_rn(a, b); }
DEVICE double div_rn(double a, double b) { return __ddiv_rn(a, b); }
DEVICE float fma_(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// Accurate to a few units in the last place, subnormals kept; host and device differ in the last bits.
DEVICE float exp_(float x) { return expf(x); }
DEVICE float log_(float x) { return logf(x); }
DEVICE float sin_(float x) { return sinf(x); }
DEVICE float cos_(float x) { return cosf(x); }
DEVICE float tanh_(float x) { return tanhf(x); }
DEVICE float erf_(float x) { return erff(x); }

// Exact. The larger and the smaller give the other argument for a NaN, and order -0 below +0.
DEVICE float fabs_(float x) { return fabsf(x); }
DEVICE float fmax_(float a, float b) { return fmaxf(a, b); }
DEVICE float fmin_(float a, float b) { return fminf(a, b); }
DEVICE float round_even(float x) { return rintf(x); }
DEVICE float floor_(float x) { return floorf(x); }
DEVICE float ceil_(float x) { return ceilf(x); }
DEVICE float trunc_(float x) { return truncf(x); }
DEVICE float copysign_(float magnitude, float sign) { return copysignf(magnitude, sign); }
// a + b rounded towards negative infinity.
DEVICE float add_down(float a, float b) { return __fadd_rd(a, b); }
// To the nearest integer, ties to even; saturates; NaN gives 0.
DEVICE i32 round_to_i32(float x) { return __float2int_rn(x); }

// To the nearest integer below; saturates; NaN gives 0.
DEVICE i32 floor_to_i32(float x) { return __float2int_rd(x); }
// Two integers limited to 0 .. 255 in the low half, `high` first; the low half of `rest` above them.
DEVICE u32 pack_limited_bytes(i32 high, i32 low, u32 rest) {
    u32 packed;
    asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, %3;" : "=r"(packed) : "r"(high), "r"(low), "r"(rest));
    return packed;
}

// x, which the compiler takes for another number: what was made of it before is made again rather than kept in
// registers.
DEVICE u32 renewed(u32 x) {
    asm volatile("" : "+r"(x));
    return x;
}

DEVICE u64 multiply_wide(u32 a, u32 b) {
    u64 product;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
    return product;
}
DEVICE u32 multiply_high(u32 a, u32 b) { return __umulhi(a, b); }
DEVICE u32 count_ones(u32 x) { return __popc(x); }
DEVICE u32 leading_zeros(u32 x) { return __clz(x); }
// Byte i of the result is byte (selector >> 4 i) & 7 of the eight bytes low, high (selectors have no bit 3).
DEVICE u32 permute_bytes(u32 low, u32 high, u32 selector) { return __byte_perm(low, high, selector); }

#else
#include "device.h"
#endif

// Of a struct that the host lays out too: its size there, which a Rust file asserts with the same number.
#define SIZE_ON_HOST(type, bytes) static_assert(sizeof(type) == bytes, #type ": the host lays it out otherwise")

// What needs no instruction of its own.

DEVICE float to_float(bf16 x) { return from_bits((u32)x << 16); }
// x, or what is left of it in a bf16.
DEVICE float rounded(float x, u32 narrow) { return narrow != 0 ? to_float(to_bf16(x)) : x; }
// The halves of a pair of bf16.
DEVICE float low_to_float(u32 pair) { return from_bits(pair << 16); }
DEVICE float high_to_float(u32 pair) { return from_bits(pair & 0xffff0000u); }

template <typename T> DEVICE T ceil_div(T a, T b) { return (a + b - 1) / b; }
template <typename T> DEVICE T min_(T a, T b) { return b < a ? b : a; }
template <typename T> DEVICE T max_(T a, T b) { return a < b ? b : a; }

// The same value in all lanes, in one fixed order: a butterfly over distances 16, 8, 4, 2, 1.
template <typename T> DEVICE T warp_sum(T x) {
    UNROLL
    for (u32 distance = 16; distance > 0; distance /= 2) x += shuffle_xor(x, distance);
    return x;
}
DEVICE float warp_max(float x) {
    UNROLL
    for (u32 distance = 16; distance > 0; distance /= 2) x = fmax_(x, shuffle_xor(x, distance));
    return x;
}
