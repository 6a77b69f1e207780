// Device memory: every allocation lies between pages that fault.
#pragma once
#include <string>

#include "types.h"

namespace emulator {

// At most `limit` bytes may live at once (0: no limit). Gives null when they would not fit.
void* allocate(u64 bytes, u64 limit);
// Whether there was such an allocation.
bool release(void* address);
u64 live_bytes();
// Allocations ever made.
u64 allocations();
// Whether `bytes` at an address lie in one allocation.
bool inside(const void* address, u64 bytes);
std::string describe_device(u64 address);

}  // namespace emulator
