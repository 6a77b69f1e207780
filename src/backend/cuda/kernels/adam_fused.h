// The fused pass of the optimizer: gradient, weight and moments are read once, moved, and written back
// (src/backend/cpu/ops/apply_update.rs, the same arithmetic in the same order). Numbers that are NaN are the one
// exception:
// what they become is not the same everywhere.
//
// A thread owns a block of 32 elements: the random numbers, whose counters serve whole blocks, are computed where they
// are used, and what is done once per group costs least. All loads are given out before the first is needed.
//
// Floor, bytes an element at G = 128: 4 of gradient; codes and residue read and written, 2; moments read and written, 2
// in nibbles (4 in bytes); scales, 0.1. That is 8.1 (10.1), and 4 more in adam_statistics.cu unless the gradient
// is still in the second-level cache, whose newest part this pass therefore reads first.
// Floor, instructions: the usual path (`optimizer_update_nibbles`) has 90 an element in sm_90's machine code. Moving
// takes 25 of them (five for the root, six for the quotient), the three streams of random numbers 14, rounding with
// them and packing 24, unpacking 11, unrounded numbers and the range of a group 7. An SM starts 128 a clock at most, so
// that on 132 of them at 1.98 GHz this floor, 2.7 ps an element, is above that of the bytes at 4.3 TB/s, 1.9 ps.
//
// Kernels are in adam_update.cu, adam_update_wide.cu and apply_update.cu: the compiler takes most of its time for them,
// and the three are compiled side by side.
#pragma once
#include "adam_element.h"
#include "adam_pass.h"
#include "members.h"
#include "rng.h"

static constexpr u32 THREADS = 128;

// Marks padding: NaN in the weight is passed over by ranges, NaN in the gradient by the smallest magnitude.
DEVICE void mark_padding(const Pass& p, Tile<float> grad, Elements& e) {
    if (p.shape.dense != 0 || p.block.real == BLOCK) return;
    const float nan = from_bits(0x7fc00000u);
    UNROLL
    for (u32 k = 0; k < BLOCK; ++k) {
        if (k < p.block.real) continue;
        e.x[k] = nan;
        grad.data[lane() * Tile<float>::PITCH + k] = nan;
    }
}

// Nothing of padding may be left that could disturb a scale.
DEVICE void clear_padding(const Pass& p, Elements& e) {
    if (p.shape.dense != 0 || p.block.real == BLOCK) return;
    UNROLL
    for (u32 k = 0; k < BLOCK; ++k) {
        if (k >= p.block.real) e.x[k] = e.m[k] = e.v[k] = 0.0f;
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
    } else if (p.storage.v.width != SHARED_BY_ROW) {
        decode(p.storage.v, loaded.v, v_scale, e.v);
        UNROLL
        for (u32 k = 0; k < BLOCK; ++k) e.v[k] = e.v[k] * e.v[k];
    }
    return is_tame(m_scale) && is_tame(v_scale);
}

// Second moments of this step that the block's elements share with others.
DEVICE void read_shared(const Pass& p, const Loaded& loaded, Elements& e) {
    const float number = from_bits(loaded.v.x[0]);
    UNROLL
    for (u32 k = 0; k < BLOCK; ++k) e.v[k] = number;
    if (p.planes.factors == nullptr || p.block.real == 0) return;
    const float* factors = p.planes.factors + p.block.index % p.shape.blocks_per_row * BLOCK;
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        const Bits16 f = load_16(factors + 4 * i);
        UNROLL
        for (u32 j = 0; j < 4; ++j) e.v[4 * i + j] = number * from_bits(f.x[j]);
    }
}

// Elements outside SPAM's mask get no update and keep no state.
DEVICE void mask(const Pass& p, Elements& e) {
    const RngWords random = rng_words({p.c.seed, p.c.mask_round, p.storage.tensor, FOR_MASK}, p.block.index);
    UNROLL
    for (u32 k = 0; k < BLOCK; ++k) {
        if (uniform(random, k) >= p.c.density) e.x[k] = e.m[k] = e.v[k] = 0.0f;
    }
}

