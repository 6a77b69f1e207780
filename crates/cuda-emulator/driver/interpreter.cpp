// The interpreter that a test has set, and what it needs of the device's memory.
#include "interpreter.h"

#include <atomic>

#include "../runtime/memory.h"
#include "api.h"

namespace {

std::atomic<const Interpreter*> chosen{nullptr};

}  // namespace

const Interpreter* interpreter() { return chosen; }

// From now on programs are compiled, and their kernels run, by this; it lives until the process ends.
API void cuda_emulator_interpret(const Interpreter* interpreter) { chosen = interpreter; }

// For the emulated NVRTC, which is another library.
API const Interpreter* cuda_emulator_interpreter() { return chosen; }

// The allocation with the byte at an address: where it begins, how long it is, and which of its bytes are forbidden.
API bool cuda_emulator_find_range(u64 address, u64* begin, u64* bytes, const u8** forbidden) {
    emulator::Range range;
    if (!emulator::find_range(address, range)) return false;
    *begin = range.begin;
    *bytes = range.bytes;
    *forbidden = range.forbidden;
    return true;
}
