// The fused pass of the optimizer: gradient, weight and moments are read once, moved, and written back
// (src/backend/cpu/update.rs, the same arithmetic in the same order).
//
// A thread owns a run of 32 elements, so that the random numbers, whose blocks serve runs, are computed where they are
// used, and what is done once per group costs least.

#include "lattice.h"
#include "optimizer.h"
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
    u32 m;
    u32 v;
    // Number in the model's table.
    u32 tensor;
    // Codes of the moments end here.
    float m_max;
    float v_max;
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
    // Not past the tensor's end.
    bool live;
    u32 group;
    // The first lane of its group.
    bool leads;
};

DEVICE bool packed(const Pass& p) { return p.storage.kind >= INT8; }
DEVICE bool is_asymmetric(const Pass& p) { return p.planes.offsets != nullptr; }
DEVICE Stream stream_of(const Pass& p, u32 purpose) { return {p.c.seed, p.c.number, p.storage.tensor, purpose}; }

// The warp's tiles of planes without padding, one after the other in dynamic shared memory; what is stored otherwise
// has none. A weight has one of two.
struct Tiles {
    Tile<float> grad;
    Tile<float> floats;
    Tile<bf16> halves;
    Tile<float> m;
    Tile<float> v;
};

DEVICE u32 tiles_per_warp(const Storage& s) { return 1 + (s.kind < INT8) + (s.m == FLOAT) + (s.v == FLOAT); }

DEVICE Tiles tiles_at(u8* shared, const Storage& s) {
    const u32 size = Tile<float>::BYTES;
    u8* const weight = shared + size;
    u8* const m = weight + (s.kind < INT8) * size;
    u8* const v = m + (s.m == FLOAT) * size;
    return {{(float*)shared}, {(float*)weight}, {(bf16*)weight}, {(float*)m}, {(float*)v}};
}

DEVICE void fetch_all(const Pass& p, const Tiles& tiles) {
    if (p.verdict.mode == MOVED) fetch(tiles.grad, p.planes.grad, p.shape, p.run);
    if (p.storage.kind == F32) fetch(tiles.floats, (const float*)p.planes.data, p.shape, p.run);
    if (p.storage.kind == BF16) fetch(tiles.halves, (const bf16*)p.planes.data, p.shape, p.run);
    if (p.verdict.mode != MOVED || p.c.reset_before != 0) return;
    if (p.storage.m == FLOAT) fetch(tiles.m, (const float*)p.planes.m, p.shape, p.run);
    if (p.storage.v == FLOAT) fetch(tiles.v, (const float*)p.planes.v, p.shape, p.run);
}

// The stored numbers of a packed weight; lanes past the end read what they will not use.
DEVICE Bytes32 load_stored(const Pass& p) {
    const u32 run = p.live ? p.run.index : 0;
    if (p.storage.kind == INT8) return load_bytes((const u8*)p.planes.data, run);
    Bytes32 stored = unpack(load_nibbles((const u8*)p.planes.data, run));
    if (p.planes.residue == nullptr) return stored;
    const Bytes32 low = unpack(load_nibbles(p.planes.residue, run));
    UNROLL
    for (u32 i = 0; i < 8; ++i) stored.x[i] = stored.x[i] << 4 | low.x[i];
    return stored;
}

DEVICE void store_stored(const Pass& p, const Bytes32& stored) {
    if (!p.live) return;
    if (p.storage.kind == INT8) return store_bytes((u8*)p.planes.data, p.run.index, stored);
    if (p.planes.residue == nullptr) return store_nibbles((u8*)p.planes.data, p.run.index, pack(stored));
    Bytes32 high;
    UNROLL
    for (u32 i = 0; i < 8; ++i) high.x[i] = stored.x[i] >> 4;
    store_nibbles((u8*)p.planes.data, p.run.index, pack(high));
    store_nibbles(p.planes.residue, p.run.index, pack(stored));
}

DEVICE float stored_number(const Pass& p, const Bytes32& stored, u32 k) {
    return p.storage.kind == INT8 ? signed_to_float(stored, k) : byte_to_float(stored, k);
}

DEVICE Placement load_place(const Pass& p) {
    return {f16_to_float(p.planes.scales[p.group]), is_asymmetric(p) ? f16_to_float(p.planes.offsets[p.group]) : 0.0f};
}

