#include "order.h"

#include <utility>

namespace emulator {

namespace {

// The generator of SplitMix64.
u64 next(u64& state) {
    u64 z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

void shuffle(u8* items, u32 count, u64& state) {
    for (u32 i = count; i > 1; i--) std::swap(items[i - 1], items[next(state) % i]);
}

}  // namespace

Order::Order(int number, u64 block, u32 warp_count)
    : interleaved(number != 0 && number % 2 == 0), lazy_copies(number != 1 && (number < 3 || number % 4 != 0)) {
    for (u32 i = 0; i < 32; i++) {
        lanes[i] = number == 1 ? 31 - i : i;
        warps[i] = number == 1 && i < warp_count ? warp_count - 1 - i : i;
    }
    if (number < 0 || number > 2) {
        u64 state = u64(number) << 32 ^ block;
        shuffle(lanes, 32, state);
        shuffle(warps, warp_count, state);
    }
}

}  // namespace emulator
