// The emulator's half of gpu.h: the same names for a host compiler. It includes no system header, so that kernels may
// use every name that is free in CUDA. Each function that waits takes its caller's location, for error reports.
#pragma once

#include "interface.h"

#define DEVICE static inline
#define CONSTANT static const
#define UNROLL
#define UNROLL_4
#define NO_UNROLL

#define KERNEL(max_threads, name, ...) KERNEL_RESIDENT(max_threads, 1, name, __VA_ARGS__)
#define KERNEL_RESIDENT(max_threads, min_blocks, name, ...)                                   \
    static void kernel_##name(__VA_ARGS__);                                                   \
    static ::emulator::Kernel registered_##name(#name, __FILE__, max_threads,                 \
                                                (::emulator::Entry<&kernel_##name>*)nullptr); \
    static void kernel_##name(__VA_ARGS__)

#define TABLE const

#define SHARED(type, name, count) \
    static char site_of_##name;   \
    type(&name)[count] = *(type(*)[count])::emulator::static_shared(&site_of_##name, sizeof(type) * (count))
#define DYNAMIC_SHARED(type, name) type* const name = (type*)::emulator::dynamic_shared()

#define REQUIRE(condition) ((condition) ? (void)0 : ::emulator::fail("does not hold: " #condition, __FILE__, __LINE__))

// The caller's location: the last parameters of every function that can wait or fail.
#define PLACE const char *file = __builtin_FILE(), u32 line = __builtin_LINE()

DEVICE u32 thread() { return ::emulator::self->thread; }
DEVICE u32 threads() { return ::emulator::self->threads; }
DEVICE u32 warp() { return ::emulator::self->thread >> 5; }
DEVICE u32 lane() { return ::emulator::self->thread & 31; }
DEVICE u32 block_x() { return ::emulator::self->block[0]; }
DEVICE u32 block_y() { return ::emulator::self->block[1]; }
DEVICE u32 block_z() { return ::emulator::self->block[2]; }
DEVICE u32 grid_x() { return ::emulator::self->grid[0]; }
DEVICE u32 grid_y() { return ::emulator::self->grid[1]; }
DEVICE u32 grid_z() { return ::emulator::self->grid[2]; }

DEVICE void sync_threads(PLACE) { ::emulator::barrier(file, line); }
DEVICE void sync_warp(PLACE) { ::emulator::sync_warp(file, line); }
DEVICE void fence() { ::emulator::fence(); }

// A lane whose source is outside the warp keeps its own value.
template <typename T>
DEVICE T shuffle_from(T x, u32 from, const char* file, u32 line) {
    return ::emulator::narrow<T>(::emulator::shuffle(::emulator::widen(x), from < 32 ? from : lane(), file, line));
}
template <typename T>
DEVICE T shuffle_xor(T x, u32 mask, PLACE) {
    return shuffle_from(x, lane() ^ mask, file, line);
}
template <typename T>
DEVICE T shuffle_down(T x, u32 by, PLACE) {
    return shuffle_from(x, lane() + by, file, line);
}
template <typename T>
DEVICE T shuffle_up(T x, u32 by, PLACE) {
    return shuffle_from(x, lane() - by, file, line);
}
template <typename T>
DEVICE T shuffle(T x, u32 from, PLACE) {
    return shuffle_from(x, from & 31, file, line);
}
DEVICE u32 ballot(bool condition, PLACE) { return ::emulator::ballot(condition, file, line); }

DEVICE float from_bits(u32 bits) { return ::emulator::cast<float>(bits); }
DEVICE u32 bits(float x) { return ::emulator::cast<u32>(x); }

DEVICE bf16 to_bf16(float x) {
    const u32 from = bits(x);
    if (x != x) return 0x7fff;
    return (bf16)((from + 0x7fffu + ((from >> 16) & 1)) >> 16);
}
DEVICE u32 pack_bf16(float low, float high) { return (u32)to_bf16(low) | (u32)to_bf16(high) << 16; }
DEVICE u16 float_to_f16(float x) { return ::emulator::float_to_f16(x); }
DEVICE float f16_to_float(u16 half) { return ::emulator::f16_to_float(half); }

DEVICE Bits16 load_16(const void* from, PLACE) { return *::emulator::aligned<Bits16>(from, file, line); }
DEVICE void store_16(void* to, Bits16 bits, PLACE) { *(Bits16*)::emulator::aligned<Bits16>(to, file, line) = bits; }
DEVICE Bits8 load_8(const void* from, PLACE) { return *::emulator::aligned<Bits8>(from, file, line); }
DEVICE void store_8(void* to, Bits8 bits, PLACE) { *(Bits8*)::emulator::aligned<Bits8>(to, file, line) = bits; }
DEVICE Bits16 load_16_once(const void* from, PLACE) { return load_16(from, file, line); }
DEVICE void store_16_once(void* to, Bits16 bits, PLACE) { store_16(to, bits, file, line); }

DEVICE void copy_async_16(void* shared, const void* global, bool in_range, PLACE) {
    ::emulator::copy_async(shared, global, in_range, file, line);
}
DEVICE void commit_async() { ::emulator::commit_async(); }
template <int N>
DEVICE void wait_async() {
    ::emulator::wait_async(N);
}

DEVICE void load_matrix_x4(u32 (&r)[4], const void* row, PLACE) {
    ::emulator::load_matrix(r, 4, false, row, file, line);
}
DEVICE void load_matrix_x4_transposed(u32 (&r)[4], const void* row, PLACE) {
    ::emulator::load_matrix(r, 4, true, row, file, line);
}
DEVICE void load_matrix_x2(u32 (&r)[2], const void* row, PLACE) {
    ::emulator::load_matrix(r, 2, false, row, file, line);
}
DEVICE void load_matrix_x2_transposed(u32 (&r)[2], const void* row, PLACE) {
    ::emulator::load_matrix(r, 2, true, row, file, line);
}
DEVICE void mma_bf16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], PLACE) {
    ::emulator::mma_bf16(d, a, b, file, line);
}
DEVICE void mma_s8(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2], const i32 (&c)[4], PLACE) {
    ::emulator::mma_s8(d, a, b, c, file, line);
}
#define HAS_FP8 1
DEVICE void mma_e4m3(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], const float (&c)[4], PLACE) {
    ::emulator::mma_e4m3(d, a, b, c, file, line);
}

