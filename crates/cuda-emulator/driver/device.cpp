// libcuda: the driver, its devices, the one context of each.
#include <atomic>
#include <cstdio>
#include <cstring>

#include "api.h"
#include "../runtime/memory.h"
#include "stream.h"

namespace {

std::atomic<bool> started{false};
// Devices at most; there is one unless the variable CUDA_EMULATOR_DEVICES or a test asks for others.
constexpr int MOST_DEVICES = 8;
// The primary context of a device: it has no content, only threads that have made it current.
struct Context {
    // Held while the context begins or ends: a thread that retains it while another ends it gets a new one.
    std::mutex mutex;
    std::atomic<int> retained{0};
};
Context primary[MOST_DEVICES];
thread_local Context* current = nullptr;
std::atomic<int> asked_devices{-1};

// Of this thread: tests that run side by side have failures of their own.
thread_local char last_failure[1024];

int devices() {
    const int asked = asked_devices;
    const u64 found = asked >= 0 ? u64(asked) : setting("CUDA_EMULATOR_DEVICES", 1);
    return found < MOST_DEVICES ? static_cast<int>(found) : MOST_DEVICES;
}

// Attributes by their numbers in the driver's header; those not listed are 0.
int attribute(u32 number) {
    switch (number) {
        case 1: return 1024;  // threads per block
        case 2:
        case 3: return 1024;        // block x, y
        case 4: return 64;          // block z
        case 5: return 2147483647;  // grid x
        case 6:
        case 7: return 65535;  // grid y, z
        case 8: return emulator::SHARED_DEFAULT;
        case 10: return 32;       // threads of a warp
        case 12: return 65536;    // registers per block
        case 13: return 1000000;  // kHz
        case 16: return static_cast<int>(setting("CUDA_EMULATOR_MULTIPROCESSORS", 4));
        case 31:
        case 41: return 1;         // concurrent kernels, unified addressing
        case 36: return 1000000;   // kHz of the memory
        case 37: return 1024;      // bits of its bus
        case 38: return 32 << 20;  // bytes of L2
        case 39: return 2048;      // threads per multiprocessor
        case 75: return static_cast<int>(capability() / 10);
        case 76: return static_cast<int>(capability() % 10);
        case 81: return static_cast<int>(most_shared() + 1024);
        case 82: return 65536;  // registers per multiprocessor
        case 97: return static_cast<int>(most_shared());
        case 106: return 32;    // blocks per multiprocessor
        case 111: return 1024;  // shared memory that each block loses to the system
        default: return 0;
    }
}

struct Name {
    Code code;
    const char *name, *sentence;
};
const Name NAMES[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
};

Code name_of(Code code, const char** text, bool sentence) {
    for (const Name& name : NAMES) {
        if (name.code != code) continue;
        *text = sentence ? name.sentence : name.name;
        return SUCCESS;
    }
    *text = nullptr;
    return INVALID_VALUE;
}

Code device_exists(int device) { return device >= 0 && device < devices() ? SUCCESS : INVALID_DEVICE; }

}  // namespace

u32 capability() {
    const char* text = getenv("CUDA_EMULATOR_CAPABILITY");
    const double asked = text != nullptr ? atof(text) : 9.0;
    return static_cast<u32>(asked * 10 + 0.5);
}

u32 most_shared() {
    switch (capability()) {
        case 80:
        case 87: return 163 << 10;
        case 90:
        case 100:
        case 103: return emulator::SHARED_MOST;
        case 75: return 64 << 10;
        default: return 99 << 10;
    }
}

Code ready() {
    if (!started) return NOT_INITIALIZED;
    return current == nullptr || current->retained == 0 ? INVALID_CONTEXT : SUCCESS;
}

int current_device() { return current == nullptr ? -1 : static_cast<int>(current - primary); }

// For tests of several devices in one process, whose environment other threads read.
API void cuda_emulator_set_devices(int count) { asked_devices = count; }

Code failed(Code code, const std::string& what) {
    fprintf(stderr, "emulated CUDA: %s\n", what.c_str());
    snprintf(last_failure, sizeof last_failure, "%s", what.c_str());
    return code;
}

API void cuda_emulator_last_failure(char* message, u64 room) {
    snprintf(message, room, "%s", last_failure);
}

API Code cuInit(u32 flags) {
    if (flags != 0) return INVALID_VALUE;
    if (devices() == 0) return NO_DEVICE;
    started = true;
    return SUCCESS;
}

API Code cuDriverGetVersion(int* version) {
    *version = static_cast<int>(setting("CUDA_EMULATOR_DRIVER", 13000));
    return SUCCESS;
}

API Code cuGetErrorName(Code code, const char** text) { return name_of(code, text, false); }
API Code cuGetErrorString(Code code, const char** text) { return name_of(code, text, true); }

API Code cuDeviceGetCount(int* count) {
    if (!started) return NOT_INITIALIZED;
    *count = devices();
    return SUCCESS;
}

API Code cuDeviceGet(int* device, int ordinal) {
    if (!started) return NOT_INITIALIZED;
    *device = ordinal;
    return device_exists(ordinal);
}

API Code cuDeviceGetName(char* name, int room, int device) {
    if (room > 0) snprintf(name, room, "Emulated GPU");
    return device_exists(device);
}

API Code cuDeviceGetAttribute(int* value, u32 number, int device) {
    *value = attribute(number);
    return device_exists(device);
}

API Code cuDeviceGetUuid_v2(char* uuid, int device) {
    memset(uuid, 0, 16);
    uuid[0] = static_cast<char>(device);
    return device_exists(device);
}

API Code cuDeviceTotalMem_v2(size_t* bytes, int device) {
    *bytes = total_memory();
    return device_exists(device);
}

API Code cuDevicePrimaryCtxRetain(Context** context, int device) {
    if (!started) return NOT_INITIALIZED;
    if (const Code code = device_exists(device)) return code;
    std::lock_guard<std::mutex> lock(primary[device].mutex);
    primary[device].retained++;
    *context = &primary[device];
    return SUCCESS;
}

API Code cuDevicePrimaryCtxRelease_v2(int device) {
    if (device < 0 || device >= MOST_DEVICES) return INVALID_DEVICE;
    std::lock_guard<std::mutex> lock(primary[device].mutex);
    if (primary[device].retained == 0) return INVALID_CONTEXT;
    if (--primary[device].retained == 0) forget_streams(device);
    return SUCCESS;
}

API Code cuCtxSetCurrent(Context* context) {
    if (!started) return NOT_INITIALIZED;
    if (context != nullptr && (context < primary || context >= primary + MOST_DEVICES)) return INVALID_CONTEXT;
    current = context;
    return SUCCESS;
}

API Code cuCtxGetCurrent(Context** context) {
    if (!started) return NOT_INITIALIZED;
    *context = current;
    return SUCCESS;
}

API Code cuCtxGetDevice(int* device) {
    *device = current_device();
    return ready();
}

API Code cuMemGetInfo_v2(size_t* free, size_t* total) {
    const u64 all = total_memory(), used = emulator::live_bytes();
    *total = all;
    *free = used < all ? all - used : 0;
    return ready();
}
