// A block of a parameter on its way in and out of the update: which planes there are, what a lane loads of them, and
// how the stored numbers of a packed weight lie in them.
#pragma once
#include "codecs.h"
#include "grid.h"
#include "moments.h"
#include "adam.h"

// Null where a plane does not exist.
struct Planes {
    float* grad;
    void* data;
    u8* residue;
    u16* scales;
    u16* offsets;
    void* m;
    u16* m_scales;
    // If shared, this step's numbers of rows.
    void* v;
    u16* v_scales;
    // What they are multiplied by in each column, padded to whole blocks; null if by nothing.
    const float* factors;
    // Per row, whether it is updated; null if all are.
    const u32* touched;
};
SIZE_ON_HOST(Planes, 88);

struct Storage {
    // Number in the model's table.
    u32 tensor;
    // Whether the step's constants allow `move_plain`.
    u32 plain;
    Codec m;
    Codec v;
    QuantGrid grid;
};
SIZE_ON_HOST(Storage, 84);

// All that the functions below share.
struct Pass {
    Planes planes;
    Shape shape;
    Storage storage;
    AdamArgs c;
    GradStats verdict;
    Block block;
    // The first lane of its group.
    bool leads;
};

// A lane's block; one of a row that is left as it is is not live, as if it were past the tensor's end.
DEVICE Block block_of(const Planes& planes, const Shape& shape, u32 index) {
    Block block = block_of(shape, index);
    if (planes.touched != nullptr && block.live && planes.touched[index / shape.blocks_per_row] == 0) {
        block.live = false;
        block.real = 0;
    }
    return block;
}

// The stored integers of a block, from the planes and back: as they are loaded, as bytes with `QuantGrid::excess`
// added, and as bytes of their low bits.
struct StoredBytes {
    // What is stored instead of a padding element's integer: it keeps its byte.
    DEVICE u32 padding(const Planes&, u32 old) { return old ^ 0x80808080u; }
    DEVICE Bytes32 load(const Planes& planes, u32 block) { return load_raw((const u8*)planes.data, block, true); }
    DEVICE Bytes32 decode(const Planes&, const Bytes32& raw) { return flip_signs(raw, 0x80808080u); }
    DEVICE void store(const Planes& planes, u32 block, const Bytes32& stored) {
        store_bytes((u8*)planes.data, block, stored);
    }
};

// Codes, alone or with the residue as their low nibbles.
struct StoredNibbles {
    DEVICE u32 padding(const Planes&, u32) { return 0x88888888u; }
    DEVICE Bytes32 load(const Planes& planes, u32 block) {
        Bytes32 raw = load_raw((const u8*)planes.data, block, false);
        if (planes.residue == nullptr) return raw;
        const Bits16 low = load_nibbles(planes.residue, block);
        UNROLL
        for (u32 i = 0; i < 4; ++i) raw.x[4 + i] = low.x[i];
        return raw;
    }
    DEVICE Bytes32 decode(const Planes& planes, const Bytes32& raw) {
        if (planes.residue == nullptr) return unpack({{raw.x[0], raw.x[1], raw.x[2], raw.x[3]}});
        Bytes32 stored;
        UNROLL
        for (u32 i = 0; i < 4; ++i) {
            const u32 high = raw.x[i], low = raw.x[4 + i];
            stored.x[i] = (high & 0x0f0f0f0fu) << 4 | (low & 0x0f0f0f0fu);
            stored.x[4 + i] = (high & 0xf0f0f0f0u) | (low >> 4 & 0x0f0f0f0fu);
        }
        return stored;
    }
    DEVICE void store(const Planes& planes, u32 block, const Bytes32& stored) {
        if (planes.residue == nullptr) return store_nibbles((u8*)planes.data, block, pack(stored));
        Bits16 codes, low;
        UNROLL
        for (u32 i = 0; i < 4; ++i) {
            codes.x[i] = (stored.x[i] >> 4 & 0x0f0f0f0fu) | (stored.x[4 + i] & 0xf0f0f0f0u);
            low.x[i] = (stored.x[i] & 0x0f0f0f0fu) | (stored.x[4 + i] & 0x0f0f0f0fu) << 4;
        }
        store_nibbles((u8*)planes.data, block, codes);
        store_nibbles(planes.residue, block, low);
    }
};

