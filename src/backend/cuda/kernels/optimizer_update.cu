// The fused pass of the optimizer: gradient, weight and moments are read once, moved, and written back
// (src/backend/cpu/update.rs, the same arithmetic in the same order). Numbers that are NaN are the one exception: what
// they become is not the same everywhere.
//
// A thread owns a run of 32 elements: the random numbers, whose blocks serve runs, are computed where they are used, and
// what is done once per group costs least.
//
// Floor: 4 bytes of gradient; codes, residue and both moments read and written: 4 bytes if moments are nibbles, 6 if
// bytes (and 8 / G for the scales) - 8.1 bytes an element at G = 128 with nibbles, and 4 more for the statistics of a
// gradient that no cache held. At 4.3 TB/s that is 1.9 + 0.9 ps an element; an H200 has some 60 instructions of a lane
// in 1.9 ps, so the arithmetic is written as sparingly as exactness allows.

#include "lattice.h"
#include "moments.h"
#include "optimizer.h"
#include "optimizer_move.h"
#include "philox.h"

static constexpr u32 BLOCK = 128;

enum Kind : u32 { F32 = 0, BF16 = 1, INT8 = 2, INT4 = 3 };

// Null where a plane does not exist.
struct Planes {
    const float* grad;
    void* data;
    u8* residue;
    u16* scales;
    u16* offsets;
    void* m;
    u16* m_scales;
    void* v;
    u16* v_scales;
};

struct Storage {
    u32 kind;
    // Number in the model's table.
    u32 tensor;
    // Whether the step's constants allow `move_plain`.
    u32 plain;
    Codec m;
    Codec v;
    Lattice lattice;
};

// All that the functions below share.
struct Pass {
    Planes planes;
    Shape shape;
    Storage storage;
    Constants c;
    Verdict verdict;
    Run run;
    // The first lane of its group.
    bool leads;
};

