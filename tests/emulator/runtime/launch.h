// Launching a kernel over a grid.
#pragma once
#include <atomic>
#include <mutex>
#include <string>

#include "order.h"
#include "types.h"
#include "interface.h"

namespace emulator {

constexpr u32 WARP = 32;
constexpr u32 MAX_THREADS = 1024;
// Shared memory of a block: what every kernel may have, and what one that asked for it may have (as an H100).
constexpr u32 SHARED_DEFAULT = 48 << 10;
constexpr u32 SHARED_MOST = 227 << 10;
constexpr int DEFAULT_ORDER = -1;

struct Launch {
    const Kernel* kernel;
    u32 grid[3];
    u32 threads;
    u32 dynamic_bytes;
    void** parameters;
    int order;

    std::atomic<u64> next_block{0};
    std::atomic<bool> failed{false};
    std::mutex mutex;
    std::string failure;
    bool fault = false;

    u64 blocks() const { return u64(grid[0]) * grid[1] * grid[2]; }
    // Remembers the first failure.
    void fail(const std::string& text, bool fault);
};

const Kernel* find(const char* name);

// The order of the calling thread's launches: DEFAULT_ORDER for what the environment says.
void set_order(int order);
int order_of_this_thread();

// What went wrong (nothing: an empty text), and whether it was an access to memory.
struct Outcome {
    std::string text;
    bool fault;
};

// Runs all blocks.
Outcome run(const Kernel& kernel, const u32 (&grid)[3], u32 threads, u32 dynamic_bytes, void** parameters,
            int order);

}  // namespace emulator
