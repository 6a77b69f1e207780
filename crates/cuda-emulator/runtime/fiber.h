// Switching between stacks.
#pragma once
#include <cstddef>

#if !defined(__x86_64__) || defined(EMULATOR_UCONTEXT)
#include <ucontext.h>
#endif

namespace emulator {

struct Context {
#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
    void* stack_pointer;
#else
    ucontext_t state;
#endif
};

// Makes `context` begin at `entry`, which must never return, on a stack that ends at `top`.
void prepare(Context& context, void* bottom, size_t bytes, void (*entry)());
// Saves where we are in `from` and goes on in `to`.
void change(Context& from, Context& to);

}  // namespace emulator