// A first (signed) or second moment.
template <bool SIGNED>
DEVICE void load_moment(const Pass& p, u32 width, const void* plane, const u16* scales, Tile<float> tile,
                        float (&x)[RUN]) {
    if (width == FLOAT) return read_row(tile, x);
    const u32 run = p.live ? p.run.index : 0;
    const Bytes32 codes =
        width == NIBBLE ? unpack(load_nibbles((const u8*)plane, run)) : load_bytes((const u8*)plane, run);
    const float scale = from_bits((u32)scales[p.group] << 16);
    UNROLL
    for (u32 k = 0; k < RUN; ++k) {
        float code = byte_to_float(codes, k);
        if (SIGNED) code = width == NIBBLE ? code - 8.0f : signed_to_float(codes, k);
        const float value = scale * code;
        x[k] = SIGNED ? value : value * value;
    }
}

template <bool SIGNED>
DEVICE void store_moment(const Pass& p, u32 width, void* plane, u16* scales, float max, u32 purpose, Tile<float> tile,
                         float (&x)[RUN]) {
    if (width == FLOAT) {
        write_row(tile, x);
        flush(tile, (float*)plane, p.shape, p.run);
        return;
    }
    float most = 0.0f;
    UNROLL
    for (u32 k = 0; k < RUN; ++k) {
        if (!SIGNED) x[k] = sqrt_rn(x[k]);
        most = fmax_(most, fabs_(x[k]));
    }
    const MomentScale scale = moment_scale(group_max(most, p.shape.runs_per_group), max);
    const Deal dealt = deal(stream_of(p, purpose), p.run.index);
    // Codes of four bits are stored plus 8, if signed.
    const float shift = SIGNED && width == NIBBLE ? 8.0f : 0.0f;
    Bytes32 codes;
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        u32 code[4];
        UNROLL
        for (u32 j = 0; j < 4; ++j) {
            const float t = x[4 * i + j] * scale.inverse;
            const float least = SIGNED ? -max : t > 0.0f ? 1.0f : 0.0f;
            const float free = floor_(plus_uniform(t, dealt, 4 * i + j));
            const float low = free < least ? least : free;
            code[j] = low_bits((low > max ? max : low) + shift);
        }
        codes.x[i] = four_bytes(code[0], code[1], code[2], code[3]);
    }
    if (!p.live) return;
    if (p.leads) scales[p.group] = scale.bits;
    if (width == NIBBLE) return store_nibbles((u8*)plane, p.run.index, pack(codes));
    store_bytes((u8*)plane, p.run.index, codes);
}

// Clips what AdaClip clips in this lane's row of the gradient. Most leaves of it hold nothing larger than the
// threshold, which their largest magnitudes tell.
DEVICE void clip(const Pass& p, const u32* maxima, Tile<float> grad) {
    if (p.run.real == 0) return;
    const u32 most = max_(maxima[p.run.plain / LEAF], maxima[(p.run.plain + p.run.real - 1) / LEAF]);
    if (!(from_bits(most) > p.verdict.at)) return;
    for (u32 i = 0; i < 8; ++i) {
        Bits16 g = row_piece(grad, i);
        for (u32 j = 0; j < 4; ++j) g.x[j] = bits(clipped(from_bits(g.x[j]), p.verdict.at, p.verdict.gmax));
        set_row_piece(grad, i, g);
    }
}

DEVICE float denominator(const Constants& c, float v) { return sqrt_rn(v) * c.root + c.eps; }

// Moves one element: `g` after AdaClip; `x` is the weight, then what is added to it.
DEVICE void move(const Pass& p, float g, float& x, float& m, float& v) {
    const Constants& c = p.c;
    g = g * p.verdict.norm + c.l2 * x;
    const float limit = c.spike * v;
    if (g * g > limit) g = copysign_(sqrt_rn(limit), g);
    m = c.beta1 * m + c.rest1 * g;
    v = c.beta2 * v + c.rest2 * (g * g);
    x = c.keep * -(c.step * m / denominator(c, v)) - c.decay * x;
}

