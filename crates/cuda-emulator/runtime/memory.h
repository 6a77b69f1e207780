// Device memory: every allocation lies between pages that fault.
#pragma once
#include <string>

#include "blocks.h"
#include "types.h"

namespace emulator {

// At most `limit` bytes may live at once (0: no limit). Gives null when they would not fit.
void* allocate(u64 bytes, u64 limit);
// Does what memset does to private, writable memory; large parts that become zero or poison take no time and, until
// they are written, no memory.
void fill(void* to, u8 value, u64 bytes);
// Whether the address was an allocation.
bool release(void* address);
u64 live_bytes();
// Allocations ever made.
u64 allocations();
// Whether `bytes` at an address lie in one allocation and may be touched.
bool inside(const void* address, u64 bytes);
// Forbids these bytes, which must lie in one allocation, to kernels, copies and products; false if they do not.
bool forbid(void* address, u64 bytes);
// The last allocation of this host thread.
void* latest_allocation();

// Device memory as a launch sees it.
struct Range {
    u64 begin, bytes;
    // One bit for each forbidden byte; null if there is none.
    const u8* forbidden;
    // Null for an allocation that is too large to be watched for races.
    Visits* visits;

    bool allows(u64 offset, u64 count) const {
        for (u64 i = offset; forbidden != nullptr && i < offset + count; i++) {
            if ((forbidden[i / 8] >> i % 8 & 1) != 0) return false;
        }
        return true;
    }
};
// The allocation with the byte at an address, if there is one.
bool find_range(u64 address, Range& range);

// Where an address lies, to follow the word "memory".
std::string describe_device(u64 address);

}  // namespace emulator
