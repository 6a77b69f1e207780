// Rotary position embedding in place, half-split order: element i of a head turns with element i + D/2. Floor: 4 bytes
// of device memory per element; a token's row of the table is shared by its heads.
#include "rotation.h"
#include "rows.h"

// The row of the table for a token: its position in its sequence, or in its segment.
DEVICE const float* angles_of(const float* table, const u32* segment_start, u32 token, u32 half, u32 queries,
                              u32 start) {
    const u32 query = token % queries, from = segment_start ? min_(segment_start[token], query) : 0;
    return table + (u64)(start + query - from) * half * 2;
}

// x is [tokens, heads, 2 half], the table [positions, half, 2] of cosine and sine. `segment_start` is null if positions
// are counted through a row. Halves of whole eighths: a thread turns eight neighbours, sixteen bytes of each half and
// sixty-four of the table.
KERNEL(256, rope_eights, bf16* x, const float* table, const u32* segment_start, u32 tokens, u32 heads, u32 half,
       u32 queries, u32 start, float sign) {
    const u32 eighths = half / 8, row = heads * eighths;
    const u32 i = block_x() * threads() + thread(), token = i / row;
    if (token >= tokens) return;
    const u32 rest = i % row, head = rest / eighths, at = rest % eighths * 8;
    bf16* low = x + (u64)token * pitch(heads * half * 2) + head * half * 2 + at;
    const float* angles = angles_of(table, segment_start, token, half, queries, start) + at * 2;
    Eight a = load_eight(low), b = load_eight(low + half);
    UNROLL
    for (int pair = 0; pair < 4; ++pair) {
        const Bits16 angle = load_16(angles + pair * 4);
        UNROLL
        for (int j = 0; j < 2; ++j) {
            turn(a.x[2 * pair + j], b.x[2 * pair + j], from_bits(angle.x[2 * j]), sign * from_bits(angle.x[2 * j + 1]));
        }
    }
    store_eight(low, a);
    store_eight(low + half, b);
}

// The same for other heads, one block per token.
KERNEL(256, rope, bf16* x, const float* table, const u32* segment_start, u32 heads, u32 half, u32 queries, u32 start,
       float sign) {
    bf16* token = x + (u64)block_x() * pitch(heads * half * 2);
    const float* angles = angles_of(table, segment_start, block_x(), half, queries, start);
    if (half % 2 == 0) {
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
