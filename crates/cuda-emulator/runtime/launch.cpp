#include "launch.h"

#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "block.h"
#include "fault.h"

namespace emulator {

namespace {

Kernel* kernels = nullptr;
// Negative: not chosen.
__thread int chosen_order = -1;
__thread int chosen_checks = -1;

// Idle blocks, with their stacks.
struct Idle {
    std::mutex mutex;
    std::vector<std::unique_ptr<Block>> blocks;
};

Idle& idle() {
    static Idle* const idle = new Idle();
    return *idle;
}

std::unique_ptr<Block> take() {
    std::lock_guard<std::mutex> lock(idle().mutex);
    if (idle().blocks.empty()) return std::make_unique<Block>();
    std::unique_ptr<Block> block = std::move(idle().blocks.back());
    idle().blocks.pop_back();
    return block;
}

void give_back(std::unique_ptr<Block> block) {
    std::lock_guard<std::mutex> lock(idle().mutex);
    idle().blocks.push_back(std::move(block));
}

// Blocks of the launch until none is left.
void work(Launch& launch) {
    std::unique_ptr<Block> block = take();
    {
        const FaultGuard guard(block->signal_stack);
        for (u64 index; !launch.failed && (index = launch.next_block++) < launch.blocks();) block->run(launch, index);
    }
    give_back(std::move(block));
}

// Threads of the host that help with one launch at a time.
class Helpers {
  public:
    explicit Helpers(u32 count) : count(count) {
        for (u32 i = 0; i < count; i++) std::thread([this] { loop(); }).detach();
    }

    void run(Launch& launch) {
        const bool helped = count > 0 && launch.blocks() > 1 && offer(&launch);
        work(launch);
        if (helped) withdraw();
    }

  private:
    bool offer(Launch* launch) {
        std::lock_guard<std::mutex> lock(mutex);
        if (offered != nullptr || busy > 0) return false;
        offered = launch;
        wanted = count;
        changed.notify_all();
        return true;
    }

    void withdraw() {
        std::unique_lock<std::mutex> lock(mutex);
        offered = nullptr;
        changed.wait(lock, [this] { return busy == 0; });
    }

    void loop() {
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            changed.wait(lock, [this] { return offered != nullptr && wanted > 0; });
            Launch& launch = *offered;
            wanted--;
            busy++;
            lock.unlock();
            work(launch);
            lock.lock();
            busy--;
            changed.notify_all();
        }
    }

    const u32 count;
    std::mutex mutex;
    std::condition_variable changed;
    Launch* offered = nullptr;
    u32 wanted = 0;
    u32 busy = 0;
};

Helpers& helpers() {
    static Helpers* const helpers = [] {
        const char* asked = getenv("CUDA_EMULATOR_THREADS");
        const u32 threads = asked != nullptr ? atoi(asked) : std::thread::hardware_concurrency();
        return new Helpers(threads > 1 ? threads - 1 : 0);
    }();
    return *helpers;
}

}  // namespace

void Kernel::enlist() {
    next = kernels;
    kernels = this;
}

const Kernel* find(const char* name) {
    for (const Kernel* kernel = kernels; kernel != nullptr; kernel = kernel->next) {
        if (strcmp(kernel->name, name) == 0) return kernel;
    }
    return nullptr;
}

void Launch::fail(const std::string& text, bool is_fault) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!failed) {
        failure = text;
        fault = is_fault;
    }
    failed = true;
}

void Launch::explain(const std::string& place) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!place.empty() && !explained) failure += " (" + place + ")";
    explained = true;
}

Launch::Launch(const Kernel& kernel, const u32 (&grid)[3], u32 threads, u32 dynamic_bytes, Parameters parameters,
               Manner manner)
    : kernel(kernel),
      grid{grid[0], grid[1], grid[2]},
      threads(threads),
      dynamic_bytes(dynamic_bytes),
      parameters(std::move(parameters)),
      order(manner.order),
      checked(manner.checked),
      number(new_launch()),
      fences(blocks()) {}

Parameters::Parameters(const Kernel& kernel, void* const* from) {
    // Each at a multiple of sixteen bytes, the largest alignment that a parameter may need.
    std::vector<u64> places;
    u64 used = 0;
    for (u32 i = 0; i < kernel.parameters; i++) {
        places.push_back(used);
        used += (kernel.sizes[i] + 15) / 16;
    }
    // One more, so that pointers survive a move even if nothing is in it.
    storage.resize(used + 1);
    for (u32 i = 0; i < kernel.parameters; i++) {
        memcpy(&storage[places[i]], from[i], kernel.sizes[i]);
        addresses.push_back(&storage[places[i]]);
    }
}

Parameters::Parameters(const Parameters& other) : storage(other.storage) {
    for (void* const address : other.addresses) {
        addresses.push_back(storage.data() + (static_cast<const Bits16*>(address) - other.storage.data()));
    }
}

bool Parameters::contains(u64 address, u64 bytes) const {
    const auto inside = [&](u64 begin, u64 size) { return address - begin < size && address - begin + bytes <= size; };
    return inside(u64(storage.data()), storage.size() * 16) || inside(u64(addresses.data()), addresses.size() * 8);
}

void set_order(int order) { chosen_order = order; }
void set_checked(bool checked) { chosen_checks = checked; }

Manner manner() {
    const char *order = getenv("CUDA_EMULATOR_ORDER"), *checks = getenv("CUDA_EMULATOR_CHECKS");
    return {chosen_order >= 0  ? chosen_order
            : order != nullptr ? atoi(order)
                               : 0,
            chosen_checks >= 0 ? chosen_checks != 0 : checks == nullptr || atoi(checks) != 0};
}

Outcome run(const Kernel& kernel, const u32 (&grid)[3], u32 threads, u32 dynamic_bytes, Parameters parameters,
            Manner manner) {
    Launch launch(kernel, grid, threads, dynamic_bytes, std::move(parameters), manner);
    helpers().run(launch);
    return {launch.failure, launch.fault};
}

}  // namespace emulator