// The same of four-bit floats, whose codes are not in the order of their values: what is stored is the rank of a code.
struct StoredFloats4 {
    // The four bytes of a word, each a rank, from or to codes.
    DEVICE u32 ranks(u32 codes) {
        u32 out = 0;
        UNROLL
        for (u32 i = 0; i < 32; i += 8) out |= fp4_rank(codes >> i & 15) << i;
        return out;
    }
    DEVICE u32 codes(u32 ranks) {
        u32 out = 0;
        UNROLL
        for (u32 i = 0; i < 32; i += 8) out |= fp4_code(ranks >> i & 15) << i;
        return out;
    }
    // A rank of 15 has the code of padding: with a residue of 8, or alone.
    DEVICE u32 padding(const Planes& planes, u32) { return planes.residue != nullptr ? 0xf8f8f8f8u : 0x0f0f0f0fu; }
    DEVICE Bytes32 load(const Planes& planes, u32 block) { return StoredNibbles::load(planes, block); }
    DEVICE Bytes32 decode(const Planes& planes, const Bytes32& raw) {
        Bytes32 stored = unpack({{raw.x[0], raw.x[1], raw.x[2], raw.x[3]}});
        const Bytes32 low = unpack({{raw.x[4], raw.x[5], raw.x[6], raw.x[7]}});
        UNROLL
        for (u32 i = 0; i < 8; ++i) {
            stored.x[i] = ranks(stored.x[i]);
            if (planes.residue != nullptr) stored.x[i] = stored.x[i] << 4 | low.x[i];
        }
        return stored;
    }
    DEVICE void store(const Planes& planes, u32 block, const Bytes32& stored) {
        const bool residue = planes.residue != nullptr;
        Bytes32 high, low;
        UNROLL
        for (u32 i = 0; i < 8; ++i) {
            high.x[i] = codes((residue ? stored.x[i] >> 4 : stored.x[i]) & 0x0f0f0f0fu);
            low.x[i] = stored.x[i] & 0x0f0f0f0fu;
        }
        store_nibbles((u8*)planes.data, block, pack(high));
        if (residue) store_nibbles(planes.residue, block, pack(low));
    }
};

// Whether a weight is stored as integers, rather than as numbers of this type.
template <class Stored> constexpr bool IS_PACKED = true;
template <> constexpr bool IS_PACKED<float> = false;
template <> constexpr bool IS_PACKED<bf16> = false;

// The place of a weight in kernels that do not touch it.
struct NoWeight {
    using Stored = StoredBytes;
};

DEVICE RngWords random_for(const Pass& p, u32 usage) {
    return rng_words({p.c.seed, p.c.number, p.storage.tensor, usage}, p.block.index);
}

// The warp's tiles of planes without padding, one after the other in dynamic shared memory; what is stored otherwise
// has none. A weight has one of two.
struct Tiles {
    Tile<float> grad;
    Tile<float> floats;
    Tile<bf16> halves;
    Tile<float> m;
    Tile<float> v;
};

template <class Weight> DEVICE u32 tiles_per_warp(const Storage& s) {
    return 1 + !IS_PACKED<typename Weight::Stored> + (s.m.width == FLOAT) + (s.v.width == FLOAT);
}

// Those of this warp, in a launch's shared memory.
template <class Weight> DEVICE Tiles tiles_of(u8* shared, const Storage& s) {
    const u32 size = Tile<float>::BYTES;
    u8* const grad = shared + warp() * tiles_per_warp<Weight>(s) * size;
    u8* const weight = grad + size;
    u8* const m = weight + !IS_PACKED<typename Weight::Stored> * size;
    u8* const v = m + (s.m.width == FLOAT) * size;
    return {{(float*)grad}, {(float*)weight}, {(bf16*)weight}, {(float*)m}, {(float*)v}};
}

// The tile of a weight's numbers.
DEVICE Tile<float> weight_tile(const Tiles& tiles, float) { return tiles.floats; }
DEVICE Tile<bf16> weight_tile(const Tiles& tiles, bf16) { return tiles.halves; }

// What a lane loads of its block before it needs any of it, as it lies in memory.
struct Loaded {
    // Codes and residue (16 bytes each), or bytes.
    Bytes32 stored;
    // 16 or 32 bytes.
    Bytes32 m;
    // The same, or the number of the row.
    Bytes32 v;
    GroupScaleBits group_scale;
    u16 m_scale;
    u16 v_scale;
    // The largest magnitude of the gradient's leaves that the block lies in.
    u32 most;
};

