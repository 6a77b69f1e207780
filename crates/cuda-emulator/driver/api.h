// What the files of the emulated driver share.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <string>

#include "../runtime/launch.h"

#define API extern "C" __attribute__((visibility("default")))

typedef u32 Code;
enum : Code {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

// The number in an environment variable, read at every call, or `usual`.
inline u64 setting(const char* name, u64 usual) {
    const char* text = getenv(name);
    return text != nullptr && *text != 0 ? strtoull(text, nullptr, 10) : usual;
}

// Bytes of the device's memory.
inline u64 total_memory() { return setting("CUDA_EMULATOR_MEMORY", u64(16) << 30); }

// Shared memory that a block may have at most, by the compute capability (see `capability`).
u32 most_shared();
// Ten times the major number and the minor one.
u32 capability();

// SUCCESS if the driver was started and this thread has a context.
Code ready();
// The device of this thread's context, -1 without one.
int current_device();
// One more of what the calling thread has given to streams.
extern "C" void cuda_emulator_count(const char* what);
// Prints the reason for the error code that the program receives, and keeps it for `cuda_emulator_last_failure`.
Code failed(Code code, const std::string& what);
