// The functions that device.h declares: requests of a kernel's thread to its block.
#include <cstring>

#include "block.h"

namespace emulator {

void fail(const char* what, const char* file, u32 line) { running->fail(what, file, line); }
void barrier(const char* file, u32 line) { running->barrier(file, line); }
void* dynamic_shared() { return running->shared.dynamic(); }

void* static_shared(const void* site, u64 bytes) {
    void* array = running->shared.array(site, bytes);
    if (array == nullptr) running->fail("static and dynamic shared memory exceed 227 KiB", nullptr, 0);
    return array;
}

void sync_warp(const char* file, u32 line) { running->collective(Wait::Warp, nullptr, nullptr, file, line); }

u64 shuffle(u64 x, u32 from, const char* file, u32 line) {
    struct Exchange {
        u64 value, received;
        u32 from;
    } own = {x, 0, from};
    const Compute compute = [](void* const* operands) {
        for (u32 lane = 0; lane < WARP; lane++) {
            auto* to = static_cast<Exchange*>(operands[lane]);
            to->received = static_cast<const Exchange*>(operands[to->from])->value;
        }
    };
    running->collective(Wait::Shuffle, &own, compute, file, line);
    return own.received;
}

u32 ballot(bool condition, const char* file, u32 line) {
    struct Vote {
        bool yes;
        u32 all;
    } own = {condition, 0};
    const Compute compute = [](void* const* operands) {
        u32 all = 0;
        for (u32 lane = 0; lane < WARP; lane++) all |= u32(static_cast<Vote*>(operands[lane])->yes) << lane;
        for (u32 lane = 0; lane < WARP; lane++) static_cast<Vote*>(operands[lane])->all = all;
    };
    running->collective(Wait::Ballot, &own, compute, file, line);
    return own.all;
}

namespace {

struct Rows {
    u32* registers;
    u32 count;
    bool transposed;
    const void* row;
};

void load_matrices(void* const* operands) {
    const auto* own = reinterpret_cast<Rows* const*>(operands);
    for (u32 matrix = 0; matrix < own[0]->count; matrix++) {
        u16 element[8][8];
        for (u32 row = 0; row < 8; row++) memcpy(element[row], own[8 * matrix + row]->row, 16);
        for (u32 lane = 0; lane < WARP; lane++) {
            const u32 g = lane / 4, t = 2 * (lane % 4);
            const bool transposed = own[lane]->transposed;
            const u32 low = transposed ? element[t][g] : element[g][t];
            const u32 high = transposed ? element[t + 1][g] : element[g][t + 1];
            own[lane]->registers[matrix] = low | high << 16;
        }
    }
}

struct Fragments {
    float* d;
    const u32* a;
    const u32* b;
};

float low(u32 pair) { return cast<float>(pair << 16); }
float high(u32 pair) { return cast<float>(pair & 0xffff0000u); }

// D[16][8] += A[16][16] B[16][8]; sums in the order of k.
void multiply(void* const* operands) {
    const auto* own = reinterpret_cast<Fragments* const*>(operands);
    float a[16][16], b[16][8], d[16][8];
    for (u32 lane = 0; lane < WARP; lane++) {
        const Fragments& f = *own[lane];
        const u32 g = lane / 4, t = 2 * (lane % 4);
        for (u32 i = 0; i < 4; i++) {
            a[g + 8 * (i % 2)][t + 8 * (i / 2)] = low(f.a[i]);
            a[g + 8 * (i % 2)][t + 8 * (i / 2) + 1] = high(f.a[i]);
        }
        for (u32 i = 0; i < 2; i++) {
            b[t + 8 * i][g] = low(f.b[i]);
            b[t + 8 * i + 1][g] = high(f.b[i]);
        }
        for (u32 i = 0; i < 4; i++) d[g + 8 * (i / 2)][t + i % 2] = f.d[i];
    }
    for (u32 row = 0; row < 16; row++) {
        for (u32 k = 0; k < 16; k++) {
            for (u32 column = 0; column < 8; column++) d[row][column] += a[row][k] * b[k][column];
        }
    }
    for (u32 lane = 0; lane < WARP; lane++) {
        const u32 g = lane / 4, t = 2 * (lane % 4);
        for (u32 i = 0; i < 4; i++) own[lane]->d[i] = d[g + 8 * (i / 2)][t + i % 2];
    }
}

}  // namespace

void load_matrix(u32* registers, u32 count, bool transposed, const void* row, const char* file, u32 line) {
    if (running->current->thread % WARP < 8 * count) {
        if (u64(row) % 16 != 0) fail("row of a matrix is not aligned to 16 bytes", file, line);
        if (!running->shared.contains(row, 16)) fail("row of a matrix is not in shared memory", file, line);
        running->read_row(row, file, line);
    }
    Rows own = {registers, count, transposed, row};
    running->collective(Wait::Matrix, &own, load_matrices, file, line);
}

void mma_bf16(float* d, const u32* a, const u32* b, const char* file, u32 line) {
    Fragments own = {d, a, b};
    running->collective(Wait::Mma, &own, multiply, file, line);
}

// Asynchronous copies: at once, or when waited for (until then the destination is poisoned). Their destination is being
// written from the one until the other.

void copy_async(void* shared, const void* global, bool in_range, const char* file, u32 line) {
    running->copy_async(shared, global, in_range, file, line);
}
void commit_async() { running->current->groups++; }
void wait_async(u32 left) { running->wait_async(left); }

void fence() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    running->fence();
}

