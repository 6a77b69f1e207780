// Every memory access of a kernel: the functions that the compiler calls with -fsanitize=thread, and the checks in
// them. No sanitizer library is linked.
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
    if (const Range* range = range_at(address)) return access_device(*range, address, bytes, write, from);
    // Other host memory that a kernel may read: its parameters and constants.
    if (!write && (launch->parameters.contains(address, bytes) || in_library(address))) return;
    report_access(address, bytes, write, from);
}

// The allocation at an address: one that this block has touched before, or any.
const Range* Block::range_at(u64 address) {
    for (const Range& range : ranges) {
        if (address - range.begin < range.bytes) return &range;
    }
    Range range;
    if (launch->parameters.contains(address, 1) || !find_range(address, range)) return nullptr;
    ranges.push_back(range);
    return &ranges.back();
}

void Block::access_device(const Range& range, u64 address, u32 bytes, bool write, const void* from) {
    const u64 offset = address - range.begin;
    if (bytes > range.bytes - offset || !range.allows(offset, bytes)) report_access(address, bytes, write, from);
    if (range.visits == nullptr) return;
    const Conflict conflict = range.visits->access(visitor, offset, bytes, write);
    if (conflict.found) report_conflict(conflict, write, from);
}

void Block::check_atomic(u64 address, u32 bytes, const void* from) {
    const Range* range = range_at(address);
    const u64 offset = range != nullptr ? address - range->begin : 0;
    const bool fine = range != nullptr && bytes <= range->bytes - offset && range->allows(offset, bytes);
    if (!fine) report_access(address, bytes, true, from);
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

void Block::report_conflict(const Conflict& conflict, bool write, const void* from) {
    faulty = from;
    const u32 x = conflict.block % launch->grid[0], rest = conflict.block / launch->grid[0];
    const std::string other = "(" + std::to_string(x) + ", " + std::to_string(rest % launch->grid[1]) + ", " +
                              std::to_string(rest / launch->grid[1]) + ")";
    abandon(std::string(write ? "writes" : "reads") + " device memory that is " +
                (conflict.written ? "written" : "read") + " by block " + other + " with nothing between to order them",
            false);
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

// Atomics do not race with each other; only their time is recorded, and it is taken afterwards: between an earlier
// moment and the operation another block may fence and do its own, which this one then knows of.
template <typename T, typename Operation>
auto atomic_access(const T* address, const void* from, Operation operation) {
    Block* const block = running;
    if (block == nullptr || !block->checks() || block->shared.contains(address, sizeof(T))) return operation();
    block->check_atomic(reinterpret_cast<u64>(address), sizeof(T), from);
    const auto result = operation();
    block->acquire();
    return result;
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
#define EXCHANGE(at, seen, x) __atomic_compare_exchange_n(at, seen, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)
#define ATOMIC(bits, type)                                                                                      \
    HOOK type __tsan_atomic##bits##_load(const type* at, int) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); } \
    HOOK type __tsan_atomic##bits##_fetch_add(type* at, type x, int) {                                          \
        return emulator::atomic_access(at, FROM, [&] { return __atomic_fetch_add(at, x, __ATOMIC_SEQ_CST); });  \
    }                                                                                                           \
    HOOK int __tsan_atomic##bits##_compare_exchange_strong(type* at, type* seen, type x, int, int) {            \
        return emulator::atomic_access(at, FROM, [&] { return EXCHANGE(at, seen, x); });                        \
    }                                                                                                           \
    HOOK int __tsan_atomic##bits##_compare_exchange_weak(type* at, type* seen, type x, int, int) {              \
        return emulator::atomic_access(at, FROM, [&] { return EXCHANGE(at, seen, x); });                        \
    }                                                                                                           \
    HOOK type __tsan_atomic##bits##_compare_exchange_val(type* at, type seen, type x, int, int) {               \
        emulator::atomic_access(at, FROM, [&] { return EXCHANGE(at, &seen, x); });                              \
        return seen;                                                                                            \
    }
ATOMIC(32, u32)
ATOMIC(64, u64)
HOOK void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
