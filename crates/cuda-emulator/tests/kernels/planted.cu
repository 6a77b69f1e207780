// Bugs, each beside the same kernel without it: the last parameter of a template says whether the bug is in.
#include "gpu.h"

#define WITH_AND_WITHOUT(threads, name, parameters, arguments) \
    KERNEL(threads, right_##name, parameters) { name<false> arguments; } \
    KERNEL(threads, wrong_##name, parameters) { name<true> arguments; }
#define LIST(...) __VA_ARGS__

// y is x of each block backwards.
template <bool WRONG> DEVICE void barrier(const float* x, float* y) {
    SHARED(float, stage, 256);
    const u64 base = u64(block_x()) * threads();
    stage[thread()] = x[base + thread()];
    if (!WRONG) sync_threads();
    y[base + thread()] = stage[threads() - 1 - thread()];
}
WITH_AND_WITHOUT(256, barrier, LIST(const float* x, float* y), (x, y))

// The same within each warp.
template <bool WRONG> DEVICE void warp_barrier(const float* x, float* y) {
    SHARED(float, stage, 256);
    stage[thread()] = x[thread()];
    if (!WRONG) sync_warp();
    y[thread()] = stage[thread() ^ 31];
}
WITH_AND_WITHOUT(256, warp_barrier, LIST(const float* x, float* y), (x, y))

// Sums of windows of a stage that is filled again and again; the barrier before each refill is the planted one.
template <bool WRONG> DEVICE void refill(const float* x, float* y, u32 rounds) {
    SHARED(float, stage, 128);
    float sum = 0;
    for (u32 round = 0; round < rounds; round++) {
        stage[thread()] = x[round * threads() + thread()];
        sync_threads();
        sum += stage[(thread() + 37) % threads()];
        if (!WRONG) sync_threads();
    }
    y[thread()] = sum;
}
WITH_AND_WITHOUT(128, refill, LIST(const float* x, float* y, u32 rounds), (x, y, rounds))

// y is x backwards through asynchronous copies.
template <bool WRONG> DEVICE void wait(const Bits16* x, Bits16* y) {
    DYNAMIC_SHARED(Bits16, stage);
    copy_async_16(stage + thread(), x + thread(), true);
    commit_async();
    if (!WRONG) wait_async<0>();
    sync_threads();
    y[thread()] = stage[threads() - 1 - thread()];
}
WITH_AND_WITHOUT(64, wait, LIST(const Bits16* x, Bits16* y), (x, y))

// A pipeline of two stages: waits for the older group, or, wrongly, for a still older one.
template <bool WRONG> DEVICE void pipeline(const Bits16* x, Bits16* y, u32 rounds) {
    DYNAMIC_SHARED(Bits16, stages);
    copy_async_16(stages + thread(), x + thread(), true);
    commit_async();
    for (u32 round = 0; round < rounds; round++) {
        const u32 next = round + 1;
        copy_async_16(stages + next % 2 * threads() + thread(), x + u64(next) * threads() + thread(), next < rounds);
        commit_async();
        wait_async<WRONG ? 2 : 1>();
        sync_threads();
        y[u64(round) * threads() + thread()] = stages[round % 2 * threads() + (thread() ^ 1)];
        sync_threads();
    }
}
WITH_AND_WITHOUT(64, pipeline, LIST(const Bits16* x, Bits16* y, u32 rounds), (x, y, rounds))

// The same without the barrier that keeps the next copy out of a stage that others still read.
template <bool WRONG> DEVICE void overwrite(const Bits16* x, Bits16* y, u32 rounds) {
    DYNAMIC_SHARED(Bits16, stage);
    for (u32 round = 0; round < rounds; round++) {
        copy_async_16(stage + thread(), x + u64(round) * threads() + thread(), true);
        commit_async();
        wait_async<0>();
        sync_threads();
        y[u64(round) * threads() + thread()] = stage[threads() - 1 - thread()];
        if (!WRONG) sync_threads();
    }
}
WITH_AND_WITHOUT(64, overwrite, LIST(const Bits16* x, Bits16* y, u32 rounds), (x, y, rounds))

// Every block adds to the same sums.
template <bool WRONG> DEVICE void accumulate(const float* x, float* sums) {
    const float own = x[block_x() * threads() + thread()];
    if (WRONG) sums[thread()] += own;
    else atomic_add(&sums[thread()], own);
}
WITH_AND_WITHOUT(64, accumulate, LIST(const float* x, float* sums), (x, sums))

// The last block to finish adds what all have written; each has to make its own part visible before it says so.
template <bool WRONG> DEVICE void last_block(float* y, float* parts, u32* finished) {
    SHARED(u32, ticket, 1);
    parts[block_x() * threads() + thread()] = (float)block_x();
    if (!WRONG) fence();
    sync_threads();
    if (thread() == 0) ticket[0] = atomic_add(finished, 1u);
    sync_threads();
    if (ticket[0] + 1 < grid_x()) return;
    float sum = 0;
    for (u32 b = 0; b < grid_x(); b++) sum += parts[b * threads() + thread()];
    y[thread()] = sum;
}
WITH_AND_WITHOUT(64, last_block, LIST(float* y, float* parts, u32* finished), (y, parts, finished))

// Halves of a word, each written by a block of its own.
template <bool WRONG> DEVICE void halves(float* y) {
    if (thread() >= 32) return;
    u16* half = (u16*)y + 2 * thread() + (WRONG ? 0 : block_x());
    *half = WRONG || block_x() == 1 ? 0x3f80 : 0;
    if (WRONG && block_x() == 0) half[1] = 0x3f80;
}
WITH_AND_WITHOUT(64, halves, LIST(float* y), (y))

// d[16][8] = a[16][16] b[16][8] by one warp; the bug swaps two registers of a's fragment.
template <bool WRONG> DEVICE void fragment(const bf16* a, const bf16* b, float* d) {
    const u32 g = lane() / 4, t = 2 * (lane() % 4);
    const auto pair = [](bf16 low, bf16 high) { return (u32)low | (u32)high << 16; };
    u32 left[4], right[2];
    float sums[4] = {0, 0, 0, 0};
    for (u32 i = 0; i < 4; i++) {
        const u32 row = g + 8 * (WRONG ? i / 2 : i % 2), column = t + 8 * (WRONG ? i % 2 : i / 2);
        left[i] = pair(a[row * 16 + column], a[row * 16 + column + 1]);
    }
    for (u32 i = 0; i < 2; i++) right[i] = pair(b[(t + 8 * i) * 8 + g], b[(t + 8 * i + 1) * 8 + g]);
    mma_bf16(sums, left, right);
    for (u32 i = 0; i < 4; i++) d[(g + 8 * (i / 2)) * 8 + t + i % 2] = sums[i];
}
WITH_AND_WITHOUT(32, fragment, LIST(const bf16* a, const bf16* b, float* d), (a, b, d))

// y[i] = x[i] + x[i + 1], and x[count - 1] last: reads x[count] if wrong.
template <bool WRONG> DEVICE void past_end(const float* x, float* y, u32 count) {
    const u64 i = u64(block_x()) * threads() + thread();
    if (i >= count) return;
    const bool last = !WRONG && i + 1 == count;
    y[i] = x[i] + (last ? 0.0f : x[i + 1]);
}
WITH_AND_WITHOUT(64, past_end, LIST(const float* x, float* y, u32 count), (x, y, count))

// The same with dynamic shared memory, and with an array that is written beyond its end.
template <bool WRONG> DEVICE void past_shared(float* y) {
    DYNAMIC_SHARED(float, stage);
    stage[thread()] = (float)thread();
    sync_threads();
    y[thread()] = stage[thread() + (WRONG ? 1 : 0)];
}
WITH_AND_WITHOUT(64, past_shared, LIST(float* y), (y))

template <bool WRONG> DEVICE void past_array(float* y) {
    SHARED(float, stage, 63);
    if (WRONG || thread() < 63) stage[thread()] = (float)thread();
    sync_threads();
    y[thread()] = stage[thread() % 63];
}
WITH_AND_WITHOUT(64, past_array, LIST(float* y), (y))

// Threads beyond the count leave before the barrier that the others wait at.
template <bool WRONG> DEVICE void early_return(const float* x, float* y, u32 count) {
    SHARED(float, stage, 64);
    if (WRONG && thread() >= count) return;
    if (thread() < count) stage[thread()] = x[thread()];
    sync_threads();
    if (thread() < count) y[thread()] = stage[count - 1 - thread()];
}
WITH_AND_WITHOUT(64, early_return, LIST(const float* x, float* y, u32 count), (x, y, count))

// A shuffle that only some lanes reach.
template <bool WRONG> DEVICE void divergent(const float* x, float* y, u32 count) {
    float own = x[thread()];
    if (!WRONG || thread() < count) own += shuffle_xor(own, 1);
    y[thread()] = own;
}
WITH_AND_WITHOUT(64, divergent, LIST(const float* x, float* y, u32 count), (x, y, count))

// Lanes that meet in different branches.
template <bool WRONG> DEVICE void branches(const float* x, float* y) {
    const float own = x[thread()];
    float other;
    if (WRONG && thread() % 2 == 0) {
        other = shuffle_xor(own, 1);
    } else {
        other = shuffle_xor(own, 1);
    }
    y[thread()] = own + other;
}
WITH_AND_WITHOUT(64, branches, LIST(const float* x, float* y), (x, y))

// Threads that meet at different barriers.
template <bool WRONG> DEVICE void barriers(float* y) {
    if (WRONG && thread() < 32) {
        sync_threads();
    } else {
        sync_threads();
    }
    y[thread()] = 1;
}
WITH_AND_WITHOUT(64, barriers, LIST(float* y), (y))

// Sums into shared memory that nobody set to zero.
template <bool WRONG> DEVICE void uninitialised(const float* x, float* y) {
    SHARED(float, sum, 1);
    if (!WRONG && thread() == 0) sum[0] = 0;
    sync_threads();
    for (u32 w = 0; w < threads(); w++) {
        if (w == thread()) sum[0] += x[w];
        sync_threads();
    }
    y[thread()] = sum[0];
}
WITH_AND_WITHOUT(64, uninitialised, LIST(const float* x, float* y), (x, y))

// Sixteen bytes from an address that is a multiple of four only.
template <bool WRONG> DEVICE void misaligned(const float* x, float* y) {
    store_16(y + 4 * thread(), load_16(x + 4 * thread() + (WRONG ? 1 : 0)));
}
WITH_AND_WITHOUT(32, misaligned, LIST(const float* x, float* y), (x, y))

// A condition on the arguments that does not hold.
template <bool WRONG> DEVICE void required(float* y, u32 count) {
    REQUIRE(WRONG ? count < threads() : count <= threads());
    y[thread()] = 1;
}
WITH_AND_WITHOUT(32, required, LIST(float* y, u32 count), (y, count))

// Dynamic shared memory, as much as was asked for.
KERNEL(32, big_shared, float* y, u32 count) {
    DYNAMIC_SHARED(float, stage);
    for (u32 i = thread(); i < count; i += threads()) stage[i] = (float)i;
    sync_warp();
    for (u32 i = thread(); i < count; i += threads()) y[i] = stage[count - 1 - i];
}
