// Finds unordered accesses to shared memory, whatever the order in which the threads ran in this launch.
#pragma once
#include "types.h"

namespace emulator {

// Counts what orders accesses: barriers of the block, and sync_warp for the lanes of one warp.
struct Clock {
    u32 now = 1;
    u32 last_block = 1;      // when all threads last met
    u32 last_warp[32] = {};  // when the lanes of a warp last met by themselves

    void block() { last_block = ++now; }
    void warp(u32 number) { last_warp[number] = ++now; }
    u32 met(u32 warp) const { return last_warp[warp] > last_block ? last_warp[warp] : last_block; }
};

// The other access of a race.
struct Race {
    bool found;
    bool written;
    bool copied;  // asynchronously, and not waited for
    u32 thread;
};

// Who last read and wrote each word of shared memory, by bytes.
class Shadow {
  public:
    Shadow();
    ~Shadow();
    Shadow(const Shadow&) = delete;

    // For a new block: forgets all accesses.
    void start(Clock& clock);
    // An access of a thread to bytes from `offset` on. A copy is a write that lasts until the same thread writes the
    // same bytes again, which marks the end of the copy.
    enum Kind { Read, Write, Copy };
    Race access(const Clock& clock, u32 thread, u64 offset, u32 bytes, Kind kind);
    // For a block that ended in the middle: copies are forgotten too.
    void damage() { damaged = true; }

    // Bytes of shared memory that are watched.
    static constexpr u64 BYTES = 1280 << 10;

  private:
    // A thread's access to the bytes of a word in `mask`, which is 0 before there was any.
    struct Access {
        u32 time;
        u16 thread;
        u16 mask;
    };
    // The last two writes and reads that nothing orders. A third one takes the place of none, so that its races may be
    // missed where those of the two are found.
    struct Cell {
        Access writes[2], reads[2];
    };
    static void note(Access (&slots)[2], const Clock& clock, const Access& now);
    static u32 latest(const Access (&slots)[2]);
    static bool known(const Access (&slots)[2], const Access& now);
    Cell* const cells;
    bool damaged = false;
};

}  // namespace emulator