// Starts all loads, and ends them. Lanes past the end load the first block of the thread block, which they will not
// use: that of another thread block may be changing.
template <class Weight> DEVICE Loaded load_all(const Pass& p, const Tiles& tiles, const u32* maxima) {
    Loaded loaded = {};
    const u32 first = p.block.index - thread();
    const u32 block = p.block.live ? p.block.index : first;
    const u32 group = p.block.live ? p.block.group : first / p.shape.blocks_per_group;
    const Planes& planes = p.planes;
    using Stored = typename Weight::Stored;
    if constexpr (IS_PACKED<Stored>) {
        loaded.stored = Stored::load(planes, block);
        loaded.group_scale.scale = Weight::Levels::load(planes.scales, group);
        if (Weight::OFFSETS) loaded.group_scale.offset = planes.offsets[group];
    }
    if (is_compact(p.storage.m.width)) {
        loaded.m = load_raw((const u8*)planes.m, block, p.storage.m.width == BYTE);
        loaded.m_scale = planes.m_scales[group];
    }
    if (p.storage.v.width == SHARED_BY_ROW) {
        loaded.v.x[0] = bits(((const float*)planes.v)[block / p.shape.blocks_per_row]);
    } else if (is_compact(p.storage.v.width)) {
        loaded.v = load_raw((const u8*)planes.v, block, p.storage.v.width == BYTE);
        loaded.v_scale = planes.v_scales[group];
    }
    if (maxima != nullptr && p.block.real > 0) {
        loaded.most = max_(maxima[p.block.plain / LEAF], maxima[(p.block.plain + p.block.real - 1) / LEAF]);
    }
    if (planes.grad != nullptr) fetch(tiles.grad, planes.grad, p.shape, p.block);
    if constexpr (!IS_PACKED<Stored>) {
        fetch(weight_tile(tiles, Stored()), (const Stored*)planes.data, p.shape, p.block);
    }
    if (p.storage.m.width == FLOAT) fetch(tiles.m, (const float*)planes.m, p.shape, p.block);
    if (p.storage.v.width == FLOAT) fetch(tiles.v, (const float*)planes.v, p.shape, p.block);
    wait_for_tiles();
    return loaded;
}

// Bytes of the low bits of stored integers; `old` as they were decoded.
template <class Stored> DEVICE void store_stored(const Pass& p, Bytes32 stored, const Bytes32& old) {
    if (p.shape.dense == 0 && p.block.real < BLOCK) {
        UNROLL
        for (u32 i = 0; i < 8; ++i) {
            const u32 first = 4 * i;
            const u32 bytes = p.block.real <= first ? 0 : min_(p.block.real - first, 4u);
            const u32 real = bytes == 4 ? ~0u : (1u << 8 * bytes) - 1;
            stored.x[i] = (stored.x[i] & real) | (Stored::padding(p.planes, old.x[i]) & ~real);
        }
    }
    if (p.block.live) Stored::store(p.planes, p.block.index, stored);
}

// A block of a moment; second moments that are stored as codes come as their roots.
template <bool SIGNED>
DEVICE void store_moment(const Pass& p, const Codec& codec, void* plane, u16* scales, u32 usage, Tile<float> tile,
                         const float (&x)[BLOCK]) {
    if (codec.width == FLOAT) {
        write_row(tile, x);
        flush(tile, (float*)plane, p.shape, p.block);
        return;
    }
    float most = 0.0f;
    UNROLL
    for (u32 k = 0; k < BLOCK; ++k) most = fmax_(most, SIGNED ? fabs_(x[k]) : x[k]);
    const MomentScale scale = moment_scale(group_max(most, p.shape.blocks_per_group), codec.max);
    const Bytes32 codes = encode<SIGNED>(x, scale.inverse, codec.max, random_for(p, usage));
    if (!p.block.live) return;
    if (p.leads) scales[p.block.group] = scale.bits;
    store_codes(codec, (u8*)plane, p.block.index, codes);
}

// A lane's share of what rules beside Adam's family do, in blocks of THREADS. `gate` is what the gradient allows
// (optimizer_verdict), null if that does not matter.
template <u32 THREADS>
DEVICE Pass pass_of(const Planes& planes, const Shape& shape, const Storage& storage, u64 seed, u32 number,
                    const GradStats* gate) {
    AdamArgs c = {};
    c.seed = seed;
    c.number = number;
    const GradStats verdict = gate == nullptr ? GradStats{0.0f, 0.0f, 0.0f, MOVED} : *gate;
    const u32 index = block_x() * THREADS + thread();
    return {planes, shape, storage, c, verdict, block_of(planes, shape, index), index % shape.blocks_per_group == 0};
}
