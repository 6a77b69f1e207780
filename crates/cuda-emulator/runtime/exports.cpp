// Functions for the Rust side of this crate, in addition to the driver's.
#include <cstdio>
#include <cstring>

#include "launch.h"
#include "memory.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace emulator;

namespace {

// Truncates a text to the capacity.
void write(const std::string& text, char* to, u64 room) { snprintf(to, room, "%s", text.c_str()); }

std::string misuse(const Kernel& kernel, u32 threads, const u32* sizes, u32 count, u32 dynamic_bytes) {
    if (threads == 0 || threads > kernel.max_threads) {
        return "launched with " + std::to_string(threads) + " threads, at most " + std::to_string(kernel.max_threads) +
               " are allowed";
    }
    if (dynamic_bytes > SHARED_MOST) return "launched with more than 227 KiB of shared memory";
    if (count != kernel.parameters) {
        return "takes " + std::to_string(kernel.parameters) + " parameters, " + std::to_string(count) + " were given";
    }
    for (u32 i = 0; i < count; i++) {
        if (sizes[i] == kernel.sizes[i]) continue;
        return "parameter " + std::to_string(i) + " has " + std::to_string(kernel.sizes[i]) + " bytes, " +
               std::to_string(sizes[i]) + " were given";
    }
    return "";
}

}  // namespace

// Runs a kernel with `count` parameters of `sizes` bytes; a negative `order` or `checked` means the calling thread's
// setting. Returns whether it succeeded; if not, `message` has the reason.
EXPORT bool cuda_emulator_launch(const char* name, const u32* grid, u32 threads, u32 dynamic_bytes, void** parameters,
                                   const u32* sizes, u32 count, i32 order, i32 checked, char* message, u64 room) {
    const Kernel* kernel = find(name);
    std::string failure;
    if (kernel == nullptr) {
        failure = std::string("no kernel is called ") + name;
    } else {
        failure = misuse(*kernel, threads, sizes, count, dynamic_bytes);
        if (!failure.empty()) failure = std::string("kernel ") + name + " " + failure;
    }
    if (failure.empty()) {
        const u32 blocks[3] = {grid[0], grid[1], grid[2]};
        Manner how = manner();
        if (order >= 0) how.order = order;
        if (checked >= 0) how.checked = checked != 0;
        failure = run(*kernel, blocks, threads, dynamic_bytes, Parameters(*kernel, parameters), how).text;
    }
    write(failure, message, room);
    return failure.empty();
}

EXPORT void cuda_emulator_set_order(i32 order) { set_order(order); }
EXPORT void cuda_emulator_set_checked(bool checked) { set_checked(checked); }
EXPORT void* cuda_emulator_latest_allocation() { return latest_allocation(); }
EXPORT bool cuda_emulator_forbid(void* address, u64 bytes) { return forbid(address, bytes); }
EXPORT u64 cuda_emulator_allocations() { return allocations(); }
EXPORT u64 cuda_emulator_live_bytes() { return live_bytes(); }
EXPORT void* cuda_emulator_allocate(u64 bytes) { return allocate(bytes, 0); }
EXPORT void cuda_emulator_release(void* address) { release(address); }
