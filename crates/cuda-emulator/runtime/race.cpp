#include "race.h"

#include <sys/mman.h>

#include <cstdlib>

namespace emulator {

namespace {

constexpr u32 WARP = 32, WORD = 4;
// Later than any other: the time of a copy that has not been waited for.
constexpr u32 NEVER = 0xffffffff;

// Whether an access at `time` by `other` came before the current one of `thread`, in every order of threads.
bool ordered(const Clock& clock, u32 time, u32 other, u32 thread) {
    if (other == thread) return true;
    return time < (other / WARP == thread / WARP ? clock.met(thread / WARP) : clock.last_block);
}

u32 later(u32 a, u32 b) { return a > b ? a : b; }

void* map(u64 bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) abort();
    return memory;
}

}  // namespace

Shadow::Shadow() : cells(static_cast<Cell*>(map(BYTES / WORD * sizeof(Cell)))) {}
Shadow::~Shadow() { munmap(cells, BYTES / WORD * sizeof(Cell)); }

void Shadow::start(Clock& clock) {
    clock.block();
    // Long before the count overflows, all starts anew.
    if (clock.now < 0x80000000 && !damaged) return;
    clock = Clock();
    clock.block();
    damaged = false;
    if (madvise(cells, BYTES / WORD * sizeof(Cell), MADV_DONTNEED) != 0) abort();
}

// An access that came before this one in every order is not needed any more: what is ordered after this one is ordered
// after that one too. Of two that are needed, one shall be of another warp: then every third thread races with one.
void Shadow::note(Access (&slots)[2], const Clock& clock, const Access& now) {
    for (Access& slot : slots) {
        if (slot.thread == now.thread && slot.time == now.time) {
            slot.mask |= now.mask;
            return;
        }
        if (!ordered(clock, slot.time, slot.thread, now.thread)) continue;
        slot = now;
        return;
    }
    const u32 warp = slots[0].thread / WARP;
    if (slots[1].thread / WARP == warp && now.thread / WARP != warp) slots[1] = now;
}

bool Shadow::known(const Access (&slots)[2], const Access& now) {
    for (const Access& slot : slots) {
        if (slot.thread == now.thread && slot.time == now.time && (now.mask & ~slot.mask) == 0) return true;
    }
    return false;
}

u32 Shadow::latest(const Access (&slots)[2]) { return later(slots[0].time, slots[1].time); }

Race Shadow::access(const Clock& clock, u32 thread, u64 offset, u32 bytes, Kind kind) {
    const bool write = kind != Read;
    const u64 end = offset + bytes;
    for (u64 at = offset; at < end;) {
        Cell& cell = cells[at / WORD];
        const u64 next = at / WORD * WORD + WORD;
        const u32 first = at % WORD, last = (next < end ? next : end) - 1;
        const u16 mask = (0xf << first) & (0xf >> (WORD - 1 - last % WORD));
        const Access now = {kind == Copy ? NEVER : clock.now, u16(thread), mask};
        at = next;
        Access(&own)[2] = write ? cell.writes : cell.reads;
        // The usual first access since all threads met: everything before it is ordered.
        const u32 written = latest(cell.writes);
        if (written < clock.last_block && latest(cell.reads) < clock.last_block) {
            own[0] = now;
            continue;
        }
        // A race with what came since was found when that came.
        if (known(own, now)) continue;
        // The usual further read: what was written is ordered.
        if (!write && written < clock.last_block) {
            note(own, clock, now);
            continue;
        }
        const auto races = [&](const Access& other) {
            return (other.mask & mask) != 0 && !ordered(clock, other.time, other.thread, thread);
        };
        for (const Access& other : cell.writes) {
            if (races(other)) return {true, true, other.time == NEVER, other.thread};
        }
        for (const Access& other : cell.reads) {
            if (write && races(other)) return {true, false, false, other.thread};
        }
        note(own, clock, now);
    }
    return {false, false, false, 0};
}

}  // namespace emulator
