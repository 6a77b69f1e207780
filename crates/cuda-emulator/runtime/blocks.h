// Finds unordered accesses to device memory by two blocks of a launch. A device runs blocks in any order or in
// parallel; here they mostly run one after the other, which would hide such accesses.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>

#include "types.h"

namespace emulator {

// What may order the accesses of two blocks: one has fenced after its own, and the other has since done an atomic
// operation, by which it can know (the last block to finish does).
class Fences {
  public:
    explicit Fences(u64 blocks) : blocks(blocks) {}

    void fence(u64 block);
    // The moment of an atomic operation.
    u64 moment() const { return now; }
    // Whether `block` had fenced before that moment.
    bool before(u64 block, u64 moment) const;

  private:
    const u64 blocks;
    std::atomic<u64> now{0};
    std::once_flag made;
    std::unique_ptr<std::atomic<u64>[]> times;
    std::atomic<bool> any{false};
};

// A block as the one that accesses memory now.
struct Visitor {
    u32 launch;
    u32 block;
    u64 moment;  // of its last atomic operation
    const Fences* fences;
};

// Another block that accessed the same bytes.
struct Conflict {
    bool found;
    bool written;
    u32 block;
};

// Which block last read and wrote each word of an allocation, and which bytes of it.
class Visits {
  public:
    explicit Visits(u64 bytes);
    ~Visits();
    Visits(const Visits&) = delete;

    Conflict access(const Visitor& visitor, u64 offset, u32 bytes, bool write);

  private:
    // One atomic number each, so that blocks that run in parallel see consistent values.
    struct Cell {
        std::atomic<u64> written, read;
    };
    const u64 words;
    Cell* const cells;
};

// A number for a launch, unique among the last few million.
u32 new_launch();

}  // namespace emulator
