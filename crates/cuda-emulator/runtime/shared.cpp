#include "shared.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulator {

namespace {

// Bytes before and after each array that must not change.
constexpr u64 FENCE = 64;
constexpr u8 FENCE_BYTE = 0xfd;

bool intact(const u8* fence) {
    for (u64 i = 0; i < FENCE; i++) {
        if (fence[i] != FENCE_BYTE) return false;
    }
    return true;
}

}  // namespace

// Static arrays grow up in the first area, dynamic memory ends at the end of the second.
Shared::Shared() {
    void* all = mmap(nullptr, MAPPED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) abort();
    mapping = static_cast<u8*>(all);
    if (mprotect(mapping + PAGE, AREA, PROT_READ | PROT_WRITE) != 0) abort();
    if (mprotect(mapping + AREA + 2 * PAGE, AREA, PROT_READ | PROT_WRITE) != 0) abort();
    dynamic_begin = mapping + 2 * (AREA + PAGE);
}

Shared::~Shared() { munmap(mapping, MAPPED); }

void Shared::start(u32 bytes) {
    arrays.clear();
    used = 0;
    dynamic_bytes = (u64(bytes) + 15) / 16 * 16;
    total = dynamic_bytes;
    dynamic_begin = mapping + 2 * (AREA + PAGE) - dynamic_bytes;
    memset(dynamic_begin, POISON, dynamic_bytes);
    memset(dynamic_begin - FENCE, FENCE_BYTE, FENCE);
}

void* Shared::array(const void* site, u64 bytes) {
    for (const Array& array : arrays) {
        if (array.site == site) return array.begin;
    }
    const u64 rounded = (bytes + 15) / 16 * 16;
    total += rounded;
    if (total > SHARED_MOST) return nullptr;
    u8* begin = mapping + PAGE + used + FENCE;
    memset(begin - FENCE, FENCE_BYTE, FENCE);
    memset(begin, POISON, bytes);
    memset(begin + bytes, FENCE_BYTE, rounded - bytes + FENCE);
    used += FENCE + rounded;
    arrays.push_back({site, begin, bytes});
    return begin;
}

bool Shared::contains(const void* address, u64 bytes) const {
    const u8* at = static_cast<const u8*>(address);
    if (at >= dynamic_begin && at + bytes <= dynamic_begin + dynamic_bytes) return true;
    for (const Array& array : arrays) {
        if (at >= array.begin && at + bytes <= array.begin + array.bytes) return true;
    }
    return false;
}

std::string Shared::damage() const {
    if (!intact(dynamic_begin - FENCE)) return "wrote before its dynamic shared memory";
    for (const Array& array : arrays) {
        const std::string which = " a shared array of " + std::to_string(array.bytes) + " bytes";
        if (!intact(array.begin - FENCE)) return "wrote before" + which;
        if (!intact(array.begin + array.bytes)) return "wrote beyond" + which;
    }
    return "";
}

std::string Shared::describe(u64 address) const {
    if (!covers(address)) return "";
    const auto past = [address](const u8* begin, u64 bytes) { return address - u64(begin) - bytes; };
    const auto text = [](u64 number) { return std::to_string(number) + " bytes"; };
    if (address >= u64(dynamic_begin) + dynamic_bytes) {
        return text(past(dynamic_begin, dynamic_bytes)) + " past the end of " + text(dynamic_bytes) +
               " of dynamic shared memory";
    }
    for (const Array& array : arrays) {
        const u64 beyond = past(array.begin, array.bytes);
        if (beyond < FENCE) return text(beyond) + " past the end of a shared array of " + text(array.bytes);
    }
    return "outside of its shared memory";
}

}  // namespace emulator
