// Faults of kernels become failures of their launch.
#pragma once

namespace emulator {

// While it lives, an access fault of a kernel on this thread of the host is reported as its failure. Other faults go
// to whoever handled them before.
class FaultGuard {
  public:
    FaultGuard();
    ~FaultGuard();
    FaultGuard(const FaultGuard&) = delete;

  private:
    void* stack;
    void* before;
};

}  // namespace emulator
