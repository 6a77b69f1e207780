// Every access to memory that a kernel makes: the functions that the compiler calls with -fsanitize=thread, and what is
// checked there. No library of a sanitizer is linked.
#include <cstring>

#include "block.h"
#include "lines.h"

namespace emulator {

void Block::access(u64 address, u32 bytes, bool write, const void* from) {
    if (address - current->stack < STACK) return;
    if (shared.covers(address)) {
        if (!shared.contains(reinterpret_cast<void*>(address), bytes)) report_access(address, bytes, write, from);
        return access_shared(reinterpret_cast<void*>(address), bytes, write, from);
    }
    // What a thread knows of itself.
    if (!write && (address - u64(threads) < MAX_THREADS * sizeof(Thread) || address == u64(&self))) return;
    for (const Range& range : ranges) {
        const u64 offset = address - range.begin;
        if (offset >= range.bytes) continue;
        if (bytes > range.bytes - offset || !range.allows(offset, bytes)) report_access(address, bytes, write, from);
        return;
    }
    access_elsewhere(address, bytes, write, from);
}

// What a kernel reads of the host, which is its parameters and constants, or device memory that this launch has not
// touched yet.
void Block::access_elsewhere(u64 address, u32 bytes, bool write, const void* from) {
    if (!write && (launch->parameters.contains(address, bytes) || in_library(address))) return;
    Range range;
    if (find_range(address, range)) {
        ranges.push_back(range);
        return access(address, bytes, write, from);
    }
    report_access(address, bytes, write, from);
}

void Block::access_shared(const void* address, u32 bytes, bool write, const void* from) {
    if (!launch->checked) return;
    const Race race =
        shadow.access(clock, current->thread, shared.offset(address), bytes, write ? Shadow::Write : Shadow::Read);
    if (race.found) report_race(race, write, from);
}

void Block::report_access(u64 address, u32 bytes, bool write, const void* from) {
    faulty = from;
    // The first byte that is not allowed says more than the first of the access.
    Range range;
    while (bytes > 1 && find_range(address, range) && range.allows(address - range.begin, 1)) address++, bytes--;
    abandon(std::string(write ? "writes" : "reads") + " memory " + describe(address), true);
}

void Block::report_race(const Race& race, bool write, const void* from) {
    faulty = from;
    abandon((write ? "writes " : "reads ") + other_access(race), false);
}

std::string Block::other_access(const Race& race) {
    const std::string thread = " thread " + std::to_string(race.thread);
    if (race.copied) return "shared memory that" + thread + " copies to and has not waited for";
    return std::string("shared memory that is ") + (race.written ? "written" : "read") + " by" + thread +
           " with nothing between to order them";
}

namespace {

inline void access(const void* address, u64 bytes, bool write, const void* from) {
    Block* const block = running;
    if (block != nullptr && block->checks()) block->access(reinterpret_cast<u64>(address), bytes, write, from);
}

// Atomics do not race with each other: where they go to shared memory, nothing is noted of them.
template <typename T>
void atomic_access(const T* address, const void* from) {
    Block* const block = running;
    if (block == nullptr || !block->checks() || block->shared.contains(address, sizeof(T))) return;
    block->access(reinterpret_cast<u64>(address), sizeof(T), true, from);
}

}  // namespace

}  // namespace emulator

#define HOOK extern "C" __attribute__((visibility("hidden")))
#define FROM __builtin_return_address(0)
#define ACCESS(bytes)                                                                                    \
    HOOK void __tsan_read##bytes(const void* at) { emulator::access(at, bytes, false, FROM); }           \
    HOOK void __tsan_write##bytes(const void* at) { emulator::access(at, bytes, true, FROM); }           \
    HOOK void __tsan_unaligned_read##bytes(const void* at) { emulator::access(at, bytes, false, FROM); } \
    HOOK void __tsan_unaligned_write##bytes(const void* at) { emulator::access(at, bytes, true, FROM); } \
    HOOK void __tsan_read_write##bytes(const void* at) { emulator::access(at, bytes, true, FROM); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

HOOK void __tsan_read_range(const void* at, size_t bytes) { emulator::access(at, bytes, false, FROM); }
HOOK void __tsan_write_range(const void* at, size_t bytes) { emulator::access(at, bytes, true, FROM); }
HOOK void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
    emulator::access(from, bytes, false, FROM);
    emulator::access(to, bytes, true, FROM);
    return memcpy(to, from, bytes);
}
HOOK void* __tsan_memmove(void* to, const void* from, size_t bytes) {
    emulator::access(from, bytes, false, FROM);
    emulator::access(to, bytes, true, FROM);
    return memmove(to, from, bytes);
}
HOOK void* __tsan_memset(void* to, int value, size_t bytes) {
    emulator::access(to, bytes, true, FROM);
    return memset(to, value, bytes);
}

HOOK void __tsan_init() {}
HOOK void __tsan_func_entry(void*) {}
HOOK void __tsan_func_exit() {}

// Atomics, as gpu.h uses them.
#define ATOMIC(bits, type)                                                                                      \
    HOOK type __tsan_atomic##bits##_load(const type* at, int) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); } \
    HOOK type __tsan_atomic##bits##_fetch_add(type* at, type x, int) {                                          \
        emulator::atomic_access(at, FROM);                                                                      \
        return __atomic_fetch_add(at, x, __ATOMIC_SEQ_CST);                                                     \
    }                                                                                                           \
    HOOK int __tsan_atomic##bits##_compare_exchange_strong(type* at, type* seen, type x, int, int) {            \
        emulator::atomic_access(at, FROM);                                                                      \
        return __atomic_compare_exchange_n(at, seen, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);             \
    }                                                                                                           \
    HOOK int __tsan_atomic##bits##_compare_exchange_weak(type* at, type* seen, type x, int, int) {              \
        emulator::atomic_access(at, FROM);                                                                      \
        return __atomic_compare_exchange_n(at, seen, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);             \
    }                                                                                                           \
    HOOK type __tsan_atomic##bits##_compare_exchange_val(type* at, type seen, type x, int, int) {               \
        emulator::atomic_access(at, FROM);                                                                      \
        __atomic_compare_exchange_n(at, &seen, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                   \
        return seen;                                                                                            \
    }
ATOMIC(32, u32)
ATOMIC(64, u64)
HOOK void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
