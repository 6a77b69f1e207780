// What kernels call in the emulator, and how they register. Needs the integer types of gpu.h or types.h.
#pragma once

namespace emulator {

// A thread's coordinates.
struct Self {
    u32 thread, threads, block[3], grid[3];
};
extern __thread const Self* self __attribute__((tls_model("initial-exec")));

[[noreturn]] void fail(const char* what, const char* file, u32 line);
void barrier(const char* file, u32 line);
void* static_shared(const void* site, u64 bytes);
void* dynamic_shared();
void copy_async(void* shared, const void* global, bool in_range, const char* file, u32 line);
void commit_async();
void wait_async(u32 left);
void fence();

// A warp-wide instruction: every lane stores its operands, and the last to arrive computes the result for all.
void sync_warp(const char* file, u32 line);
u64 shuffle(u64 x, u32 from, const char* file, u32 line);
u32 ballot(bool condition, const char* file, u32 line);
void load_matrix(u32* registers, u32 count, bool transposed, const void* row, const char* file, u32 line);
void mma_bf16(float* d, const u32* a, const u32* b, const char* file, u32 line);
void mma_s8(i32* d, const u32* a, const u32* b, const i32* c, const char* file, u32 line);
void mma_e4m3(float* d, const u32* a, const u32* b, const float* c, const char* file, u32 line);

u16 float_to_f16(float x);
float f16_to_float(u16 half);

template <typename To, typename From>
To cast(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    __builtin_memcpy(&to, &x, sizeof to);
    return to;
}
template <typename T>
u64 widen(T x) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles exchange registers of 4 or 8 bytes");
    u64 wide = 0;
    __builtin_memcpy(&wide, &x, sizeof x);
    return wide;
}
template <typename T>
T narrow(u64 wide) {
    T x;
    __builtin_memcpy(&x, &wide, sizeof x);
    return x;
}
template <typename T>
const T* aligned(const void* at, const char* file, u32 line) {
    if ((u64)at % sizeof(T) != 0) fail("address is not a multiple of the size of the access", file, line);
    return (const T*)at;
}
inline float flush(float x) { return (cast<u32>(x) & 0x7f800000u) == 0 ? cast<float>(cast<u32>(x) & 0x80000000u) : x; }

// A kernel that can be launched by name. Parameters are passed as to cuLaunchKernel: an array of their addresses.
template <auto function>
struct Entry;
template <typename... A, void (*function)(A...)>
struct Entry<function> {
    static constexpr u32 count = sizeof...(A);
    static constexpr u32 sizes[count + 1] = {sizeof(A)..., 0};
    template <u32... i>
    struct Indices {};
    template <u32 n, u32... i>
    struct Count : Count<n - 1, n - 1, i...> {};
    template <u32... i>
    struct Count<0, i...> {
        using type = Indices<i...>;
    };
    template <u32... i>
    static void call(void** parameters, Indices<i...>) {
        function(*(A*)parameters[i]...);
    }
    static void run(void** parameters) { call(parameters, typename Count<count>::type()); }
};
struct Kernel {
    const char* name;
    const char* file;
    u32 max_threads;
    void (*run)(void** parameters);
    u32 parameters;
    const u32* sizes;
    Kernel* next;
    template <typename E>
    Kernel(const char* name, const char* file, u32 max_threads, E*)
        : name(name),
          file(file),
          max_threads(max_threads),
          run(E::run),
          parameters(E::count),
          sizes(E::sizes),
          next(nullptr) {
        enlist();
    }
    // One that is not in the list of compiled kernels, and is run by other means.
    Kernel(const char* name, const char* file, u32 max_threads, u32 parameters, const u32* sizes)
        : name(name),
          file(file),
          max_threads(max_threads),
          run(nullptr),
          parameters(parameters),
          sizes(sizes),
          next(nullptr) {}
    void enlist();
};

}  // namespace emulator
