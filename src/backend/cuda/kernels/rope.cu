// Rotary position embedding in place, half-split order: element i of a head turns with element i + D/2.
// Floor: 4 bytes of device memory per element; the table (8 bytes per two elements of one head) stays in L2.
#include "gpu.h"

// One thread per pair; x is [tokens, heads, 2 half], the table [positions, half, 2] of cosine and sine.
KERNEL(256, rope, bf16* x, const float* table, u64 pairs, u32 heads, u32 half, u32 queries,
       u32 start, float sign) {
    const u64 pair = (u64)block_x() * 256 + thread();
    if (pair < pairs) {
        const u32 i = (u32)(pair % half);
        const u64 head = pair / half;
        const u32 position = start + (u32)(head / heads % queries);
        const float* angle = table + ((u64)position * half + i) * 2;
        const float cosine = angle[0], sine = sign * angle[1];
        bf16* low = x + head * 2 * half + i;
        const float a = to_float(low[0]), b = to_float(low[half]);
        low[0] = to_bf16(a * cosine - b * sine);
        low[half] = to_bf16(b * cosine + a * sine);
    }
}
