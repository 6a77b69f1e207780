// The order in which the threads of a block run. A correct kernel gives the same result in every order.
#pragma once
#include "types.h"

namespace emulator {

// Order 0: warps and lanes ascending, each warp as far as it gets; asynchronous copies happen when waited for.
// Order 1: descending; copies happen at once.
// Order 2: ascending, switching to another warp after every wait; copies when waited for.
// Any other n: warps and lanes shuffled by the seed n and the block's number; n even: as order 2, else as order 0;
// copies at once where n is a multiple of 4.
struct Order {
    u8 lanes[32];
    u8 warps[32];
    bool interleaved;
    bool lazy_copies;

    Order(int number, u64 block, u32 warp_count);
};

}  // namespace emulator
