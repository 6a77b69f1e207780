#include "memory.h"

#include <sys/mman.h>

#include <cstring>
#include <map>
#include <mutex>

#include "shared.h"

namespace emulator {

namespace {

constexpr u64 PAGE = 4096;
// What cuMemAlloc promises.
constexpr u64 ALIGNMENT = 256;

struct Allocation {
    u64 bytes;
    u64 pages;  // between the two that fault, in bytes
    u8* mapping;
};

struct Heap {
    std::mutex mutex;
    std::map<u64, Allocation> allocations;
    u64 live = 0;
    u64 made = 0;
};

// Never destroyed: threads may outlive the destructors of a library.
Heap& heap() {
    static Heap* const heap = new Heap();
    return *heap;
}

}  // namespace

// The allocation ends where a page ends, as nearly as its alignment allows: a multiple of 256 bytes does exactly.
void* allocate(u64 bytes, u64 limit) {
    Heap& all = heap();
    std::lock_guard<std::mutex> lock(all.mutex);
    if (limit != 0 && (bytes > limit || all.live > limit - bytes)) return nullptr;
    const u64 rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT, pages = (rounded + PAGE - 1) / PAGE * PAGE;
    void* mapping = mmap(nullptr, pages + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) return nullptr;
    u8* const first = static_cast<u8*>(mapping) + PAGE;
    if (mprotect(first, pages, PROT_READ | PROT_WRITE) != 0) return nullptr;
    u8* const begin = first + pages - rounded;
    memset(begin, POISON, rounded);
    all.allocations[u64(begin)] = {bytes, pages, static_cast<u8*>(mapping)};
    all.live += bytes;
    all.made++;
    return begin;
}

bool release(void* address) {
    Heap& all = heap();
    std::lock_guard<std::mutex> lock(all.mutex);
    const auto found = all.allocations.find(u64(address));
    if (found == all.allocations.end()) return false;
    all.live -= found->second.bytes;
    munmap(found->second.mapping, found->second.pages + 2 * PAGE);
    all.allocations.erase(found);
    return true;
}

u64 live_bytes() {
    std::lock_guard<std::mutex> lock(heap().mutex);
    return heap().live;
}

u64 allocations() {
    std::lock_guard<std::mutex> lock(heap().mutex);
    return heap().made;
}

bool inside(const void* address, u64 bytes) {
    Heap& all = heap();
    std::lock_guard<std::mutex> lock(all.mutex);
    auto found = all.allocations.upper_bound(u64(address));
    if (found == all.allocations.begin()) return false;
    --found;
    const u64 offset = u64(address) - found->first;
    return offset <= found->second.bytes && bytes <= found->second.bytes - offset;
}

std::string describe_device(u64 address) {
    Heap& all = heap();
    std::lock_guard<std::mutex> lock(all.mutex);
    for (const auto& [begin, allocation] : all.allocations) {
        if (address - u64(allocation.mapping) >= allocation.pages + 2 * PAGE) continue;
        const std::string size = " an allocation of " + std::to_string(allocation.bytes) + " bytes";
        if (address < begin) return "access " + std::to_string(begin - address) + " bytes before" + size;
        return "access " + std::to_string(address - begin - allocation.bytes) + " bytes past the end of" + size;
    }
    return "access to no memory of the device, at " + std::to_string(address);
}

}  // namespace emulator
