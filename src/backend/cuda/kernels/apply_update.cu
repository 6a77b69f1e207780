// What rules beside Adam's family do with weights; what they do with state is in state.cu.
#include "adam_fused.h"

// w = w - lr direction - decay w; the direction lies where a gradient would.
template <class Weight>
DEVICE void apply(const Pass& p, const UpdateArgs& args, UpdateStats* outcomes) {
    DYNAMIC_SHARED(u8, shared);
    if (p.verdict.mode == SKIPPED || (p.verdict.mode == FROZEN && args.decay == 0.0f)) return;
    const Tiles tiles = tiles_of<Weight>(shared, p.storage);
    const Loaded loaded = load_all<Weight>(p, tiles, nullptr);
    Elements e;
    const GroupScale scale = scale_of<Weight>(loaded);
    const Bytes32 stored = decode_weight<Weight>(p, tiles, loaded, scale, e.x);
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        const Bits16 d = row_piece(tiles.grad, i);
        UNROLL
        for (u32 j = 0; j < 4; ++j) {
            const u32 k = 4 * i + j;
            const float step = p.verdict.mode == FROZEN ? 0.0f : args.lr * from_bits(d.x[j]);
            e.x[k] = k < p.block.real ? -step - args.decay * e.x[k] : 0.0f;
        }
    }
    store_weight<Weight>(p, tiles, stored, scale, false, {}, e, outcomes);
}

#define APPLY_UPDATE(name, Weight)                                                                                 \
    KERNEL_RESIDENT(128, 3, apply_update_##name, Planes planes, Shape shape, Storage storage, UpdateArgs args,     \
                    const GradStats* gate, UpdateStats* outcomes) {                                                \
        apply<Weight>(pass_of<THREADS>(planes, shape, storage, args.seed, args.number, gate), args, outcomes);     \
    }
WEIGHT_CODECS(APPLY_UPDATE)

// x += factor w.
template <class Weight> DEVICE void add_to(const Pass& p, float factor) {
    DYNAMIC_SHARED(u8, shared);
    const Tiles tiles = tiles_of<Weight>(shared, p.storage);
    const Loaded loaded = load_all<Weight>(p, tiles, nullptr);
    Elements e;
    decode_weight<Weight>(p, tiles, loaded, scale_of<Weight>(loaded), e.x);
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        Bits16 x = row_piece(tiles.grad, i);
        UNROLL
        for (u32 j = 0; j < 4; ++j) x.x[j] = bits(from_bits(x.x[j]) + factor * e.x[4 * i + j]);
        set_row_piece(tiles.grad, i, x);
    }
    flush(tiles.grad, p.planes.grad, p.shape, p.block);
}

#define ADD_WEIGHT(name, Weight)                                                                                   \
    KERNEL(128, add_weight_##name, Planes planes, Shape shape, Storage storage, float factor,                      \
           const GradStats* gate) {                                                                                \
        add_to<Weight>(pass_of<THREADS>(planes, shape, storage, 0, 0, gate), factor);                              \
    }
WEIGHT_CODECS(ADD_WEIGHT)

// out[i]: the squares of block i of the weight, added up one after the other.
template <class Weight> DEVICE void add_squares(const Pass& p, float* out) {
    DYNAMIC_SHARED(u8, shared);
    const Tiles tiles = tiles_of<Weight>(shared, p.storage);
    const Loaded loaded = load_all<Weight>(p, tiles, nullptr);
    Elements e;
    decode_weight<Weight>(p, tiles, loaded, scale_of<Weight>(loaded), e.x);
    float sum = 0.0f;
    UNROLL
    for (u32 k = 0; k < BLOCK; ++k) sum += k < p.block.real ? e.x[k] * e.x[k] : 0.0f;
    if (p.block.live) out[p.block.index] = sum;
}

#define WEIGHT_SQUARES(name, Weight)                                                                               \
    KERNEL(128, weight_squares_##name, Planes planes, Shape shape, Storage storage, float* out) {                  \
        add_squares<Weight>(pass_of<THREADS>(planes, shape, storage, 0, 0, nullptr), out);                         \
    }
WEIGHT_CODECS(WEIGHT_SQUARES)
