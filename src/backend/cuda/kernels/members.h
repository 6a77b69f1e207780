// The tensors of one launch: what there is of each, and which of them a thread block works on. The table is a parameter
// of the kernels, so it reaches the device with the launch itself, and there is no copy that a launch would wait for.
#pragma once
#include "adam_pass.h"

// A tensor whose elements are moved.
struct Member {
    Planes planes;
    Shape shape;
    // Number in the model's table.
    u32 tensor;
    // The first of its leaves, and of its thread blocks, among those of all members.
    u32 leaf;
    u32 block;
    // Which of the verdicts is its own.
    u32 verdict;
};
SIZE_ON_HOST(Member, 128);

struct Members {
    Member of[MOST_MEMBERS];
    u32 count;
    u32 reserved;
};
SIZE_ON_HOST(Members, 2056);

// Whether a launch has one member only (`Kind::most` in src/backend/cuda/ops/adam.rs): the update of bytes needs all
// the registers that a thread may have, and on Blackwell an index into the table would be one too many.
template <class Stored> constexpr bool ALONE = false;
template <> constexpr bool ALONE<StoredBytes> = true;

// The member that a thread block works on.
template <class Stored> DEVICE const Member& member_of(const Members& members, u32 block) {
    if (ALONE<Stored>) return members.of[0];
    u32 i = 0;
    while (i + 1 < members.count && members.of[i + 1].block <= block) ++i;
    return members.of[i];
}