// All elements of the run; of padding nothing is left that could disturb a scale.
DEVICE void move_all(const Pass& p, Tile<float> grad, float (&x)[RUN], float (&m)[RUN], float (&v)[RUN]) {
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        const Bits16 g = row_piece(grad, i);
        UNROLL
        for (u32 j = 0; j < 4; ++j) {
            const u32 k = 4 * i + j;
            if (k < p.run.real) {
                move(p, from_bits(g.x[j]), x[k], m[k], v[k]);
            } else {
                x[k] = m[k] = v[k] = 0.0f;
            }
        }
    }
}

// Elements outside SPAM's mask get no update and keep no state.
DEVICE void mask(const Pass& p, float (&x)[RUN], float (&m)[RUN], float (&v)[RUN]) {
    const Deal dealt = deal({p.c.seed, p.c.mask_round, p.storage.tensor, FOR_MASK}, p.run.index);
    UNROLL
    for (u32 k = 0; k < RUN; ++k) {
        if (uniform(dealt, k) >= p.c.density) x[k] = m[k] = v[k] = 0.0f;
    }
}

// Adds `delta` to a packed weight; what rounding left over goes to m, if asked. Tells whether the group was fitted anew.
DEVICE bool store_packed(const Pass& p, Bytes32 stored, Placement place, const float (&delta)[RUN], float (&m)[RUN],
                         const float (&v)[RUN]) {
    const Lattice& l = p.storage.lattice;
    const bool asymmetric = is_asymmetric(p);
    Range range = {from_bits(0x7f800000u), from_bits(0xff800000u)};
    UNROLL
    for (u32 k = 0; k < RUN; ++k) {
        if (k >= p.run.real) continue;
        const float w = lattice_value(l, stored_number(p, stored, k), place, asymmetric) + delta[k];
        range = {fmin_(range.low, w), fmax_(range.high, w)};
    }
    range = {group_min(range.low, p.shape.runs_per_group), group_max(range.high, p.shape.runs_per_group)};
    const bool refit = p.live && needs_fit(l, range, place, asymmetric);
    Placement next = place;
    if (refit) {
        const FittedBits fitted = fit(l, range, asymmetric);
        next = {f16_to_float(fitted.scale), asymmetric ? f16_to_float(fitted.offset) : 0.0f};
        if (p.leads) {
            p.planes.scales[p.group] = fitted.scale;
            if (asymmetric) p.planes.offsets[p.group] = fitted.offset;
        }
    }
    const float inverse = l.fine / next.scale, step = next.scale / l.fine;
    const float base = asymmetric ? l.origin : l.zero;
    const bool feedback = p.c.feedback != 0.0f && p.verdict.mode == MOVED;
    const Deal dealt = deal(stream_of(p, FOR_WEIGHT), p.run.index);
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        u32 number[4];
        UNROLL
        for (u32 j = 0; j < 4; ++j) {
            const u32 k = 4 * i + j;
            const float old = stored_number(p, stored, k);
            float exact = old + delta[k] * inverse;
            if (refit) {
                const float w = lattice_value(l, old, place, asymmetric) + delta[k];
                exact = (w - next.offset) * inverse + base;
            }
            const float free = floor_(plus_uniform(exact, dealt, k));
            float b = on_lattice(l, free);
            if (k >= p.run.real) b = p.storage.kind == INT8 ? old : p.planes.residue == nullptr ? 8.0f : 136.0f;
            number[j] = low_bits(b);
            if (feedback && k < p.run.real) {
                const float error = b == free ? (exact - b) * step : 0.0f;
                m[k] = m[k] + p.c.feedback * denominator(p.c, v[k]) * error;
            }
        }
        stored.x[i] = four_bytes(number[0], number[1], number[2], number[3]);
    }
    store_stored(p, stored);
    return refit;
}

// bfloat16 bits of x, rounded stochastically by 16 bits (src/nibble/rounding.rs).
DEVICE u32 bf16_stochastic(float x, u32 u) {
    const u32 b = bits(x);
    if ((b & 0x7f800000u) == 0x7f800000u) return b >> 16 | ((b & 0x007fffffu) != 0 ? 0x40u : 0u);
    return (b + u) >> 16;
}