// Moves the block; gives the range of its weights after that. The mask comes after, and the range is found anew then.
template <bool COMMON> DEVICE Range move(const Pass& p, const Tiles& tiles, const Loaded& loaded, Elements& e) {
    bool tame = true;
    if (p.c.reset_before != 0) {
        UNROLL
        for (u32 k = 0; k < BLOCK; ++k) e.m[k] = e.v[k] = 0.0f;
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
    if (p.storage.v.width == SHARED_BY_ROW) {
        read_shared(p, loaded, e);
        range = move_block<COMMON>(tiles.grad, e, [&](float g, float& x, float& m, float& v) {
            move_shared(p.c, norm, g, x, m, v);
        });
    } else if (plain) {
        range = move_block<COMMON>(tiles.grad, e, [&](float g, float& x, float& m, float& v) {
            move_plain<!COMMON>(p.c, norm, g, x, m, v);
        });
    } else {
        const bool rooted = p.storage.v.width != FLOAT;
        range = move_block<COMMON>(tiles.grad, e, [&](float g, float& x, float& m, float& v) {
            move_any(p.c, norm, rooted, g, x, m, v);
        });
    }
    clear_padding(p, e);
    return range;
}

// The range of the weights with what is added to them, where `move` did not tell it.
template <class Levels>
DEVICE Range range_of(const Pass& p, const Bytes32& stored, GroupScale scale, const float (&delta)[BLOCK]) {
    using Values = typename Levels::Values;
    const Values v = Values::of(p.storage.grid, scale);
    Range range = empty_range();
    UNROLL
    for (u32 k = 0; k < BLOCK; ++k) {
        const float w = Values::value(v, biased(stored, k)) + v.offset + delta[k];
        if (k < p.block.real) range = {fmin_(range.low, w), fmax_(range.high, w)};
    }
    return range;
}

// Weights and what is added to them as unrounded stored numbers, on a grid rescaled if they have left theirs.
struct Unrounded {
    bool rescaled;
    GroupScale scale;
};
template <class Weight>
DEVICE Unrounded unrounded(const Pass& p, const Bytes32& stored, GroupScale scale, Range range, float (&x)[BLOCK]) {
    using Levels = typename Weight::Levels;
    constexpr bool OFFSETS = Weight::OFFSETS;
    const QuantGrid& grid = p.storage.grid;
    range = {group_min(range.low, p.shape.blocks_per_group), group_max(range.high, p.shape.blocks_per_group)};
    const float bias = BIAS + grid.excess;
    float lowest = grid.deep;
    // Seldom anywhere in a warp. What `move` told may be the range of magnitudes.
    if (Weight::DEEP && ballot(may_have_left(grid, range, scale)) != 0) {
        range = range_of<Levels>(p, stored, scale, x);
        range = {group_min(range.low, p.shape.blocks_per_group), group_max(range.high, p.shape.blocks_per_group)};
        float least = from_bits(0x7f800000u);
        UNROLL
        for (u32 k = 0; k < BLOCK; ++k) {
            if (k < p.block.real) least = fmin_(least, biased(stored, k));
        }
        lowest = group_min(least, p.shape.blocks_per_group) - bias;
    }
    bool rescaled = p.block.live && needs_rescale(grid, range, scale, OFFSETS, lowest);
    // Where nothing moves, as at a learning rate of 0, no byte changes.
    if (ballot(rescaled) != 0) {
        float moved = 0.0f;
        UNROLL
        for (u32 k = 0; k < BLOCK; ++k) {
            if (k < p.block.real && x[k] != 0.0f) moved = 1.0f;
        }
        rescaled = group_max(moved, p.shape.blocks_per_group) != 0.0f && rescaled;
    }
    if (Levels::EVEN && !rescaled) {
        // At a scale of 0 all integers have one value.
        const float inverse = scale.scale == 0.0f ? 0.0f : grid.steps_per_scale / scale.scale;
        UNROLL
        for (u32 k = 0; k < BLOCK; ++k) x[k] = (biased(stored, k) - bias) + x[k] * inverse;
        return {false, scale};
    }
    GroupScale next = scale;
    if (rescaled) {
        const GroupScaleBits fresh = rescale<Levels>(grid, range, OFFSETS);
        next = group_scale<Levels>(fresh, OFFSETS);
        if (p.leads) {
            Levels::store(p.planes.scales, p.block.group, fresh.scale);
            if (OFFSETS) p.planes.offsets[p.block.group] = fresh.offset;
        }
    }
    using Values = typename Levels::Values;
    const Values old = Values::of(grid, scale);
    UNROLL
    for (u32 k = 0; k < BLOCK; ++k) {
        const float w = Values::value(old, biased(stored, k)) + old.offset + x[k];
        x[k] = Levels::exact(grid, w, next);
    }
    return {rescaled, next};
}

// What rounding leaves over of unrounded numbers goes to the first moment: nothing where a number is clamped.
template <class Levels>
DEVICE void feed_back(const Pass& p, const RngWords& random, const Unrounded& fresh, Elements& e) {
    const QuantGrid& grid = p.storage.grid;
    const bool rooted = p.storage.v.width != FLOAT;
    UNROLL
    for (u32 k = 0; k < BLOCK; ++k) {
        const float free = floor_(plus_uniform(e.x[k], random, k));
        const float b = fmin_(fmax_(free, grid.min), grid.max);
        const float error = b == free ? Levels::left(grid, e.x[k], b, fresh.scale) : 0.0f;
        const float root = rooted ? e.v[k] : sqrt_rn(e.v[k]);
        if (k < p.block.real) e.m[k] = e.m[k] + p.c.feedback * denominator(p.c, root) * error;
    }
}

// The packed weight after the step; tells whether its group was rescaled.
template <class Weight>
DEVICE bool store_packed(const Pass& p, const Bytes32& stored, GroupScale scale, Range range, Elements& e) {
    const QuantGrid& grid = p.storage.grid;
    const Unrounded fresh = unrounded<Weight>(p, stored, scale, range, e.x);
    const RngWords random = random_for(p, FOR_WEIGHT);
    if (p.c.feedback != 0.0f && p.verdict.mode == MOVED) feed_back<typename Weight::Levels>(p, random, fresh, e);
    Bytes32 next;
    if (grid.max == 255.0f) {
        // The limits are those of a byte.
        UNROLL
        for (u32 i = 0; i < 8; ++i) {
            i32 number[4];
            UNROLL
            for (u32 j = 0; j < 4; ++j) number[j] = floor_to_i32(plus_uniform(e.x[4 * i + j], random, 4 * i + j));
            next.x[i] = pack_limited_bytes(number[1], number[0], pack_limited_bytes(number[3], number[2], 0));
        }
    } else {
        UNROLL
        for (u32 i = 0; i < 8; ++i) {
            u32 number[4];
            UNROLL
            for (u32 j = 0; j < 4; ++j) {
                const float free = plus_uniform(e.x[4 * i + j], random, 4 * i + j);
                number[j] = floor_bits(fmin_(fmax_(free, grid.min), grid.max));
            }
            next.x[i] = four_bytes(number);
        }
    }
    store_stored<typename Weight::Stored>(p, next, stored);
    return fresh.rescaled;
}

// bfloat16 bits of x, rounded stochastically by 16 bits (src/quant/rounding.rs).
DEVICE u32 bf16_stochastic(float x, u32 u) {
    const u32 b = bits(x);
    if ((b & 0x7f800000u) == 0x7f800000u) return b >> 16 | ((b & 0x007fffffu) != 0 ? 0x40u : 0u);
    return (b + u) >> 16;
}

// Weights of 16 and 32 bits. A weight of -0 moved by a zero of either sign becomes +0, as it does on the CPU.
DEVICE void store_numbers(const Pass& p, Tile<bf16> tile, const float (&delta)[BLOCK]) {
    const RngWords random = random_for(p, FOR_WEIGHT);
    UNROLL
    for (u32 i = 0; i < 4; ++i) {
        Bits16 w = row_piece(tile, i);
        UNROLL
        for (u32 j = 0; j < 4; ++j) {
            const u32 k = 8 * i + 2 * j;
            const float low = low_to_float(w.x[j]) + 0.0f + delta[k];
            const float high = high_to_float(w.x[j]) + 0.0f + delta[k + 1];
            w.x[j] = bf16_stochastic(low, sixteen_bits(random, k));
            w.x[j] |= bf16_stochastic(high, sixteen_bits(random, k + 1)) << 16;
        }
        set_row_piece(tile, i, w);
    }
    flush(tile, (bf16*)p.planes.data, p.shape, p.block);
}

DEVICE void store_numbers(const Pass& p, Tile<float> tile, const float (&delta)[BLOCK]) {
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        Bits16 w = row_piece(tile, i);
        UNROLL
        for (u32 j = 0; j < 4; ++j) w.x[j] = bits(from_bits(w.x[j]) + 0.0f + delta[4 * i + j]);
        set_row_piece(tile, i, w);
    }
    flush(tile, (float*)p.planes.data, p.shape, p.block);
}

