#include "blocks.h"

#include <sys/mman.h>

#include <cstdlib>

namespace emulator {

namespace {

constexpr u64 WORD = 4;
constexpr auto RELAXED = std::memory_order_relaxed;

// A visit in one number: bytes of the word, whether more than one block read them, the block, the launch.
constexpr u64 MANY = 16;
constexpr int BLOCK = 8, LAUNCH = 40;

u64 visit(const Visitor& visitor, u64 mask) {
    return u64(visitor.launch) << LAUNCH | u64(visitor.block) << BLOCK | mask;
}
u32 block_of(u64 visit) { return static_cast<u32>(visit >> BLOCK); }

// Whether a visit was by another block of this launch, to some of the same bytes, with nothing to order it.
bool conflicts(u64 seen, const Visitor& visitor, u64 mask) {
    if (seen >> LAUNCH != visitor.launch || (seen & mask) == 0) return false;
    if (block_of(seen) == visitor.block && (seen & MANY) == 0) return false;
    return !visitor.fences->before(block_of(seen), visitor.moment);
}

}  // namespace

void Fences::fence(u64 block) {
    std::call_once(made, [this] { times.reset(new std::atomic<u64>[blocks]()); });
    any = true;
    times[block] = ++now;
}

bool Fences::before(u64 block, u64 moment) const {
    if (!any) return false;
    const u64 time = times[block];
    return time != 0 && time <= moment;
}

Visits::Visits(u64 bytes)
    : words(bytes / WORD + 1),
      cells(static_cast<Cell*>(mmap(nullptr, words * sizeof(Cell), PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
    if (cells == MAP_FAILED) abort();
}

Visits::~Visits() { munmap(cells, words * sizeof(Cell)); }

Conflict Visits::access(const Visitor& visitor, u64 offset, u32 bytes, bool write) {
    const u64 end = offset + bytes;
    for (u64 at = offset; at < end;) {
        Cell& cell = cells[at / WORD];
        const u64 next = at / WORD * WORD + WORD;
        const u64 first = at % WORD, last = ((next < end ? next : end) - 1) % WORD;
        const u64 mask = (0xf << first) & (0xf >> (WORD - 1 - last)), own = visit(visitor, mask);
        at = next;
        const u64 written = cell.written.load(RELAXED), read = cell.read.load(RELAXED);
        if (conflicts(written, visitor, mask)) return {true, true, block_of(written)};
        if (write) {
            if (conflicts(read, visitor, mask)) return {true, false, block_of(read)};
            cell.written.store(written >> BLOCK == own >> BLOCK ? written | mask : own, RELAXED);
        } else if (read >> LAUNCH != visitor.launch || block_of(read) == visitor.block) {
            cell.read.store(read >> BLOCK == own >> BLOCK ? read | mask : own, RELAXED);
        } else if ((read & 0xf) == mask) {
            // Of other bytes only the first block's reads are kept: a conflict may be missed, none is made up.
            cell.read.store(read | MANY, RELAXED);
        }
    }
    return {false, false, 0};
}

u32 new_launch() {
    static std::atomic<u32> last{0};
    return ++last & 0xffffff;
}

}  // namespace emulator
