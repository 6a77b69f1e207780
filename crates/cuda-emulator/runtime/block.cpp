#include "block.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstring>

#include "lines.h"

namespace emulator {

__thread const Self* self = nullptr;
__thread Block* running = nullptr;

namespace {

const char* name(Wait wait) {
    switch (wait) {
        case Wait::Barrier: return "sync_threads";
        case Wait::Warp: return "sync_warp";
        case Wait::Shuffle: return "a shuffle";
        case Wait::Ballot: return "ballot";
        case Wait::Matrix: return "load_matrix";
        case Wait::Mma: return "a product of fragments";
        case Wait::Finished: return "its end";
        case Wait::None: break;
    }
    return "nothing";
}

// The file's name without its folders, and the line.
std::string place(const char* file, u32 line) {
    const char* slash = strrchr(file, '/');
    return std::string(slash ? slash + 1 : file) + ":" + std::to_string(line);
}

std::string where(const Thread& thread) {
    std::string text = "thread " + std::to_string(thread.thread);
    if (thread.wait == Wait::Finished) return text + " has returned";
    if (thread.wait == Wait::None) return text + " runs";
    return text + " waits at " + name(thread.wait) + " (" + place(thread.file, thread.line) + ")";
}

u8* map_stacks() {
    const size_t bytes = MAX_THREADS * (PAGE + STACK);
    void* stacks = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) abort();
    return static_cast<u8*>(stacks);
}

bool same_place(const Thread& a, const Thread& b) {
    return a.wait == b.wait && a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

}  // namespace

Block::Block() : threads(new Thread[MAX_THREADS]()), stacks(map_stacks()) {}

Block::~Block() {
    munmap(stacks, MAX_THREADS * (PAGE + STACK));
    delete[] threads;
}

// A page that faults lies below each stack.
void Block::reserve(u32 count) {
    for (; reserved < count; reserved++) {
        u8* const below = stacks + reserved * (PAGE + STACK);
        if (mprotect(below + PAGE, STACK, PROT_READ | PROT_WRITE) != 0) abort();
        threads[reserved].stack = u64(below + PAGE);
    }
}

void Block::enter() {
    Block* const block = running;
    block->launch->kernel.run(block->launch->parameters.pointers());
    block->finish();
    __builtin_trap();
}

void Block::start(u64 index) {
    const u32 count = launch->threads, warp_count = (count + WARP - 1) / WARP;
    order = Order(launch->order, index, warp_count);
    const u32 x = index % launch->grid[0], rest = index / launch->grid[0];
    const u32 block[3] = {x, u32(rest % launch->grid[1]), u32(rest / launch->grid[1])};
    u8 position_of[WARP], rank_of[WARP];
    for (u32 i = 0; i < WARP; i++) position_of[order.lanes[i]] = rank_of[order.warps[i]] = i;
    memset(warps, 0, sizeof warps);
    for (u32 i = 0; i < count; i++) {
        Thread& thread = threads[i];
        thread.thread = i;
        thread.threads = count;
        memcpy(thread.block, block, sizeof block);
        memcpy(thread.grid, launch->grid, sizeof block);
        thread.wait = Wait::None;
        thread.position = position_of[i % WARP];
        thread.rank = rank_of[i / WARP];
        thread.groups = 0;
        thread.copies.clear();
        warps[i / WARP].ready |= 1u << thread.position;
        // Stack tops at different offsets in their pages, or all would compete for the same cache lines.
        prepare(thread.context, reinterpret_cast<void*>(thread.stack), STACK - i % WARP * 576, enter);
    }
    ready_warps = warp_count == WARP ? ~0u : (1u << warp_count) - 1;
    rank = at_barrier = finished = 0;
    shared.start(launch->dynamic_bytes);
    shadow.start(clock);
    ranges.clear();
    visitor = {launch->number, static_cast<u32>(index), 0, &launch->fences};
    faulty = nullptr;
}

void Block::run(Launch& of, u64 index) {
    launch = &of;
    reserve(of.threads);
    start(index);
    running = this;
    current = pick();
    self = current;
    change(host, current->context);
    self = nullptr;
    running = nullptr;
    if (faulty != nullptr) of.explain(line_of(faulty));
    if (!of.failed) {
        const std::string damage = shared.damage();
        if (!damage.empty())
            of.fail(std::string("kernel ") + of.kernel.name + ", block " + std::to_string(index) + ": " + damage,
                    false);
    }
}

Thread* Block::pick() {
    if (ready_warps == 0) return nullptr;
    const u32 later = order.interleaved ? ready_warps & ~((2u << rank) - 1) : ready_warps & 1u << rank;
    rank = __builtin_ctz(later != 0 ? later : ready_warps);
    const u32 warp = order.warps[rank];
    return &threads[warp * WARP + order.lanes[__builtin_ctz(warps[warp].ready)]];
}

// Switches to another thread, after the current one has blocked or has made others ready.
void Block::leave() {
    Thread* const from = current;
    Thread* const to = pick();
    if (to == from) return;
    if (to == nullptr) {
        if (finished < launch->threads) deadlock();
        change(from->context, host);
        __builtin_trap();
    }
    current = to;
    self = to;
    change(from->context, to->context);
}

void Block::finish() {
    end_copies();
    Thread& thread = *current;
    thread.wait = Wait::Finished;
    finished++;
    Warp& warp = warps[thread.thread / WARP];
    warp.ready &= ~(1u << thread.position);
    if (warp.ready == 0) ready_warps &= ~(1u << thread.rank);
    leave();
}

void Block::check_places(u32 begin, u32 end) {
    for (u32 i = begin + 1; i < end; i++) {
        if (same_place(threads[i], threads[begin])) continue;
        const std::string text =
            "threads meet at different places: " + where(threads[begin]) + ", " + where(threads[i]);
        fail(text, nullptr, 0);
    }
}

void Block::barrier(const char* file, u32 line) {
    Thread& thread = *current;
    thread.wait = Wait::Barrier;
    thread.file = file;
    thread.line = line;
    Warp& warp = warps[thread.thread / WARP];
    warp.ready &= ~(1u << thread.position);
    if (warp.ready == 0) ready_warps &= ~(1u << thread.rank);
    if (++at_barrier == launch->threads) {
        check_places(0, launch->threads);
        at_barrier = 0;
        clock.block();
        for (u32 i = 0; i < launch->threads; i++) {
            threads[i].wait = Wait::None;
            warps[i / WARP].ready |= 1u << threads[i].position;
            ready_warps |= 1u << threads[i].rank;
        }
        rank = 0;
        if (order.interleaved) rank = 31 - __builtin_clz(ready_warps);
    }
    leave();
}

void Block::collective(Wait kind, void* operands, Compute compute, const char* file, u32 line) {
    Thread& thread = *current;
    thread.wait = kind;
    thread.file = file;
    thread.line = line;
    Warp& warp = warps[thread.thread / WARP];
    const u32 bit = 1u << thread.position;
    if (warp.arrived == 0) warp.first = thread.thread;
    if (!same_place(thread, threads[warp.first])) {
        fail("lanes meet at different places: " + where(threads[warp.first]) + ", " + where(thread), nullptr, 0);
    }
    warp.operands[thread.thread % WARP] = operands;
    warp.arrived |= bit;
    warp.ready &= ~bit;
    if (warp.arrived == ~0u) {
        if (compute != nullptr) compute(warp.operands);
        // Only this collective orders the lanes' accesses to memory.
        if (kind == Wait::Warp) clock.warp(thread.thread / WARP);
        const u32 base = thread.thread / WARP * WARP;
        for (u32 i = base; i < base + WARP; i++) threads[i].wait = Wait::None;
        warp.arrived = 0;
        warp.ready = ~0u;
        ready_warps |= 1u << thread.rank;
    } else if (warp.ready == 0) {
        ready_warps &= ~(1u << thread.rank);
    }
    leave();
}

// No thread can run, and not all have finished: reports which warp or barrier waits for which threads.
void Block::deadlock() {
    for (u32 base = 0; base < launch->threads; base += WARP) {
        const Warp& warp = warps[base / WARP];
        if (warp.arrived == 0) continue;
        const u32 end = base + WARP < launch->threads ? base + WARP : launch->threads;
        for (u32 i = base; i < end; i++) {
            if ((warp.arrived & 1u << threads[i].position) != 0) continue;
            fail("deadlock: " + where(threads[warp.first]) + " for all lanes of its warp, but " + where(threads[i]),
                 nullptr, 0);
        }
        fail("deadlock: " + where(threads[warp.first]) + " for 32 lanes, but its warp has only " +
                 std::to_string(end - base),
             nullptr, 0);
    }
    u32 waiting = 0, gone = 0;
    for (u32 i = 0; i < launch->threads; i++) (threads[i].wait == Wait::Barrier ? waiting : gone) = i;
    fail("deadlock: " + where(threads[waiting]) + " for all threads, but " + where(threads[gone]), nullptr, 0);
}

void Block::fail(const std::string& what, const char* file, u32 line) {
    abandon(file != nullptr ? what + " (" + place(file, line) + ")" : what, false);
}

void Block::fault(u64 address) { abandon("touches memory " + describe(address), true); }

// Records the failure and abandons the block; the next one starts from scratch.
void Block::abandon(const std::string& what, bool fault) {
    Thread& thread = *current;
    char at[128];
    snprintf(at, sizeof at, ", block (%u, %u, %u), thread %u: ", thread.block[0], thread.block[1], thread.block[2],
             thread.thread);
    shadow.damage();
    launch->fail(std::string("kernel ") + launch->kernel.name + at + what, fault);
    change(thread.context, host);
    __builtin_trap();
}

std::string Block::describe(u64 address) const {
    const u64 offset = address - u64(stacks);
    if (offset < MAX_THREADS * (PAGE + STACK)) return "beyond its stack of " + std::to_string(STACK) + " bytes";
    const std::string text = shared.describe(address);
    return text.empty() ? describe_device(address) : text;
}

}  // namespace emulator