DEVICE bool is_packed(const Pass& p) { return p.storage.kind >= INT8; }
DEVICE bool is_asymmetric(const Pass& p) { return p.planes.offsets != nullptr; }
DEVICE Deal deal_for(const Pass& p, u32 purpose) {
    return deal({p.c.seed, p.c.number, p.storage.tensor, purpose}, p.run.index);
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

DEVICE u32 tiles_per_warp(const Storage& s) {
    return 1 + (s.kind < INT8) + (s.m.width == FLOAT) + (s.v.width == FLOAT);
}

DEVICE Tiles tiles_at(u8* shared, const Storage& s) {
    const u32 size = Tile<float>::BYTES;
    u8* const weight = shared + size;
    u8* const m = weight + (s.kind < INT8) * size;
    u8* const v = m + (s.m.width == FLOAT) * size;
    return {{(float*)shared}, {(float*)weight}, {(bf16*)weight}, {(float*)m}, {(float*)v}};
}

// What a lane loads of its run before it needs any of it, as it lies in memory.
struct Loaded {
    // Codes and residue (16 bytes each), or bytes.
    Bytes32 stored;
    // 16 or 32 bytes.
    Bytes32 m;
    Bytes32 v;
    PlacementBits place;
    u16 m_scale;
    u16 v_scale;
    // The largest magnitude of the gradient's leaves that the run lies in.
    u32 most;
};

// Starts all loads, and ends them. Lanes past the end load what they will not use.
DEVICE Loaded load_all(const Pass& p, const Tiles& tiles, const u32* maxima) {
    Loaded loaded = {};
    const u32 run = p.run.live ? p.run.index : 0;
    const Planes& planes = p.planes;
    if (is_packed(p)) {
        loaded.stored = load_raw((const u8*)planes.data, run, p.storage.kind == INT8);
        if (planes.residue != nullptr) {
            const Bits16 low = load_nibbles(planes.residue, run);
            UNROLL
            for (u32 i = 0; i < 4; ++i) loaded.stored.x[4 + i] = low.x[i];
        }
        loaded.place.scale = planes.scales[p.run.group];
        if (is_asymmetric(p)) loaded.place.offset = planes.offsets[p.run.group];
    }
    if (p.storage.m.width != FLOAT) {
        loaded.m = load_raw((const u8*)planes.m, run, p.storage.m.width == BYTE);
        loaded.m_scale = planes.m_scales[p.run.group];
    }
    if (p.storage.v.width != FLOAT) {
        loaded.v = load_raw((const u8*)planes.v, run, p.storage.v.width == BYTE);
        loaded.v_scale = planes.v_scales[p.run.group];
    }
    if (p.run.real > 0) {
        loaded.most = max_(maxima[p.run.plain / LEAF], maxima[(p.run.plain + p.run.real - 1) / LEAF]);
    }
    fetch(tiles.grad, planes.grad, p.shape, p.run);
    if (p.storage.kind == F32) fetch(tiles.floats, (const float*)planes.data, p.shape, p.run);
    if (p.storage.kind == BF16) fetch(tiles.halves, (const bf16*)planes.data, p.shape, p.run);
    if (p.storage.m.width == FLOAT) fetch(tiles.m, (const float*)planes.m, p.shape, p.run);
    if (p.storage.v.width == FLOAT) fetch(tiles.v, (const float*)planes.v, p.shape, p.run);
    wait_for_tiles();
    return loaded;
}

// The stored numbers of a packed weight as bytes, `excess` added to them.
DEVICE Bytes32 stored_of(const Pass& p, const Bytes32& raw) {
    if (p.storage.kind == INT8) return flip_signs(raw, 0x80808080u);
    if (p.planes.residue == nullptr) return unpack({{raw.x[0], raw.x[1], raw.x[2], raw.x[3]}});
    Bytes32 stored;
    UNROLL
    for (u32 i = 0; i < 4; ++i) {
        const u32 high = raw.x[i], low = raw.x[4 + i];
        stored.x[i] = (high & 0x0f0f0f0fu) << 4 | (low & 0x0f0f0f0fu);
        stored.x[4 + i] = (high & 0xf0f0f0f0u) | (low >> 4 & 0x0f0f0f0fu);
    }
    return stored;
}

// Bytes of the low bits of stored numbers; `old` as loaded.
DEVICE void store_stored(const Pass& p, Bytes32 stored, const Bytes32& old) {
    if (p.shape.dense == 0 && p.run.real < RUN) {
        // Padding keeps its byte; a nibble of padding is 8.
        UNROLL
        for (u32 i = 0; i < 8; ++i) {
            const u32 first = 4 * i;
            const u32 real = p.run.real <= first ? 0 : p.run.real >= first + 4 ? ~0u : (1u << 8 * (p.run.real - first)) - 1;
            const u32 pad = p.storage.kind == INT8 ? old.x[i] ^ 0x80808080u : 0x88888888u;
            stored.x[i] = (stored.x[i] & real) | (pad & ~real);
        }
    }
    if (!p.run.live) return;
    if (p.storage.kind == INT8) return store_bytes((u8*)p.planes.data, p.run.index, stored);
    if (p.planes.residue == nullptr) return store_nibbles((u8*)p.planes.data, p.run.index, pack(stored));
    Bits16 codes, low;
    UNROLL
    for (u32 i = 0; i < 4; ++i) {
        codes.x[i] = (stored.x[i] >> 4 & 0x0f0f0f0fu) | (stored.x[4 + i] & 0xf0f0f0f0u);
        low.x[i] = (stored.x[i] & 0x0f0f0f0fu) | (stored.x[4 + i] & 0x0f0f0f0fu) << 4;
    }
    store_nibbles((u8*)p.planes.data, p.run.index, codes);
    store_nibbles(p.planes.residue, p.run.index, low);
}

// Marks padding: NaN in the weight is passed over by ranges, NaN in the gradient by the smallest magnitude.
DEVICE void mark_padding(const Pass& p, Tile<float> grad, Elements& e) {
    if (p.shape.dense != 0 || p.run.real == RUN) return;
    const float nan = from_bits(0x7fc00000u);
    UNROLL
    for (u32 k = 0; k < RUN; ++k) {
        if (k < p.run.real) continue;
        e.x[k] = nan;
        grad.data[lane() * Tile<float>::PITCH + k] = nan;
    }
}

// Nothing of padding may be left that could disturb a scale.
DEVICE void clear_padding(const Pass& p, Elements& e) {
    if (p.shape.dense != 0 || p.run.real == RUN) return;
    UNROLL
    for (u32 k = 0; k < RUN; ++k) {
        if (k >= p.run.real) e.x[k] = e.m[k] = e.v[k] = 0.0f;
    }
}

// Both moments as they were before the step; tells whether their scales are tame.
DEVICE bool decode_moments(const Pass& p, const Tiles& tiles, const Loaded& loaded, Elements& e) {
    const float m_scale = from_bits((u32)loaded.m_scale << 16), v_scale = from_bits((u32)loaded.v_scale << 16);
    if (p.storage.m.width == FLOAT) {
        read_row(tiles.m, e.m);
    } else {
        decode(p.storage.m, loaded.m, m_scale, e.m);
    }
    if (p.storage.v.width == FLOAT) {
        read_row(tiles.v, e.v);
    } else {
        decode(p.storage.v, loaded.v, v_scale, e.v);
        UNROLL
        for (u32 k = 0; k < RUN; ++k) e.v[k] = e.v[k] * e.v[k];
    }
    return is_tame(m_scale) && is_tame(v_scale);
}

// Elements outside SPAM's mask get no update and keep no state.
DEVICE void mask(const Pass& p, Elements& e) {
    const Deal dealt = deal({p.c.seed, p.c.mask_round, p.storage.tensor, FOR_MASK}, p.run.index);
    UNROLL
    for (u32 k = 0; k < RUN; ++k) {
        if (uniform(dealt, k) >= p.c.density) e.x[k] = e.m[k] = e.v[k] = 0.0f;
    }
}

// Moves the run; gives the range of its weights after that. The mask comes after, and with it the range anew.
template <bool COMMON> DEVICE Range move(const Pass& p, const Tiles& tiles, const Loaded& loaded, Elements& e) {
    bool tame = true;
    if (p.c.reset_before != 0) {
        UNROLL
        for (u32 k = 0; k < RUN; ++k) e.m[k] = e.v[k] = 0.0f;
    } else {
        tame = decode_moments(p, tiles, loaded, e);
    }
    clip_row(p.verdict, loaded.most, tiles.grad);
    mark_padding(p, tiles.grad, e);
    const float norm = p.verdict.norm;
    const float least = least_of_row(tiles.grad) * norm, most = fmin_(p.verdict.at, p.verdict.gmax) * norm;
    const bool plain = p.storage.plain != 0 && tame && least >= LEAST_GRADIENT && most <= MOST_GRADIENT;
    // The gradient is read again: kept in registers from here on, it would push others out of them.
    sync_warp();
    Range range;
    if (plain) {
        range = move_run<COMMON>(tiles.grad, e, [&](float g, float& x, float& m, float& v) {
            move_plain<!COMMON>(p.c, norm, g, x, m, v);
        });
    } else {
        const bool rooted = p.storage.v.width != FLOAT;
        range = move_run<COMMON>(tiles.grad, e, [&](float g, float& x, float& m, float& v) {
            move_any(p.c, norm, rooted, g, x, m, v);
        });
    }
    clear_padding(p, e);
    return range;
}

// The range of the weights with what is added to them, where `move` did not tell it.
DEVICE Range range_of(const Pass& p, const Bytes32& stored, const Values& v, const float (&delta)[RUN]) {
    Range range = empty_range();
    UNROLL
    for (u32 k = 0; k < RUN; ++k) {
        const float w = value(v, biased(stored, k)) + v.offset + delta[k];
        if (k < p.run.real) range = {fmin_(range.low, w), fmax_(range.high, w)};
    }
    return range;
}

// Weights and what is added to them become unrounded stored numbers, on a lattice fitted anew if they have left theirs.
struct Fitted {
    bool anew;
    float step;
};
DEVICE Fitted unrounded(const Pass& p, const Bytes32& stored, Placement place, Range range, float (&x)[RUN]) {
    const Lattice& l = p.storage.lattice;
    const bool asymmetric = is_asymmetric(p);
    range = {group_min(range.low, p.shape.runs_per_group), group_max(range.high, p.shape.runs_per_group)};
    const bool anew = p.run.live && needs_fit(l, range, place, asymmetric);
    const float bias = BIAS + l.excess;
    if (!anew) {
        const float inverse = l.fine / place.scale;
        UNROLL
        for (u32 k = 0; k < RUN; ++k) x[k] = (biased(stored, k) - bias) + x[k] * inverse;
        return {false, place.scale * l.unit};
    }
    const PlacementBits fitted = fit(l, range, asymmetric);
    const Placement next = placement(fitted, asymmetric);
    if (p.leads) {
        p.planes.scales[p.run.group] = fitted.scale;
        if (asymmetric) p.planes.offsets[p.run.group] = fitted.offset;
    }
    const Values old = values(l, place);
    const float inverse = l.fine / next.scale;
    UNROLL
    for (u32 k = 0; k < RUN; ++k) {
        const float w = value(old, biased(stored, k)) + old.offset + x[k];
        x[k] = (w - next.offset) * inverse + l.base;
    }
    return {true, next.scale * l.unit};
}

// What rounding leaves over of unrounded numbers goes to the first moment: nothing where a number is clamped.
DEVICE void feed_back(const Pass& p, const Deal& dealt, float step, Elements& e) {
    const Lattice& l = p.storage.lattice;
    const bool rooted = p.storage.v.width != FLOAT;
    UNROLL
    for (u32 k = 0; k < RUN; ++k) {
        const float free = floor_(plus_uniform(e.x[k], dealt, k));
        const float b = fmin_(fmax_(free, l.min), l.max);
        const float error = b == free ? (e.x[k] - b) * step : 0.0f;
        const float root = rooted ? e.v[k] : sqrt_rn(e.v[k]);
        if (k < p.run.real) e.m[k] = e.m[k] + p.c.feedback * denominator(p.c, root) * error;
    }
}

// The packed weight after the step; tells whether its group was fitted anew.
DEVICE bool store_packed(const Pass& p, const Bytes32& stored, Placement place, Range range, Elements& e) {
    const Lattice& l = p.storage.lattice;
    const Fitted fitted = unrounded(p, stored, place, range, e.x);
    const Deal dealt = deal_for(p, FOR_WEIGHT);
    if (p.c.feedback != 0.0f && p.verdict.mode == MOVED) feed_back(p, dealt, fitted.step, e);
    Bytes32 next;
    if (l.max == 255.0f) {
        // The limits are those of a byte.
        UNROLL
        for (u32 i = 0; i < 8; ++i) {
            i32 number[4];
            UNROLL
            for (u32 j = 0; j < 4; ++j) number[j] = floor_to_i32(plus_uniform(e.x[4 * i + j], dealt, 4 * i + j));
            next.x[i] = pack_limited_bytes(number[1], number[0], pack_limited_bytes(number[3], number[2], 0));
        }
    } else {
        UNROLL
        for (u32 i = 0; i < 8; ++i) {
            u32 number[4];
            UNROLL
            for (u32 j = 0; j < 4; ++j) {
                const float free = plus_uniform(e.x[4 * i + j], dealt, 4 * i + j);
                number[j] = floor_bits(fmin_(fmax_(free, l.min), l.max));
            }
            next.x[i] = four_bytes(number);
        }
    }
    store_stored(p, next, stored);
    return fitted.anew;
}

// bfloat16 bits of x, rounded stochastically by 16 bits (src/nibble/rounding.rs).
DEVICE u32 bf16_stochastic(float x, u32 u) {
    const u32 b = bits(x);
    if ((b & 0x7f800000u) == 0x7f800000u) return b >> 16 | ((b & 0x007fffffu) != 0 ? 0x40u : 0u);
    return (b + u) >> 16;
}

// Weights of 16 and 32 bits. A weight of -0 moved by a zero of either sign becomes +0, as it does on the CPU.
DEVICE void store_halves(const Pass& p, Tile<bf16> tile, const float (&delta)[RUN]) {
    const Deal dealt = deal_for(p, FOR_WEIGHT);
    UNROLL
    for (u32 i = 0; i < 4; ++i) {
        Bits16 w = row_piece(tile, i);
        UNROLL
        for (u32 j = 0; j < 4; ++j) {
            const u32 k = 8 * i + 2 * j;
            const float low = low_to_float(w.x[j]) + 0.0f + delta[k], high = high_to_float(w.x[j]) + 0.0f + delta[k + 1];
            w.x[j] = bf16_stochastic(low, sixteen_bits(dealt, k)) | bf16_stochastic(high, sixteen_bits(dealt, k + 1)) << 16;
        }
        set_row_piece(tile, i, w);
    }
    flush(tile, (bf16*)p.planes.data, p.shape, p.run);
}

DEVICE void store_floats(const Pass& p, Tile<float> tile, const float (&delta)[RUN]) {
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        Bits16 w = row_piece(tile, i);
        UNROLL
        for (u32 j = 0; j < 4; ++j) w.x[j] = bits(from_bits(w.x[j]) + 0.0f + delta[4 * i + j]);
        set_row_piece(tile, i, w);
    }
    flush(tile, (float*)p.planes.data, p.shape, p.run);
}

