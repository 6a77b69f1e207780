// Faults of kernels become failures of their launch.
#pragma once

#include <cstddef>

namespace emulator {

// A stack for the handler of faults.
class SignalStack {
  public:
    SignalStack();
    ~SignalStack();
    SignalStack(const SignalStack&) = delete;

    void* const bottom;
    static constexpr size_t BYTES = 64 << 10;
};

// While it exists, an access fault of a kernel on this host thread is reported as the kernel's failure. Other faults go
// to the previous handler.
class FaultGuard {
  public:
    explicit FaultGuard(const SignalStack& stack);
    ~FaultGuard();
    FaultGuard(const FaultGuard&) = delete;

  private:
    void* before;
};

}  // namespace emulator