DEVICE u32 atomic_add(u32* to, u32 x) { return __atomic_fetch_add(to, x, __ATOMIC_RELAXED); }
DEVICE u64 atomic_add(u64* to, u64 x) { return __atomic_fetch_add(to, x, __ATOMIC_RELAXED); }
DEVICE u32 atomic_max(u32* to, u32 x) {
    u32 seen = __atomic_load_n(to, __ATOMIC_RELAXED);
    while (seen < x && !__atomic_compare_exchange_n(to, &seen, x, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return seen;
}
DEVICE float atomic_add(float* to, float x) {
    u32 seen = __atomic_load_n((u32*)to, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n((u32*)to, &seen, bits(from_bits(seen) + x), true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {}
    return from_bits(seen);
}

DEVICE float exp2_fast(float x) { return ::emulator::flush(__builtin_exp2f(::emulator::flush(x))); }
DEVICE float log2_fast(float x) { return ::emulator::flush(__builtin_log2f(::emulator::flush(x))); }
DEVICE float rsqrt_fast(float x) { return ::emulator::flush(1.0f / __builtin_sqrtf(::emulator::flush(x))); }
DEVICE float rcp_fast(float x) { return ::emulator::flush(1.0f / ::emulator::flush(x)); }

DEVICE float sqrt_rn(float x) { return __builtin_sqrtf(x); }
DEVICE double sqrt_rn(double x) { return __builtin_sqrt(x); }
DEVICE float div_rn(float a, float b) { return a / b; }
DEVICE double div_rn(double a, double b) { return a / b; }
DEVICE float fma_(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

DEVICE float exp_(float x) { return __builtin_expf(x); }
DEVICE float log_(float x) { return __builtin_logf(x); }
DEVICE float sin_(float x) { return __builtin_sinf(x); }
DEVICE float cos_(float x) { return __builtin_cosf(x); }
DEVICE float tanh_(float x) { return __builtin_tanhf(x); }
DEVICE float erf_(float x) { return __builtin_erff(x); }

DEVICE float fabs_(float x) { return __builtin_fabsf(x); }
DEVICE float fmax_(float a, float b) {
    if (a != a) return b;
    if (b != b) return a;
    return a > b || (a == b && !__builtin_signbit(a)) ? a : b;
}
DEVICE float fmin_(float a, float b) {
    if (a != a) return b;
    if (b != b) return a;
    return a < b || (a == b && __builtin_signbit(a)) ? a : b;
}
DEVICE float round_even(float x) { return __builtin_rintf(x); }
DEVICE float floor_(float x) { return __builtin_floorf(x); }
DEVICE float ceil_(float x) { return __builtin_ceilf(x); }
DEVICE float trunc_(float x) { return __builtin_truncf(x); }
DEVICE float copysign_(float magnitude, float sign) { return __builtin_copysignf(magnitude, sign); }
DEVICE float add_down(float a, float b) {
    const float sum = a + b, part = sum - a;
    // What the sum lacks, exactly: if that is negative, the sum was rounded up.
    const float rest = (a - (sum - part)) + (b - part);
    return rest < 0.0f ? __builtin_nextafterf(sum, -__builtin_inff()) : sum;
}
DEVICE i32 round_to_i32(float x) {
    if (x != x) return 0;
    if (x >= 2147483648.0f) return 2147483647;
    return x <= -2147483648.0f ? -2147483647 - 1 : (i32)__builtin_rintf(x);
}

DEVICE i32 floor_to_i32(float x) {
    if (x != x) return 0;
    if (x >= 2147483648.0f) return 2147483647;
    return x < -2147483648.0f ? -2147483647 - 1 : (i32)__builtin_floorf(x);
}
DEVICE u32 limited_byte(i32 x) { return x < 0 ? 0 : x > 255 ? 255 : (u32)x; }
DEVICE u32 pack_limited_bytes(i32 high, i32 low, u32 rest) {
    return rest << 16 | limited_byte(high) << 8 | limited_byte(low);
}

DEVICE u32 renewed(u32 x) { return x; }

DEVICE u64 multiply_wide(u32 a, u32 b) { return (u64)a * b; }
DEVICE u32 multiply_high(u32 a, u32 b) { return (u32)((u64)a * b >> 32); }
DEVICE u32 count_ones(u32 x) { return __builtin_popcount(x); }
DEVICE u32 leading_zeros(u32 x) { return x == 0 ? 32 : __builtin_clz(x); }
DEVICE u32 permute_bytes(u32 low, u32 high, u32 selector) {
    const u64 bytes = (u64)high << 32 | low;
    u32 picked = 0;
    for (u32 i = 0; i < 4; i++) picked |= (u32)(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return picked;
}