template <bool SIGNED>
DEVICE void store_moment(const Pass& p, const Codec& codec, void* plane, u16* scales, u32 purpose, Tile<float> tile,
                         const float (&x)[RUN]) {
    if (codec.width == FLOAT) {
        write_row(tile, x);
        flush(tile, (float*)plane, p.shape, p.run);
        return;
    }
    float most = 0.0f;
    UNROLL
    for (u32 k = 0; k < RUN; ++k) most = fmax_(most, SIGNED ? fabs_(x[k]) : x[k]);
    const MomentScale scale = moment_scale(group_max(most, p.shape.runs_per_group), codec.max);
    const Bytes32 codes = encode<SIGNED>(x, scale.inverse, codec.max, deal_for(p, purpose));
    if (!p.run.live) return;
    if (p.leads) scales[p.run.group] = scale.bits;
    store_codes(codec, (u8*)plane, p.run.index, codes);
}

template <bool COMMON>
DEVICE void update(const Pass& p, const Tiles& tiles, const Loaded& loaded, Outcomes* outcomes) {
    Elements e;
    Bytes32 stored = {};
    const Placement place = placement(loaded.place, is_asymmetric(p));
    if (is_packed(p)) {
        stored = stored_of(p, loaded.stored);
        const Values v = values(p.storage.lattice, place);
        UNROLL
        for (u32 k = 0; k < RUN; ++k) e.x[k] = value(v, biased(stored, k));
        if (is_asymmetric(p)) {
            UNROLL
            for (u32 k = 0; k < RUN; ++k) e.x[k] = e.x[k] + v.offset;
        }
    }
    if (p.storage.kind == F32) read_row(tiles.floats, e.x);
    if (p.storage.kind == BF16) read_row(tiles.halves, e.x);
    Range range = {};
    if (p.verdict.mode == FROZEN) {
        UNROLL
        for (u32 k = 0; k < RUN; ++k) e.x[k] = k < p.run.real ? -(p.c.decay * e.x[k]) : 0.0f;
    } else {
        range = move<COMMON>(p, tiles, loaded, e);
        if (p.c.density < 1.0f) mask(p, e);
    }
    if (is_packed(p)) {
        UNROLL
        for (u32 i = 0; i < 8; ++i) stored.x[i] = renewed(stored.x[i]);
        const bool told = p.verdict.mode == MOVED && !(p.c.density < 1.0f);
        if (!told) range = range_of(p, stored, values(p.storage.lattice, place), e.x);
        const bool anew = store_packed(p, stored, place, range, e);
        const u32 refits = count_ones(ballot(anew && p.leads));
        if (lane() == 0 && refits > 0) atomic_add(&outcomes->refits, (u64)refits);
    }
    if (p.storage.kind == F32) store_floats(p, tiles.floats, e.x);
    if (p.storage.kind == BF16) store_halves(p, tiles.halves, e.x);
    if (p.verdict.mode == FROZEN) return;
    if (p.c.reset_after != 0) {
        UNROLL
        for (u32 k = 0; k < RUN; ++k) e.m[k] = e.v[k] = 0.0f;
    }
    store_moment<true>(p, p.storage.m, p.planes.m, p.planes.m_scales, FOR_M, tiles.m, e.m);
    store_moment<false>(p, p.storage.v, p.planes.v, p.planes.v_scales, FOR_V, tiles.v, e.v);
}

