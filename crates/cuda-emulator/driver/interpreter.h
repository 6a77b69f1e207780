// What may take the place of the compiled kernels: a compiler of programs and an interpreter of what it makes. The Rust
// side sets it (src/interpreter.rs has the same structs); without it NVRTC compiles nothing, and launches run the
// compiled kernels.
#pragma once
#include "../runtime/types.h"

// A program as NVRTC is given it.
struct ProgramText {
    const char *name, *source;
    u32 headers, options;
    const char *const *header_names, *const *header_texts, *const *option_texts;
};

// A kernel of a module; it lives until the process ends.
struct InterpretedKernel {
    const char *name, *file;
    u32 max_threads, static_shared, parameters;
    const u32* sizes;
};

struct Interpreter {
    // The number of a module, or 0 with messages in `log`.
    u64 (*compile)(const ProgramText* program, char* log, u64 room);
    // The kernel of that name; null if the module has none.
    const InterpretedKernel* (*find)(u64 module, const char* name);
    // 0, or 1 for a failure and 2 for an access to memory that is wrong, with what is wrong in `message`.
    u32 (*run)(const InterpretedKernel* kernel, const u32* grid, u32 threads, u32 dynamic, void* const* parameters,
               i32 order, char* message, u64 room);
};

// What was set, or null.
const Interpreter* interpreter();
