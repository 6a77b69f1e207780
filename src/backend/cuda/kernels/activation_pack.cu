// Rows in four bits and back, groups of 64 (`ActivationPack::pack_rows`): one warp per group. Floors, in bytes of
// device memory per element: 2.5 both ways.
#include "moments.h"
#include "rows.h"

constexpr u32 GROUP = 64;
constexpr float MOST = 7.0f;

// Lane i has elements i and 32 + i of its group.
KERNEL(256, pack_rows, const bf16* x, u8* codes, u16* scales, u32 rows, u32 features, u64 first, u64 seed, u32 step,
       u32 tensor) {
    const u32 groups = ceil_div(features, GROUP);
    const u64 group = (u64)block_x() * 8 + warp();
    if (group < (u64)rows * groups) {
        const u64 row = group / groups;
        const u32 from = (u32)(group - row * groups) * GROUP + lane();
        const bf16* at = x + row * pitch(features);
        const float value[2] = {from < features ? to_float(at[from]) : 0.0f,
                                from + 32 < features ? to_float(at[from + 32]) : 0.0f};
        const MomentScale scale = moment_scale(warp_max(fmax_(fabs_(value[0]), fabs_(value[1]))), MOST);
        if (lane() == 0) scales[group] = scale.bits;
        const RngKey key = {seed, step, tensor, FOR_ACTIVATION_PACK};
        UNROLL
        for (u32 half = 0; half < 2; ++half) {
            const u64 block = 2 * (first * groups + group) + half;
            const float t = value[half] * scale.inverse;
            // A sum of its own: with the product it would be rounded once, and the CPU rounds twice.
            const float moved = floor_(fma_(uniform_at(key, block, lane()), 1.0f, t));
            const u32 code = (u32)(i32)(fmin_(fmax_(moved, -MOST), MOST) + 8.0f);
            const u32 other = shuffle_xor(code, 16);
            if (lane() < 16) codes[group * (GROUP / 2) + half * 16 + lane()] = (u8)(code | other << 4);
        }
    }
}

KERNEL(256, unpack_rows, const u8* codes, const u16* scales, bf16* x, u32 rows, u32 features) {
    const u32 groups = ceil_div(features, GROUP);
    const u64 group = (u64)block_x() * 8 + warp();
    if (group < (u64)rows * groups) {
        const u64 row = group / groups;
        const u32 from = (u32)(group - row * groups) * GROUP + lane();
        const float scale = from_bits((u32)scales[group] << 16);
        bf16* at = x + row * pitch(features);
        UNROLL
        for (u32 half = 0; half < 2; ++half) {
            const u32 byte = codes[group * (GROUP / 2) + half * 16 + lane() % 16];
            const float code = (float)(lane() < 16 ? byte & 15u : byte >> 4) - 8.0f;
            if (from + 32 * half < features) at[from + 32 * half] = to_bf16(scale * code);
        }
    }
}
