#include "fault.h"

#include <signal.h>
#include <sys/mman.h>

#include <cstdlib>
#include <mutex>

#include "block.h"

namespace emulator {

namespace {

struct sigaction earlier[2];

// Leaves the handler, and its stack, by the switch back to the host that every failure takes.
void handle(int number, siginfo_t* info, void* context) {
    if (running != nullptr && running->current != nullptr) {
        running->fault(reinterpret_cast<u64>(info->si_addr));
    }
    const struct sigaction& before = earlier[number == SIGBUS];
    if ((before.sa_flags & SA_SIGINFO) != 0) {
        before.sa_sigaction(number, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(number);
    } else {
        signal(number, SIG_DFL);
    }
}

void install() {
    struct sigaction action = {};
    action.sa_sigaction = handle;
    // Not masked during the handler, since it does not return.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &earlier[0]);
    sigaction(SIGBUS, &action, &earlier[1]);
}

}  // namespace

SignalStack::SignalStack()
    : bottom(mmap(nullptr, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    if (bottom == MAP_FAILED) abort();
}

SignalStack::~SignalStack() { munmap(bottom, BYTES); }

FaultGuard::FaultGuard(const SignalStack& stack) {
    static std::once_flag once;
    std::call_once(once, install);
    auto* old = new stack_t();
    stack_t own = {};
    own.ss_sp = stack.bottom;
    own.ss_size = SignalStack::BYTES;
    sigaltstack(&own, old);
    before = old;
}

FaultGuard::~FaultGuard() {
    auto* old = static_cast<stack_t*>(before);
    sigaltstack(old, nullptr);
    delete old;
}

}  // namespace emulator
