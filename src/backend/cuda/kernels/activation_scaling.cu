// Activations times a number, with elements left out, and summed in groups (`ActivationScaling`): one warp per row.
// Floors, in bytes of device memory per element: scaling 4, its gradient 4, dropout 4, and 2 more where it adds;
// sums 2, and their gradient 2 or 4.
#include "rng.h"
#include "rows.h"

KERNEL(256, scale_rows, bf16* x, const float* learned, u32 has_learned, u32 rows, u32 width, float factor) {
    const u32 row = block_x() * 8 + warp();
    if (row < rows) {
        const float by = has_learned ? factor * *learned : factor;
        bf16* at = x + (u64)row * pitch(width);
        for (u32 i = lane(); i < width; i += 32) at[i] = to_bf16(to_float(at[i]) * by);
    }
}

KERNEL(256, scale_grad_rows, const bf16* x, const bf16* dy, float* sums, u32 rows, u32 width, float factor) {
    const u32 row = block_x() * 8 + warp();
    if (row < rows) {
        const u64 at = (u64)row * pitch(width);
        float sum = 0.0f;
        for (u32 i = lane(); i < width; i += 32) sum += to_float(x[at + i]) * to_float(dy[at + i]);
        const float total = warp_sum(sum);
        if (lane() == 0) sums[row] = factor * total;
    }
}

// Lane i has element i of each block of 32.
KERNEL(256, dropout, const bf16* x, bf16* out, u32 rows, u32 width, u64 first, u64 seed, u32 step, u32 tensor,
       float probability, float factor, u32 add) {
    const u32 row = block_x() * 8 + warp();
    if (row < rows) {
        const RngKey key = {seed, step, tensor, FOR_DROPOUT};
        const u64 block = (first + row) * ceil_div(width, 32u);
        const u64 at = (u64)row * pitch(width);
        for (u32 i = lane(); i < width; i += 32) {
            const bool stays = uniform_at(key, block + i / 32, lane()) >= probability;
            const float kept = stays ? to_float(x[at + i]) * factor : 0.0f;
            out[at + i] = to_bf16(add ? to_float(out[at + i]) + kept : kept);
        }
    }
}

// A lane sums every 32nd group of a row.
KERNEL(256, sum_groups, const bf16* x, bf16* out, u32 rows, u32 width, u32 group) {
    const u32 row = block_x() * 8 + warp();
    if (row < rows) {
        const u32 groups = ceil_div(width, group);
        const bf16* from = x + (u64)row * pitch(width);
        bf16* to = out + (u64)row * pitch(groups);
        for (u32 g = lane(); g < groups; g += 32) {
            const u32 end = (g + 1) * group < width ? (g + 1) * group : width;
            float sum = 0.0f;
            for (u32 i = g * group; i < end; ++i) sum += to_float(from[i]);
            to[g] = to_bf16(sum);
        }
    }
}

KERNEL(256, sum_groups_grad, const bf16* dout, bf16* dx, u32 rows, u32 width, u32 group, u32 add) {
    const u32 row = block_x() * 8 + warp();
    if (row < rows) {
        const bf16* from = dout + (u64)row * pitch(ceil_div(width, group));
        bf16* to = dx + (u64)row * pitch(width);
        for (u32 i = lane(); i < width; i += 32) {
            const float own = to_float(from[i / group]);
            to[i] = to_bf16(add ? to_float(to[i]) + own : own);
        }
    }
}
