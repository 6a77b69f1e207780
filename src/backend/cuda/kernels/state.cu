// What rules beside Adam's family do with their state (src/backend/cpu/ops/state_rows.rs, the same arithmetic in the
// same order). A thread owns a block of 32 elements of the state tensor, whose shape need not be the weight's; the
// weight is not read. What the state is combined with lies where a gradient would.
//
// Floor, bytes an element: 8 of x read and written, and each moment read and written.
#include "adam_element.h"
#include "adam_pass.h"
#include "rng.h"

static constexpr u32 THREADS = 128;

// Starts loading a compact moment's block; lanes past the end load the first block of the thread block.
DEVICE Bytes32 load_codes(const Pass& p, const Codec& codec, const void* plane, const u16* scales, float& scale) {
    const u32 block = p.block.live ? p.block.index : p.block.index - thread();
    scale = from_bits((u32)scales[block / p.shape.blocks_per_group] << 16);
    return load_raw((const u8*)plane, block, codec.width == BYTE);
}

// The moments that there are, and `x` in its tile.
DEVICE void load_moments(const Pass& p, const Tiles& tiles, bool with_x, Elements& e) {
    const Planes& planes = p.planes;
    const Codec &m = p.storage.m, &v = p.storage.v;
    Bytes32 m_codes = {}, v_codes = {};
    float m_scale = 0.0f, v_scale = 0.0f;
    if (is_compact(m.width)) m_codes = load_codes(p, m, planes.m, planes.m_scales, m_scale);
    if (is_compact(v.width)) v_codes = load_codes(p, v, planes.v, planes.v_scales, v_scale);
    if (m.width == FLOAT) fetch(tiles.m, (const float*)planes.m, p.shape, p.block);
    if (v.width == FLOAT) fetch(tiles.v, (const float*)planes.v, p.shape, p.block);
    if (with_x) fetch(tiles.grad, planes.grad, p.shape, p.block);
    wait_for_tiles();
    if (m.width == FLOAT) read_row(tiles.m, e.m);
    if (is_compact(m.width)) decode(m, m_codes, m_scale, e.m);
    if (v.width == FLOAT) read_row(tiles.v, e.v);
    if (!is_compact(v.width)) return;
    decode(v, v_codes, v_scale, e.v);
    UNROLL
    for (u32 k = 0; k < BLOCK; ++k) e.v[k] = e.v[k] * e.v[k];
}

// Nothing of padding may be left that could disturb a scale.
DEVICE void clear_padding(const Pass& p, float (&x)[BLOCK]) {
    if (p.shape.dense != 0 || p.block.real == BLOCK) return;
    UNROLL
    for (u32 k = 0; k < BLOCK; ++k) {
        if (k >= p.block.real) x[k] = 0.0f;
    }
}

// s' = keep s + add x; x becomes of_x x + of_old s + of_new s', or its sign. The state is `m`, x lies where a gradient
// would; the weight is not read.
KERNEL_RESIDENT(128, 3, momentum, Planes planes, Shape shape, Storage storage, MomentumArgs args,
                const GradStats* gate) {
    DYNAMIC_SHARED(u8, shared);
    const Pass p = pass_of<THREADS>(planes, shape, storage, args.seed, args.number, gate);
    if (p.verdict.mode != MOVED) return;
    Elements e;
    const Tiles tiles = tiles_of<NoWeight>(shared, storage);
    load_moments(p, tiles, true, e);
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        Bits16 x = row_piece(tiles.grad, i);
        UNROLL
        for (u32 j = 0; j < 4; ++j) {
            const u32 k = 4 * i + j;
            const float value = from_bits(x.x[j]), old = e.m[k];
            e.m[k] = args.keep * old + args.add * value;
            const float result = args.of_x * value + args.of_old * old + args.of_new * e.m[k];
            const float sign = (result > 0.0f ? 1.0f : 0.0f) - (result < 0.0f ? 1.0f : 0.0f);
            x.x[j] = bits(args.sign != 0 ? sign : result);
        }
        set_row_piece(tiles.grad, i, x);
    }
    flush(tiles.grad, p.planes.grad, shape, p.block);
    clear_padding(p, e.m);
    store_moment<true>(p, storage.m, planes.m, planes.m_scales, args.usage, tiles.m, e.m);
}

// m = beta1 m + (1 - beta1) x, v = beta2 v + (1 - beta2) x^2, x = factor m / (root sqrt(v) + eps).
KERNEL_RESIDENT(128, 3, adam_direction, Planes planes, Shape shape, Storage storage, DirectionArgs args,
                const GradStats* gate) {
    DYNAMIC_SHARED(u8, shared);
    const Pass p = pass_of<THREADS>(planes, shape, storage, args.seed, args.number, gate);
    if (p.verdict.mode != MOVED) return;
    Elements e;
    const Tiles tiles = tiles_of<NoWeight>(shared, storage);
    load_moments(p, tiles, true, e);
    const bool rooted = is_compact(storage.v.width);
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        Bits16 x = row_piece(tiles.grad, i);
        UNROLL
        for (u32 j = 0; j < 4; ++j) {
            const u32 k = 4 * i + j;
            const float g = from_bits(x.x[j]);
            const float m = args.beta1 * e.m[k] + args.one_minus_beta1 * g;
            const float v = args.beta2 * e.v[k] + args.one_minus_beta2 * (g * g);
            const float root = sqrt_rn(v);
            x.x[j] = bits(args.factor * m / (root * args.root + args.eps));
            e.m[k] = m;
            e.v[k] = rooted ? root : v;
        }
        set_row_piece(tiles.grad, i, x);
    }
    flush(tiles.grad, p.planes.grad, shape, p.block);
    clear_padding(p, e.m);
    clear_padding(p, e.v);
    store_moment<true>(p, storage.m, planes.m, planes.m_scales, FOR_M, tiles.m, e.m);
    store_moment<false>(p, storage.v, planes.v, planes.v_scales, FOR_V, tiles.v, e.v);
}

// x: the elements of the state `m`.
KERNEL(128, load_state, Planes planes, Shape shape, Storage storage) {
    DYNAMIC_SHARED(u8, shared);
    const Pass p = pass_of<THREADS>(planes, shape, storage, 0, 0, nullptr);
    Elements e;
    const Tiles tiles = tiles_of<NoWeight>(shared, storage);
    load_moments(p, tiles, false, e);
    write_row(tiles.grad, e.m);
    flush(tiles.grad, planes.grad, shape, p.block);
}
