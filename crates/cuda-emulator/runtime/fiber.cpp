#include "fiber.h"

#include <cstdint>

namespace emulator {

#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)

// Callee-saved registers are pushed on the old stack and popped from the new one. Rounding modes are not saved: kernels
// never change them. This avoids the system call of swapcontext, which saves the signal mask.
extern "C" void emulator_change(void** from, void* to);
asm(R"(
    .text
    .hidden emulator_change
    .globl emulator_change
    .type emulator_change, @function
    .p2align 4
emulator_change:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_change, . - emulator_change
)");

void prepare(Context& context, void* bottom, size_t bytes, void (*entry)()) {
    // A function expects its return address eight bytes below a multiple of sixteen.
    auto** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(bottom) + bytes) / 16 * 16);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int kept = 0; kept < 6; kept++) *--top = nullptr;
    context.stack_pointer = top;
}

void change(Context& from, Context& to) { emulator_change(&from.stack_pointer, to.stack_pointer); }

#else

void prepare(Context& context, void* bottom, size_t bytes, void (*entry)()) {
    getcontext(&context.state);
    context.state.uc_stack.ss_sp = bottom;
    context.state.uc_stack.ss_size = bytes;
    context.state.uc_link = nullptr;
    makecontext(&context.state, entry, 0);
}

void change(Context& from, Context& to) { swapcontext(&from.state, &to.state); }

#endif

}  // namespace emulator