DEVICE void store_halves(const Pass& p, Tile<bf16> tile, const float (&delta)[RUN]) {
    const Deal dealt = deal(stream_of(p, FOR_WEIGHT), p.run.index);
    UNROLL
    for (u32 i = 0; i < 4; ++i) {
        Bits16 w = row_piece(tile, i);
        UNROLL
        for (u32 j = 0; j < 4; ++j) {
            const u32 k = 8 * i + 2 * j;
            const u32 low = bf16_stochastic(low_to_float(w.x[j]) + delta[k], sixteenth_bits(dealt, k));
            const u32 high = bf16_stochastic(high_to_float(w.x[j]) + delta[k + 1], sixteenth_bits(dealt, k + 1));
            w.x[j] = low | high << 16;
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
        for (u32 j = 0; j < 4; ++j) w.x[j] = bits(from_bits(w.x[j]) + delta[4 * i + j]);
        set_row_piece(tile, i, w);
    }
    flush(tile, (float*)p.planes.data, p.shape, p.run);
}

DEVICE void update(const Pass& p, Tiles tiles, const u32* maxima, Outcomes* outcomes) {
    float x[RUN], m[RUN] = {}, v[RUN] = {};
    fetch_all(p, tiles);
    Bytes32 stored = {};
    Placement place = {};
    if (packed(p)) {
        stored = load_stored(p);
        place = load_place(p);
        UNROLL
        for (u32 k = 0; k < RUN; ++k) {
            x[k] = lattice_value(p.storage.lattice, stored_number(p, stored, k), place, is_asymmetric(p));
        }
    }
    wait_for_tiles();
    if (p.storage.kind == F32) read_row(tiles.floats, x);
    if (p.storage.kind == BF16) read_row(tiles.halves, x);
    if (p.verdict.mode == FROZEN) {
        UNROLL
        for (u32 k = 0; k < RUN; ++k) x[k] = k < p.run.real ? -(p.c.decay * x[k]) : 0.0f;
    } else {
        if (p.c.reset_before == 0) {
            load_moment<true>(p, p.storage.m, p.planes.m, p.planes.m_scales, tiles.m, m);
            load_moment<false>(p, p.storage.v, p.planes.v, p.planes.v_scales, tiles.v, v);
        }
        clip(p, maxima, tiles.grad);
        move_all(p, tiles.grad, x, m, v);
        if (p.c.density < 1.0f) mask(p, x, m, v);
    }
    if (packed(p)) {
        const bool refit = store_packed(p, stored, place, x, m, v);
        const u32 refits = count_ones(ballot(refit && p.leads));
        if (lane() == 0 && refits > 0) atomic_add(&outcomes->refits, (u64)refits);
    }
    if (p.storage.kind == F32) store_floats(p, tiles.floats, x);
    if (p.storage.kind == BF16) store_halves(p, tiles.halves, x);
    if (p.verdict.mode == FROZEN) return;
    if (p.c.reset_after != 0) {
        UNROLL
        for (u32 k = 0; k < RUN; ++k) m[k] = v[k] = 0.0f;
    }
    store_moment<true>(p, p.storage.m, p.planes.m, p.planes.m_scales, p.storage.m_max, FOR_M, tiles.m, m);
    store_moment<false>(p, p.storage.v, p.planes.v, p.planes.v_scales, p.storage.v_max, FOR_V, tiles.v, v);
}

KERNEL_RESIDENT(128, 3, optimizer_update, Planes planes, Shape shape, Storage storage, Constants c, const u32* maxima,
                const Verdict* verdict, Outcomes* outcomes) {
    DYNAMIC_SHARED(u8, shared);
    const Verdict decided = *verdict;
    const bool idle = decided.mode == SKIPPED || (decided.mode == FROZEN && c.decay == 0.0f);
    // From the end on: what the statistics read last is still in the second-level cache.
    const u32 index = (grid_x() - 1 - block_x()) * BLOCK + thread();
    const bool live = index < shape.rows * shape.runs_per_row;
    const u32 group = live ? index / shape.runs_per_group : 0;
    const bool leads = index % shape.runs_per_group == 0;
    const Pass pass = {planes, shape, storage, c, decided, run_of(shape, index), live, group, leads};
    u8* const own = shared + warp() * tiles_per_warp(storage) * Tile<float>::BYTES;
    if (!idle) update(pass, tiles_at(own, storage), maxima, outcomes);
}