// Scale and offset of a lane's group.
template <class Weight> DEVICE GroupScale scale_of(const Loaded& loaded) {
    return group_scale<typename Weight::Levels>(loaded.group_scale, Weight::OFFSETS);
}

// The weight as the optimizer sees it, in `x`; gives the stored integers of a packed one.
template <class Weight>
DEVICE Bytes32 decode_weight(const Pass& p, const Tiles& tiles, const Loaded& loaded, const GroupScale& scale,
                             float (&x)[BLOCK]) {
    using Stored = typename Weight::Stored;
    Bytes32 stored = {};
    if constexpr (IS_PACKED<Stored>) {
        stored = Stored::decode(p.planes, loaded.stored);
        using Values = typename Weight::Levels::Values;
        const Values v = Values::of(p.storage.grid, scale);
        UNROLL
        for (u32 k = 0; k < BLOCK; ++k) x[k] = Values::value(v, biased(stored, k));
        if (Weight::OFFSETS) {
            UNROLL
            for (u32 k = 0; k < BLOCK; ++k) x[k] = x[k] + v.offset;
        }
    } else {
        read_row(weight_tile(tiles, Stored()), x);
    }
    return stored;
}

// Adds `e.x` to the weight. TOLD: whether `range` is that of a packed weight after it, or is to be found.
template <class Weight>
DEVICE void store_weight(const Pass& p, const Tiles& tiles, const Bytes32& stored, GroupScale scale, bool told,
                         Range range, Elements& e, UpdateStats* outcomes) {
    using Stored = typename Weight::Stored;
    if constexpr (IS_PACKED<Stored>) {
        if (!told) range = range_of<typename Weight::Levels>(p, stored, scale, e.x);
        const bool rescaled = store_packed<Weight>(p, stored, scale, range, e);
        const u32 rescales = count_ones(ballot(rescaled && p.leads));
        if (lane() == 0 && rescales > 0) atomic_add(&outcomes->rescales, (u64)rescales);
    } else {
        store_numbers(p, weight_tile(tiles, Stored()), e.x);
    }
}