namespace {

void complete(const Copy& copy) {
    if (copy.global != nullptr) {
        memcpy(copy.shared, copy.global, 16);
    } else {
        memset(copy.shared, 0, 16);
    }
}

}  // namespace

void Block::copy_async(void* to, const void* from, bool in_range, const char* file, u32 line) {
    if (u64(to) % 16 != 0 || (in_range && u64(from) % 16 != 0)) fail("copy is not aligned to 16 bytes", file, line);
    if (!shared.contains(to, 16)) fail("destination of a copy is not in shared memory", file, line);
    if (launch->checked && in_range) access(u64(from), 16, false, nullptr);
    begin_copy(to, file, line);
    const Copy copy = {to, in_range ? from : nullptr, current->groups};
    if (order.lazy_copies) {
        memset(to, POISON, 16);
    } else {
        complete(copy);
    }
    current->copies.push_back(copy);
}

void Block::read_row(const void* row, const char* file, u32 line) {
    if (!launch->checked) return;
    const Race race = shadow.access(clock, current->thread, shared.offset(row), 16, Shadow::Read);
    if (race.found) fail("reads " + other_access(race), file, line);
}

void Block::begin_copy(void* to, const char* file, u32 line) {
    if (!launch->checked) return;
    const Race race = shadow.access(clock, current->thread, shared.offset(to), 16, Shadow::Copy);
    if (race.found) fail("copies to " + other_access(race), file, line);
}

void Block::wait_async(u32 left) {
    std::vector<Copy>& copies = current->copies;
    size_t done = 0;
    for (; done < copies.size() && copies[done].group + left < current->groups; done++) {
        if (order.lazy_copies) complete(copies[done]);
        access_shared(copies[done].shared, 16, true, nullptr);
    }
    copies.erase(copies.begin(), copies.begin() + done);
}

// A device may or may not make copies that a thread never waited for; nothing can depend on them.
void Block::end_copies() {
    for (const Copy& copy : current->copies) {
        shadow.access(clock, current->thread, shared.offset(copy.shared), 16, Shadow::Write);
    }
}

// f16: eleven significant bits from 2^-14, multiples of 2^-24 below, infinite from 65520 on.

u16 float_to_f16(float x) {
    const u32 from = cast<u32>(x), sign = from >> 16 & 0x8000;
    const u32 magnitude = from & 0x7fffffff;
    if (magnitude > 0x7f800000) return 0x7fff;
    if (magnitude >= 0x477ff000) return sign | 0x7c00;
    if (magnitude < 0x38800000) {
        // Adding 0.5 leaves a multiple of 2^-24 in the low bits, rounded as the sum is.
        return sign | u16(cast<u32>(cast<float>(magnitude) + 0.5f) - 0x3f000000);
    }
    const u32 rebased = magnitude - (112u << 23);
    return sign | u16((rebased + 0xfff + (rebased >> 13 & 1)) >> 13);
}

float f16_to_float(u16 half) {
    const u32 sign = u32(half & 0x8000) << 16, magnitude = half & 0x7fff;
    if (magnitude >= 0x7c00) return cast<float>(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    if (magnitude >= 0x0400) return cast<float>(sign | ((magnitude << 13) + (112u << 23)));
    return cast<float>(cast<u32>(float(magnitude) * 0x1p-24f) | sign);
}

}  // namespace emulator
