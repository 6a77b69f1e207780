// The shared memory of a block: poisoned at the start, with fences that show writes beyond an array.
#pragma once
#include <string>
#include <vector>

#include "launch.h"

namespace emulator {

class Shared {
  public:
    Shared();
    ~Shared();
    Shared(const Shared&) = delete;

    // For a new block: no static arrays, and `dynamic` poisoned bytes which end where a page ends that faults.
    void start(u32 dynamic);
    // The array of one declaration, the same for all threads of the block; null: too much shared memory in all.
    void* array(const void* site, u64 bytes);
    void* dynamic() const { return dynamic_begin; }
    // Whether an address is of what is mapped for shared memory, and how far from its beginning.
    bool covers(u64 address) const { return address - u64(mapping) < MAPPED; }
    u64 offset(const void* address) const { return u64(address) - u64(mapping); }
    // Whether `bytes` at an address are shared memory.
    bool contains(const void* address, u64 bytes) const;
    // Which array was written beyond its end; empty if none was.
    std::string damage() const;
    // Where an address lies, to follow the word "memory"; nothing if it is not shared memory.
    std::string describe(u64 address) const;

    // Two areas, each with a page that faults on either side.
    static constexpr u64 AREA = 512 << 10, MAPPED = 2 * AREA + 3 * PAGE;

  private:
    struct Array {
        const void* site;
        u8* begin;
        u64 bytes;
    };
    u8* mapping;
    u8* dynamic_begin;
    u64 dynamic_bytes = 0;
    u64 used = 0;  // bytes of the area of static arrays, fences included
    u64 total = 0;
    std::vector<Array> arrays;
};

// The byte that undefined memory is filled with: NaN as a float and as a bfloat16, far out of range as an index.
constexpr u8 POISON = 0xff;

}  // namespace emulator