// COMMON: that groups have no offsets and weights do not decay is known.
template <bool COMMON>
DEVICE void run(const Planes& planes, const Shape& shape, const Storage& storage, const Constants& c, const u32* maxima,
                const Verdict* verdict, Outcomes* outcomes) {
    DYNAMIC_SHARED(u8, shared);
    const Verdict decided = *verdict;
    // From the end on: what the statistics read last is still in the second-level cache.
    const u32 index = (grid_x() - 1 - block_x()) * BLOCK + thread();
    const Pass pass = {planes, shape, storage, c, decided, run_of(shape, index), index % shape.runs_per_group == 0};
    const Tiles tiles = tiles_at(shared + warp() * tiles_per_warp(storage) * Tile<float>::BYTES, storage);
    const Loaded loaded = load_all(pass, tiles, maxima);
    const bool idle = decided.mode == SKIPPED || (decided.mode == FROZEN && c.decay == 0.0f);
    if (!idle) update<COMMON>(pass, tiles, loaded, outcomes);
}

// Any storage, any rule, any shape.
KERNEL_RESIDENT(128, 3, optimizer_update, Planes planes, Shape shape, Storage storage, Constants c, const u32* maxima,
                const Verdict* verdict, Outcomes* outcomes) {
    run<false>(planes, shape, storage, c, maxima, verdict, outcomes);
}

// The same where the launcher knows what is written here: symmetric codes with residue, moments in nibbles, rows of
// whole groups, no reset, no mask, no feedback, no decay, and constants that pass `plain`.
KERNEL_RESIDENT(128, 3, optimizer_update_nibbles, Planes planes, Shape shape, Storage storage, Constants c,
                const u32* maxima, const Verdict* verdict, Outcomes* outcomes) {
    planes.offsets = nullptr;
    shape.dense = 1;
    storage.kind = INT4;
    storage.plain = 1;
    storage.m = {NIBBLE, 7.0f, 8.0f, 0x08080808u};
    storage.v = {NIBBLE, 15.0f, 0.0f, 0};
    storage.lattice = {16.0f, 0.0625f, 136.0f, 0.0f, 0.0f, 255.0f, 6.0f, 7.4f, 3.5f};
    c.density = 1.0f;
    c.reset_before = c.reset_after = 0;
    c.feedback = c.l2 = c.decay = 0.0f;
    c.keep = 1.0f;
    run<true>(planes, shape, storage, c, maxima, verdict, outcomes);
}
