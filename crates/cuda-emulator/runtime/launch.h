// Launching a kernel over a grid.
#pragma once
#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "blocks.h"
#include "order.h"
#include "types.h"
#include "interface.h"

namespace emulator {

constexpr u32 WARP = 32;
constexpr u32 MAX_THREADS = 1024;
// Shared memory of a block: what every kernel may have, and what one that asked for it may have (as an H100).
constexpr u32 SHARED_DEFAULT = 48 << 10;
constexpr u32 SHARED_MOST = 227 << 10;

// Copies of a kernel's parameters.
class Parameters {
  public:
    Parameters(const Kernel& kernel, void* const* from);
    // Addresses are those of the copy's own storage.
    Parameters(const Parameters& other);
    Parameters(Parameters&&) = default;
    void** pointers() { return addresses.data(); }
    bool contains(u64 address, u64 bytes) const;

  private:
    std::vector<Bits16> storage;
    std::vector<void*> addresses;
};

// Settings of launches by the calling thread: the order of threads, and whether accesses are checked. The defaults come
// from the environment (CUDA_EMULATOR_ORDER, CUDA_EMULATOR_CHECKS).
struct Manner {
    int order;
    bool checked;
};
struct Launch {
    Launch(const Kernel& kernel, const u32 (&grid)[3], u32 threads, u32 dynamic_bytes, Parameters parameters,
           Manner manner);

    const Kernel& kernel;
    const u32 grid[3];
    const u32 threads;
    const u32 dynamic_bytes;
    Parameters parameters;
    const int order;
    const bool checked;
    const u32 number;
    Fences fences;

    std::atomic<u64> next_block{0};
    std::atomic<bool> failed{false};
    std::mutex mutex;
    std::string failure;
    bool fault = false;
    bool explained = false;

    u64 blocks() const { return u64(grid[0]) * grid[1] * grid[2]; }
    // Remembers the first failure.
    void fail(const std::string& text, bool fault);
    // Adds where in the source the first failure is.
    void explain(const std::string& place);
};

const Kernel* find(const char* name);

void set_order(int order);
void set_checked(bool checked);
Manner manner();

// What went wrong (nothing: an empty text), and whether it was an access to memory.
struct Outcome {
    std::string text;
    bool fault;
};

// Runs all blocks.
Outcome run(const Kernel& kernel, const u32 (&grid)[3], u32 threads, u32 dynamic_bytes, Parameters parameters,
            Manner manner);

}  // namespace emulator
