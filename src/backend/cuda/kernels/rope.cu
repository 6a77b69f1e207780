// Rotary position embedding in place, half-split order: element i of a head turns with element i + D/2. One block per
// token. Floor: 4 bytes of device memory per element; a token's row of the table is shared by its heads.
#include "rows.h"

DEVICE void turn(float& low, float& high, float cosine, float sine) {
    const float a = low, b = high;
    low = a * cosine - b * sine;
    high = b * cosine + a * sine;
}

// x is [tokens, heads, 2 half], the table [positions, half, 2] of cosine and sine. `segment_start` is null if positions
// are counted through a row.
KERNEL(256, rope, bf16* x, const float* table, const u32* segment_start, u32 heads, u32 half, u32 queries, u32 start,
       float sign) {
    bf16* token = x + (u64)block_x() * pitch(heads * half * 2);
    const u32 query = block_x() % queries, from = segment_start ? min_(segment_start[block_x()], query) : 0;
    const float* angles = table + (u64)(start + query - from) * half * 2;
    if (half % 8 == 0) {
        // Eight neighbours at once: enough bytes are then under way to keep the memory busy.
        const u32 eights = half / 8;
        for (u32 i = thread(); i < heads * eights; i += threads()) {
            const u32 at = i % eights * 8;
            bf16* low = token + i / eights * half * 2 + at;
            Eight a = load_eight(low), b = load_eight(low + half);
            UNROLL
            for (int j = 0; j < 8; j += 2) {
                const Bits16 angle = load_16(angles + (at + j) * 2);
                UNROLL
                for (int k = 0; k < 2; ++k) {
                    turn(a.x[j + k], b.x[j + k], from_bits(angle.x[2 * k]), sign * from_bits(angle.x[2 * k + 1]));
                }
            }
            store_eight(low, a);
            store_eight(low + half, b);
        }
    } else if (half % 2 == 0) {
        // Two neighbours at once: four bytes of each half, sixteen of the table.
        const u32 pairs = half / 2;
        for (u32 i = thread(); i < heads * pairs; i += threads()) {
            const u32 at = i % pairs * 2;
            u32* low = (u32*)(token + i / pairs * half * 2 + at);
            u32* high = low + half / 2;
            const Bits16 angle = load_16(angles + at * 2);
            float a[2] = {low_to_float(*low), high_to_float(*low)};
            float b[2] = {low_to_float(*high), high_to_float(*high)};
            UNROLL
            for (int j = 0; j < 2; ++j) {
                turn(a[j], b[j], from_bits(angle.x[2 * j]), sign * from_bits(angle.x[2 * j + 1]));
            }
            *low = pack_bf16(a[0], a[1]);
            *high = pack_bf16(b[0], b[1]);
        }
    } else {
        for (u32 i = thread(); i < heads * half; i += threads()) {
            bf16* low = token + i / half * half * 2 + i % half;
            float a = to_float(low[0]), b = to_float(low[half]);
            turn(a, b, angles[i % half * 2], sign * angles[i % half * 2 + 1]);
            low[0] = to_bf16(a);
            low[half] = to_bf16(b);
        }
    }
}
