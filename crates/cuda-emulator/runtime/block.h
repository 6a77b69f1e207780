// A block: its threads as fibers of one thread of the host, its barriers, collectives and shared memory.
#pragma once
#include <vector>

#include "fault.h"
#include "fiber.h"
#include "launch.h"
#include "memory.h"
#include "race.h"
#include "shared.h"

namespace emulator {

// Bytes of a thread's stack.
constexpr u64 STACK = 128 << 10;

enum class Wait { None, Barrier, Finished, Warp, Shuffle, Ballot, Matrix, Mma };

struct Copy {
    void* shared;
    const void* global;  // null: zeros
    u32 group;
};

struct Thread : Self {
    Context context;
    Wait wait;
    const char* file;
    u32 line;
    u32 position;  // of the lane in the order of lanes
    u32 rank;      // of the warp in the order of warps
    u32 groups;    // of asynchronous copies ended so far
    u64 stack;     // its lowest address
    std::vector<Copy> copies;
};

struct Warp {
    // Bits are positions in the order of lanes.
    u32 ready;
    u32 arrived;
    void* operands[WARP];  // by lane
    u32 first;             // the thread that arrived first
};

typedef void (*Compute)(void* const* operands);

class Block {
  public:
    Block();
    ~Block();
    Block(const Block&) = delete;

    // Runs block `index` of a launch, which records a failure.
    void run(Launch& launch, u64 index);

    // Requests of the current thread, `current`.
    void barrier(const char* file, u32 line);
    void collective(Wait kind, void* operands, Compute compute, const char* file, u32 line);
    void copy_async(void* shared, const void* global, bool in_range, const char* file, u32 line);
    void wait_async(u32 left);
    void fence() { launch->fences.fence(visitor.block); }
    // An atomic operation: what was fenced before it is known from now on.
    void acquire() { visitor.moment = launch->fences.moment(); }
    // Notes that the current thread reads 16 bytes of shared memory.
    void read_row(const void* row, const char* file, u32 line);
    [[noreturn]] void fail(const std::string& what, const char* file, u32 line);
    // An access of the current thread that the host's processor refused.
    [[noreturn]] void fault(u64 address);
    // Whether accesses of this launch are to be checked.
    bool checks() const { return launch->checked; }
    // An access of the current thread, from the instruction at `from`.
    void access(u64 address, u32 bytes, bool write, const void* from);
    // An atomic operation on device memory.
    void check_atomic(u64 address, u32 bytes, const void* from);
    // The same as `access` of `bytes` that are known to be shared memory.
    void access_shared(const void* address, u32 bytes, bool write, const void* from);

    Thread* current = nullptr;
    Shared shared;
    const SignalStack signal_stack;

  private:
    static void enter();
    void reserve(u32 threads);
    void start(u64 index);
    Thread* pick();
    void leave();
    void finish();
    [[noreturn]] void abandon(const std::string& what, bool fault);
    const Range* range_at(u64 address);
    // The other ends of `access`.
    void access_device(const Range& range, u64 address, u32 bytes, bool write, const void* from);
    [[noreturn]] void report_access(u64 address, u32 bytes, bool write, const void* from);
    [[noreturn]] void report_race(const Race& race, bool write, const void* from);
    [[noreturn]] void report_conflict(const Conflict& conflict, bool write, const void* from);
    static std::string other_access(const Race& race);
    void begin_copy(void* to, const char* file, u32 line);
    void end_copies();
    std::string describe(u64 address) const;
    [[noreturn]] void deadlock();
    void check_places(u32 begin, u32 end);

    Launch* launch = nullptr;
    Context host;
    Thread* const threads;
    u8* const stacks;  // of all threads, each below a page that faults
    u32 reserved = 0;  // stacks with their pages set up
    Clock clock;
    Shadow shadow;
    Visitor visitor;
    std::vector<Range> ranges;     // of device memory that this launch has touched
    const void* faulty = nullptr;  // the instruction that a failure is to be explained by
    Warp warps[MAX_THREADS / WARP];
    u32 ready_warps = 0;  // bits are ranks in the order of warps
    u32 rank = 0;         // whose turn it is
    u32 at_barrier = 0;
    u32 finished = 0;
    Order order{0, 0, 1};
};

// The block that this thread of the host runs, if any.
extern __thread Block* running __attribute__((tls_model("initial-exec")));

}  // namespace emulator
