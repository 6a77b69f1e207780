// libcuda: memory of the device, pinned memory of the host, copies between them.
#include <sys/mman.h>

#include <cstring>
#include <map>
#include <vector>

#include "../runtime/memory.h"
#include "../runtime/shared.h"
#include "stream.h"

namespace {

typedef u64 Address;

struct Pinned {
    std::mutex mutex;
    std::map<u64, u64> ranges;
};

Pinned& pinned() {
    static Pinned* const pinned = new Pinned();
    return *pinned;
}

bool is_pinned(const void* at, u64 bytes) {
    std::lock_guard<std::mutex> lock(pinned().mutex);
    auto found = pinned().ranges.upper_bound(u64(at));
    if (found == pinned().ranges.begin()) return false;
    --found;
    return u64(at) + bytes <= found->first + found->second;
}

// A copy or fill in stream order. With `at_once`, as the driver does for host memory that is not pinned, earlier work
// is done first and the call returns after the copy.
Code submit(Stream* handle, bool at_once, std::function<void()> work) {
    if (const Code code = ready()) return code;
    Stream* stream = stream_of(handle);
    if (stream == nullptr) return INVALID_HANDLE;
    const Code code = stream->add([work = std::move(work)] {
        work();
        return Code(SUCCESS);
    });
    return code == SUCCESS && at_once ? stream->finish() : code;
}

// The memory must exist when the call is made, and still exist when the work is done.
Code check(const char* what, std::initializer_list<Address> addresses, u64 bytes) {
    for (const Address address : addresses) {
        if (emulator::inside(reinterpret_cast<void*>(address), bytes)) continue;
        return failed(INVALID_VALUE,
                      std::string(what) + " of " + std::to_string(bytes) +
                          " bytes is not inside one allocation: " + emulator::describe_device(address + bytes - 1));
    }
    return SUCCESS;
}

void* pointer(Address address) { return reinterpret_cast<void*>(address); }

Code to_device(Address to, const void* from, u64 bytes, Stream* stream, bool at_once) {
    if (bytes == 0) return ready();
    if (const Code code = check("copy to the device", {to}, bytes)) return code;
    cuda_emulator_count("copy to the device");
    return submit(stream, at_once || !is_pinned(from, bytes), [=] { memcpy(pointer(to), from, bytes); });
}

Code to_host(void* to, Address from, u64 bytes, Stream* stream, bool at_once) {
    if (bytes == 0) return ready();
    if (const Code code = check("copy to the host", {from}, bytes)) return code;
    cuda_emulator_count("copy to the host");
    if (is_pinned(to, bytes)) {
        // Undefined from now until the program waits; earlier work of the stream may still read the old content.
        Stream* const before = stream_of(stream);
        if (before == nullptr) return INVALID_HANDLE;
        if (const Code code = before->finish()) return code;
        memset(to, emulator::POISON, bytes);
    }
    return submit(stream, at_once || !is_pinned(to, bytes), [=] { memcpy(to, pointer(from), bytes); });
}

Code within(Address to, Address from, u64 bytes, Stream* stream) {
    if (bytes == 0) return ready();
    if (const Code code = check("copy on the device", {to, from}, bytes)) return code;
    cuda_emulator_count("copy on the device");
    return submit(stream, false, [=] { memmove(pointer(to), pointer(from), bytes); });
}

Code fill(Address to, u8 value, u64 bytes, Stream* stream) {
    if (bytes == 0) return ready();
    if (const Code code = check("fill", {to}, bytes)) return code;
    cuda_emulator_count("fill");
    return submit(stream, false, [=] { emulator::fill(pointer(to), value, bytes); });
}

Code fill_words(Address to, u32 value, u64 count, Stream* stream) {
    if (count == 0) return ready();
    if (to % 4 != 0) return INVALID_VALUE;
    if (const Code code = check("fill", {to}, count * 4)) return code;
    cuda_emulator_count("fill");
    return submit(stream, false, [=] {
        for (u64 i = 0; i < count; i++) static_cast<u32*>(pointer(to))[i] = value;
    });
}

}  // namespace

API Code cuMemAlloc_v2(Address* address, size_t bytes) {
    if (const Code code = ready()) return code;
    if (bytes == 0) return INVALID_VALUE;
    void* memory = emulator::allocate(bytes, total_memory());
    *address = reinterpret_cast<Address>(memory);
    return memory == nullptr ? OUT_OF_MEMORY : SUCCESS;
}

API Code cuMemFree_v2(Address address) {
    if (const Code code = ready()) return code;
    const Code code = finish_all(false);
    if (address != 0 && !emulator::release(pointer(address))) return INVALID_VALUE;
    return code;
}

API Code cuMemHostAlloc(void** memory, size_t bytes, u32) {
    if (const Code code = ready()) return code;
    if (bytes == 0) return INVALID_VALUE;
    *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*memory == MAP_FAILED) return OUT_OF_MEMORY;
    emulator::fill(*memory, emulator::POISON, bytes);
    std::lock_guard<std::mutex> lock(pinned().mutex);
    pinned().ranges[u64(*memory)] = bytes;
    return SUCCESS;
}

API Code cuMemAllocHost_v2(void** memory, size_t bytes) { return cuMemHostAlloc(memory, bytes, 0); }

API Code cuMemFreeHost(void* memory) {
    const Code code = finish_all(false);
    std::lock_guard<std::mutex> lock(pinned().mutex);
    const auto found = pinned().ranges.find(u64(memory));
    if (found == pinned().ranges.end()) return INVALID_VALUE;
    munmap(memory, found->second);
    pinned().ranges.erase(found);
    return code;
}

API Code cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Stream* stream) {
    return to_device(to, from, bytes, stream, false);
}
API Code cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Stream* stream) {
    return to_host(to, from, bytes, stream, false);
}
API Code cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Stream* stream) {
    return within(to, from, bytes, stream);
}
API Code cuMemsetD8Async(Address to, u8 value, size_t bytes, Stream* stream) { return fill(to, value, bytes, stream); }
API Code cuMemsetD32Async(Address to, u32 value, size_t count, Stream* stream) {
    return fill_words(to, value, count, stream);
}

// Without a stream: after all streams that the default stream waits for, and done on return.
API Code cuMemcpyHtoD_v2(Address to, const void* from, size_t bytes) {
    const Code code = finish_all(true);
    return code != SUCCESS ? code : to_device(to, from, bytes, nullptr, true);
}
API Code cuMemcpyDtoH_v2(void* to, Address from, size_t bytes) {
    const Code code = finish_all(true);
    return code != SUCCESS ? code : to_host(to, from, bytes, nullptr, true);
}
API Code cuMemcpyDtoD_v2(Address to, Address from, size_t bytes) {
    const Code code = finish_all(true);
    return code != SUCCESS ? code : within(to, from, bytes, nullptr);
}
API Code cuMemsetD8_v2(Address to, u8 value, size_t bytes) {
    const Code code = finish_all(true);
    return code != SUCCESS ? code : fill(to, value, bytes, nullptr);
}
API Code cuMemsetD32_v2(Address to, u32 value, size_t count) {
    const Code code = finish_all(true);
    return code != SUCCESS ? code : fill_words(to, value, count, nullptr);
}

// For the emulated cuBLASLt.
API bool cuda_emulator_inside(const void* address, u64 bytes) { return emulator::inside(address, bytes); }
API u32 cuda_emulator_failed(u32 code, const char* what) { return failed(code, what); }