template <class Weight, bool COMMON>
DEVICE void update(const Pass& p, const Tiles& tiles, const Loaded& loaded, UpdateStats* outcomes) {
    Elements e;
    const GroupScale scale = scale_of<Weight>(loaded);
    Bytes32 stored = decode_weight<Weight>(p, tiles, loaded, scale, e.x);
    Range range = {};
    if (p.verdict.mode == FROZEN) {
        UNROLL
        for (u32 k = 0; k < BLOCK; ++k) e.x[k] = k < p.block.real ? -(p.c.decay * e.x[k]) : 0.0f;
    } else {
        range = move<COMMON>(p, tiles, loaded, e);
        if (p.c.density < 1.0f) mask(p, e);
    }
    UNROLL
    for (u32 i = 0; i < 8; ++i) stored.x[i] = renewed(stored.x[i]);
    const bool told = p.verdict.mode == MOVED && !(p.c.density < 1.0f);
    store_weight<Weight>(p, tiles, stored, scale, told, range, e, outcomes);
    if (p.verdict.mode == FROZEN) return;
    if (p.c.reset_after != 0) {
        UNROLL
        for (u32 k = 0; k < BLOCK; ++k) e.m[k] = e.v[k] = 0.0f;
    }
    store_moment<true>(p, p.storage.m, p.planes.m, p.planes.m_scales, FOR_M, tiles.m, e.m);
    if (p.storage.v.width == SHARED_BY_ROW) return;
    store_moment<false>(p, p.storage.v, p.planes.v, p.planes.v_scales, FOR_V, tiles.v, e.v);
}

// COMMON: that weights do not decay, and that rows are whole groups, all of them updated, is known.
template <class Weight, bool COMMON>
DEVICE void run(const Members& members, const Storage& storage, const AdamArgs& c, const u32* maxima,
                const GradStats* verdicts, UpdateStats* outcomes) {
    DYNAMIC_SHARED(u8, shared);
    // From the end on: what the statistics read last is still in the second-level cache.
    const u32 block = grid_x() - 1 - block_x();
    using Stored = typename Weight::Stored;
    const Member& member = member_of<Stored>(members, block);
    const GradStats decided = verdicts[member.verdict];
    const u32 index = (ALONE<Stored> ? block : block - member.block) * THREADS + thread();
    Pass pass = {member.planes, member.shape, storage, c, decided, {}, index % member.shape.blocks_per_group == 0};
    pass.storage.tensor = member.tensor;
    if (COMMON) {
        pass.planes.touched = nullptr;
        pass.shape.dense = 1;
    }
    pass.block = block_of(pass.planes, pass.shape, index);
    const Tiles tiles = tiles_of<Weight>(shared, storage);
    const Loaded loaded = load_all<Weight>(pass, tiles, maxima + member.leaf);
    const bool idle = decided.mode == SKIPPED || (decided.mode == FROZEN && c.decay == 0.0f);
    if (!idle) update<Weight, COMMON>(pass, tiles, loaded, outcomes);
}

// Any moments, any rule, any shape; `storage` and the constants are those of all members.
#define OPTIMIZER_UPDATE(name, Weight)                                                                             \
    KERNEL_RESIDENT(128, 3, optimizer_update_##name, TABLE Members members, Storage storage, AdamArgs c,           \
                    const u32* maxima, const GradStats* verdicts, UpdateStats* outcomes) {                         \
        run<Weight, false>(members, storage, c, maxima, verdicts, outcomes);                                       \
    }
