#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "shared.h"

namespace emulator {

namespace {

// The alignment that cuMemAlloc promises.
constexpr u64 ALIGNMENT = 256;

// The poisoned part of an allocation; host memory backs only what is written.
constexpr u64 POISONED = u64(1) << 28;
// The poison that is there once and mapped as often as it is needed: most of what is allocated is never touched, and
// writing it would take longer than many a kernel.
constexpr u64 PATTERN = u64(1) << 24;
// Larger allocations are not watched for accesses of several blocks.
constexpr u64 WATCHED = u64(1) << 28;

struct Allocation {
    u64 bytes;
    u64 pages;  // between the two that fault, in bytes
    u8* mapping;
    std::shared_ptr<std::vector<u8>> forbidden;
    std::shared_ptr<Visits> visits;
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

__thread void* latest = nullptr;

// A file in memory that is full of poison, or -1.
int pattern() {
    static const int file = [] {
        const int made = memfd_create("poison", MFD_CLOEXEC);
        if (made < 0 || ftruncate(made, PATTERN) != 0) return -1;
        void* bytes = mmap(nullptr, PATTERN, PROT_READ | PROT_WRITE, MAP_SHARED, made, 0);
        if (bytes == MAP_FAILED) return -1;
        memset(bytes, POISON, PATTERN);
        munmap(bytes, PATTERN);
        return made;
    }();
    return file;
}

// The allocation that begins at or before an address, or null. The heap is locked.
const std::pair<const u64, Allocation>* before(u64 address) {
    auto found = heap().allocations.upper_bound(address);
    return found == heap().allocations.begin() ? nullptr : &*--found;
}

Range range_of(const std::pair<const u64, Allocation>& entry) {
    const auto& forbidden = entry.second.forbidden;
    return {entry.first, entry.second.bytes, forbidden ? forbidden->data() : nullptr, entry.second.visits.get()};
}

}  // namespace

void fill(void* to, u8 value, u64 bytes) {
    u8 *const begin = static_cast<u8*>(to), *const end = begin + bytes;
    if ((value != 0 && value != POISON) || bytes < PATTERN / 16) {
        memset(begin, value, bytes);
        return;
    }
    u8 *const first = begin + (-u64(begin) & (PAGE - 1)), *const last = end - (u64(end) & (PAGE - 1));
    memset(begin, value, first - begin);
    memset(last, value, end - last);
    const int file = value == 0 ? -1 : pattern(), zeros = value == 0 ? MAP_ANONYMOUS | MAP_NORESERVE : 0;
    for (u8* at = first; at < last; at += PATTERN) {
        const u64 part = u64(last - at) < PATTERN ? last - at : PATTERN;
        void* made = mmap(at, part, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | zeros, file, 0);
        if (made == MAP_FAILED) memset(at, value, part);
    }
}

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
    fill(first, POISON, pages < POISONED ? pages : POISONED);
    u8* const begin = first + pages - rounded;
    all.allocations[u64(begin)] = {bytes, pages, static_cast<u8*>(mapping), nullptr, nullptr};
    // Watching takes four times the memory that is touched.
    if (bytes <= WATCHED) all.allocations[u64(begin)].visits = std::make_shared<Visits>(bytes);
    latest = begin;
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
    std::lock_guard<std::mutex> lock(heap().mutex);
    const auto* entry = before(u64(address));
    if (entry == nullptr) return false;
    const u64 offset = u64(address) - entry->first, size = entry->second.bytes;
    return offset <= size && bytes <= size - offset && range_of(*entry).allows(offset, bytes);
}

bool find_range(u64 address, Range& range) {
    std::lock_guard<std::mutex> lock(heap().mutex);
    const auto* entry = before(address);
    if (entry == nullptr || address - entry->first >= entry->second.bytes) return false;
    range = range_of(*entry);
    return true;
}

bool forbid(void* address, u64 bytes) {
    std::lock_guard<std::mutex> lock(heap().mutex);
    auto found = heap().allocations.upper_bound(u64(address));
    if (found == heap().allocations.begin()) return false;
    --found;
    const u64 offset = u64(address) - found->first, size = found->second.bytes;
    if (offset > size || bytes > size - offset) return false;
    auto& forbidden = found->second.forbidden;
    if (!forbidden) forbidden = std::make_shared<std::vector<u8>>(size / 8 + 1);
    for (u64 i = offset; i < offset + bytes; i++) (*forbidden)[i / 8] |= 1 << i % 8;
    return true;
}

void* latest_allocation() { return latest; }

std::string describe_device(u64 address) {
    Heap& all = heap();
    std::lock_guard<std::mutex> lock(all.mutex);
    for (const auto& [begin, allocation] : all.allocations) {
        if (address - u64(allocation.mapping) >= allocation.pages + 2 * PAGE) continue;
        const std::string size = " an allocation of " + std::to_string(allocation.bytes) + " bytes";
        if (address < begin) return std::to_string(begin - address) + " bytes before" + size;
        const u64 offset = address - begin;
        if (offset < allocation.bytes) return "that is forbidden, at byte " + std::to_string(offset) + " of" + size;
        return std::to_string(offset - allocation.bytes) + " bytes past the end of" + size;
    }
    char text[64];
    snprintf(text, sizeof text, "that is not the device's, at %#llx", address);
    return text;
}

}  // namespace emulator
