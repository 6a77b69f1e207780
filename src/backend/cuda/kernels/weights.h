// Reading a weight: runs of 32 elements as floats, whatever it is stored as (src/backend/cpu/rows.rs, the same values).
#pragma once
#include "runs.h"

enum WeightKind : u32 { W_F32 = 0, W_BF16 = 1, W_INT8 = 2, W_INT4 = 3, W_SYMMETRIC = 4, W_ASYMMETRIC = 5 };

// The planes that products read; offsets are null in symmetric groups. The last two kinds are floats that products see
// rounded to four bits.
struct Weight {
    const void* data;
    const u16* scales;
    const u16* offsets;
    u32 kind;
    u32 reserved;
};

// A warp's tiles: what its runs lie in on their way in (floats or halves), in shared memory.
struct ReadTiles {
    Tile<float> floats;
    Tile<bf16> halves;
};
// A warp reads one plane at a time, so that both can be the same bytes.
DEVICE ReadTiles read_tiles(u8* shared) { return {{(float*)shared}, {(bf16*)shared}}; }

// Limits that keep a NaN.
DEVICE float limit(float x, float least, float most) { return x < least ? least : x > most ? most : x; }

// Groups rounded to four bits: symmetric `s limit(round(x / s), -8, 7)` with s = absmax / 7, asymmetric
// `s (limit(round(x / s) + z, 0, 15) - z)` with s = (max - min) / 15. Padding is not part of the range.
DEVICE void round_runs(const Shape& shape, u32 real, bool asymmetric, float (&x)[RUN]) {
    float low = from_bits(0x7f800000u), high = from_bits(0xff800000u);
    UNROLL
    for (u32 k = 0; k < RUN; ++k) {
        if (k < real) {
            low = fmin_(low, x[k]);
            high = fmax_(high, x[k]);
        }
    }
    low = group_min(low, shape.runs_per_group);
    high = group_max(high, shape.runs_per_group);
    const float span = asymmetric ? high - low : fmax_(high, -low);
    const float scale = fmax_(span, 1e-5f) / (asymmetric ? 15.0f : 7.0f);
    const float zero = asymmetric ? limit(-round_even(low / scale), 0.0f, 15.0f) : 0.0f;
    const float least = asymmetric ? 0.0f : -8.0f, most = asymmetric ? 15.0f : 7.0f;
    UNROLL
    for (u32 k = 0; k < RUN; ++k) x[k] = scale * (limit(round_even(x[k] / scale) + zero, least, most) - zero);
}

// Values of bytes or nibbles: `scale (code - base) + offset`; the first term is exact in one fused operation.
DEVICE void decode_runs(const Bytes32& codes, float scale, float base, float offset, float (&x)[RUN]) {
    const float shift = -((BIAS + base) * scale);
    UNROLL
    for (u32 k = 0; k < RUN; ++k) x[k] = fma_(biased(codes, k), scale, shift) + offset;
}

// Each lane's run. Elements of padding are undefined numbers: whoever stores or sums them leaves them out. Lanes past
// the end (`real` and `live` say so) take part and receive no number that counts.
DEVICE void read_runs(const Weight& w, const Shape& shape, const Run& run, const ReadTiles& tiles, float (&x)[RUN]) {
    const u32 index = run.live ? run.index : 0;
    if (w.kind == W_INT4) {
        const bool asymmetric = w.offsets != nullptr;
        const float offset = asymmetric ? f16_to_float(w.offsets[run.group]) : 0.0f;
        const Bytes32 codes = unpack(load_nibbles((const u8*)w.data, index));
        decode_runs(codes, f16_to_float(w.scales[run.group]), asymmetric ? 0.0f : 8.0f, offset, x);
    } else if (w.kind == W_INT8) {
        const Bytes32 codes = flip_signs(load_bytes((const u8*)w.data, index), 0x80808080u);
        decode_runs(codes, f16_to_float(w.scales[run.group]), 128.0f, 0.0f, x);
    } else {
        // Nobody still reads what an earlier call brought.
        sync_warp();
        if (w.kind == W_BF16) {
            fetch(tiles.halves, (const bf16*)w.data, shape, run);
        } else {
            fetch(tiles.floats, (const float*)w.data, shape, run);
        }
        wait_for_tiles();
        if (w.kind == W_BF16) {
            read_row(tiles.halves, x);
        } else {
            read_row(tiles.floats, x);
            if (w.kind != W_F32) round_runs(shape, run.real, w.kind == W_ASYMMETRIC, x);
        }
    }
}

// A run as bfloat16 in this lane's row of a tile.
DEVICE void write_row(Tile<bf16> tile, const float (&x)[RUN]) {
    UNROLL
    for (u32 i = 0; i < 4; ++i) {
        Bits16 p;
        UNROLL
        for (u32 j = 0; j < 4; ++j) p.x[j] = pack_bf16(x[8 * i + 2 * j], x[8 * i + 2 * j + 1]);
        set_row_piece(tile, i, p);
    }
}
