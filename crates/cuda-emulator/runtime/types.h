// The integers of gpu.h, for the emulator's own sources.
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef long long i64;
typedef unsigned short bf16;
struct alignas(16) Bits16 {
    u32 x[4];
};
struct alignas(8) Bits8 {
    u32 x[2];
};

// Granularity of memory protection: at least the largest page size of the architecture.
#if defined(__x86_64__)
constexpr u64 PAGE = 4096;
#else
constexpr u64 PAGE = 65536;
#endif
