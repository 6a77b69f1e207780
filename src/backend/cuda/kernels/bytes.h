// Products of activations and weights whose elements are bytes, integers or floats, under a scale for each group of a
// row: sums within a group are the tensor cores', groups are added in float32.
#pragma once
#include "blocks.h"
#include "codecs.h"
#include "tiles.h"

// One operand: rows of whole groups, `width` bytes each, a multiple of 32, and what stands before each group: planes
// with a row for each group, `stride` floats apart, one float for each row of the operand.
struct Bytes {
    const u8* codes;
    // What a code is multiplied by.
    const float* scales;
    // Of activations a group's sum, of weights its offset; null where weights have none.
    const float* extras;
    u32 rows;
    // A multiple of TILE, of which all floats may be read.
    u32 stride;
};

// Signed integers. A group's sum is below 2^22 in magnitude (256 * 127 * 128). Sums begin with the bits of 1.5 * 2^23,
// whose last place is 1, so they end as the bits of that float plus the sum: a subtraction instead of a conversion.
struct Integers {
    using Sum = i32;
    static constexpr float MOST = 127.0f;
    static constexpr float START = 12582912.0f;
    DEVICE i32 start() { return (i32)bits(START); }
    DEVICE float value(i32 sum) { return from_bits((u32)sum) - START; }
    DEVICE void multiply(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2], const i32 (&c)[4]) { mma_s8(d, a, b, c); }
    // To the nearest, halves to the even one; of magnitudes up to 127.
    DEVICE u32 code(float x) { return bits(x + START) & 0xff; }
    DEVICE i32 sum_of(u32 code) { return (i8)code; }
};

#if HAS_FP8
// Floats of four exponent bits and three of mantissa.
struct SmallFloats {
    using Sum = float;
    static constexpr float MOST = 448.0f;
    DEVICE float start() { return 0.0f; }
    DEVICE float value(float sum) { return sum; }
    DEVICE void multiply(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], const float (&c)[4]) {
        mma_e4m3(d, a, b, c);
    }
    // To the nearest, halves to the even one; of magnitudes up to 448.
    DEVICE u32 code(float x) {
        const u32 magnitude = bits(x) & 0x7fffffffu, sign = bits(x) >> 24 & 0x80;
        // Below 2^-6 codes count units of 2^-9, the last place of 2^14.
        const u32 small = bits(from_bits(magnitude) + 16384.0f) - bits(16384.0f);
        const u32 normal = (magnitude + 0x7ffffu + (magnitude >> 20 & 1) >> 20) - (120 << 3);
        return sign | ((magnitude < 0x3c800000u ? small : normal) & 0x7f);
    }
    DEVICE float sum_of(u32 code) {
        const u32 magnitude = code & 0x7f, sign = code >> 7 << 31;
        const float small = (float)magnitude * (1.0f / 512.0f);
        return from_bits((magnitude < 8 ? bits(small) : (magnitude << 20) + (120u << 23)) | sign);
    }
};
#endif

// What elements of a group are multiplied by, and the scale of their codes, from the bits of the largest magnitude.
struct Steps {
    float factor, scale;
};
template <class Arithmetic> DEVICE Steps steps_of(u32 most) {
    const bool finite = most < 0x7f800000u;
    const float steps = Arithmetic::MOST / from_bits(most);
    return {finite && bits(steps) < 0x7f800000u ? steps : 0.0f,
            finite ? from_bits(most) / Arithmetic::MOST : from_bits(0x7fc00000u)};
}

// Rows of activations as bytes: a warp per row and 256 of its elements, a group as many lanes as it has eights. Behind
// a row's end, up to whole groups, are zeros.
template <class Arithmetic>
DEVICE void quantize_rows(const bf16* x, u8* codes, float* scales, float* sums, u32 rows, u32 width, u32 padded,
                          u32 group_bits, u32 stride) {
    const u32 row = block_x() * 8 + warp(), column = block_y() * 256 + lane() * 8;
    if (row < rows) {
        const u32 lanes = 1u << (group_bits - 3);
        Eight own = {};
        if (column < width) own = load_eight(x + (u64)row * pitch(width) + column, in_row(column, width));
        // Magnitudes are in the order of their bits, and what is not finite is above them.
        u32 most = 0;
        UNROLL
        for (u32 i = 0; i < 8; ++i) most = max_(most, bits(own.x[i]) & 0x7fffffffu);
        for (u32 by = 1; by < lanes; by *= 2) most = max_(most, shuffle_xor(most, by));
        const Steps steps = steps_of<Arithmetic>(most);
        Bits8 packed = {};
        typename Arithmetic::Sum sum = 0;
        UNROLL
        for (u32 i = 0; i < 8; ++i) {
            const u32 code = Arithmetic::code(own.x[i] * steps.factor);
            packed.x[i / 4] |= code << (i % 4 * 8);
            sum += Arithmetic::sum_of(code);
        }
        for (u32 by = 1; by < lanes; by *= 2) sum += shuffle_xor(sum, by);
        if (column < padded) {
            store_8(codes + (u64)row * padded + column, packed);
            if (lane() % lanes == 0) {
                const u64 at = (u64)(column >> group_bits) * stride + row;
                scales[at] = steps.scale;
                sums[at] = steps.scale * (float)sum;
            }
        }
    }
}

// Of four nibbles, each in a byte of its own.
DEVICE u32 meanings_of(u32 nibbles, const Meanings& all) {
    const u32 pairs = nibbles | nibbles >> 4, four = permute_bytes(pairs, 0, 0x4420u) & 0x7777u;
    const u32 low = permute_bytes(all.x[0], all.x[1], four), high = permute_bytes(all.x[2], all.x[3], four);
    const u32 upper = (nibbles >> 3 & 0x01010101u) * 0xff;
    return (low & ~upper) | (high & upper);
}

// A block of 32 elements as bytes.
template <class Codec> DEVICE Bytes32 block_of_bytes(const WeightPlanes& w, u32 index, const Meanings& all) {
    if constexpr (Codec::BYTES) return load_bytes(w.data, index);
    Bytes32 bytes = unpack(load_nibbles(w.data, index));
    UNROLL
    for (u32 i = 0; i < 8; ++i) bytes.x[i] = meanings_of(bytes.x[i], all);
    return bytes;
}

// Rows of a weight as bytes, `blocks` blocks from `first` on, a thread each. A scale is `unit` times the stored one.
template <class Codec>
DEVICE void unpack_rows(const WeightPlanes& w, const Meanings& all, float unit, u8* codes, float* scales,
                        float* offsets, u32 first, u32 blocks, u32 blocks_per_row, u32 stride) {
    const u32 i = block_x() * 256 + thread();
    if (i < blocks) {
        store_bytes(codes, i, block_of_bytes<Codec>(w, first + i, all));
        const u32 row = i / blocks_per_row, column = i % blocks_per_row * BLOCK;
        if (column % (1u << w.group_bits) == 0) {
            const auto group = Codec::group(w, (u64)(first + i) * BLOCK);
            const u64 to = (u64)(column >> w.group_bits) * stride + row;
            scales[to] = unit * group.scale;
            if constexpr (Codec::OFFSETS) offsets[to] = group.offset;
        }
    }
}

// Rows of a tile, of either operand, and bytes of a row that are in shared memory at a time.
static constexpr u32 TILE = 128, DEPTH = 128;
// As tiles.h counts, two bytes an element.
static constexpr u32 WIDE = DEPTH / 2;
// A stage: both tiles, then of each group that they can have, four, scales and extras of both.
static constexpr u32 RIGHT = TILE * DEPTH, NUMBERS = 2 * RIGHT, MOST_GROUPS = DEPTH / 32;
static constexpr u32 STAGE = NUMBERS + 4 * MOST_GROUPS * TILE * 4;
// The launch's shared memory (src/backend/cuda/ops/bytes.rs).
static_assert(2 * STAGE == 81920, "the host asks for as much");

// What a stage's floats are.
enum Number : u32 { LEFT_SCALES = 0, RIGHT_SCALES = 1, LEFT_SUMS = 2, RIGHT_OFFSETS = 3 };
DEVICE u32 numbers_at(u32 number, u32 group) { return (number * MOST_GROUPS + group) * TILE; }

// Starts to fill a stage with `chunk` of the rows of both operands from `row` and `column` on.
DEVICE void load_stage(u32 stage, const Bytes& left, const Bytes& right, u32 row, u32 column, u32 width,
                       u32 group_bits, u32 chunk) {
    const u32 at = chunk * DEPTH, rest = (width - at) / 2;
    const auto part = [&](const Bytes& of, u32 first) {
        return Matrix{(const bf16*)(of.codes + (u64)first * width + at), width / 2, of.rows - first, rest};
    };
    load_tile<WIDE, TILE, 256, true>(stage, part(left, row), 0);
    load_tile<WIDE, TILE, 256, true>(stage + RIGHT, part(right, column), 0);
    DYNAMIC_SHARED(u8, shared);
    float* const numbers = (float*)(shared + stage + NUMBERS);
    // Four floats of a group each, of both operands.
    const u32 side = thread() / 128, group = thread() % 128 / 32, four = thread() % 32 * 4;
    const float* const scales = side == 0 ? left.scales : right.scales;
    const float* const extras = side == 0 ? left.extras : right.extras;
    const u32 stride = side == 0 ? left.stride : right.stride;
    const u32 first = at >> group_bits, groups = max_(DEPTH >> group_bits, 1u);
    if (group < groups && first + group < width >> group_bits) {
        const u64 from = (u64)(first + group) * stride + (side == 0 ? row : column) + four;
        copy_async_16(numbers + numbers_at(LEFT_SCALES + side, group) + four, scales + from, true);
        if (right.extras != nullptr)
            copy_async_16(numbers + numbers_at(LEFT_SUMS + side, group) + four, extras + from, true);
    }
    commit_async();
}

// 64 rows of the output by 32 columns: a warp's part of a tile, two such parts high and four wide.
static constexpr u32 STRIPS = 4, COLUMNS = 32;
template <class Arithmetic> struct GroupSums {
    typename Arithmetic::Sum x[STRIPS][COLUMNS / 8][4];
};

// group += left right^T over 32 bytes of each row, from byte 2 `column` on; FIRST: the group begins with them.
template <class Arithmetic, bool FIRST>
DEVICE void add_products(GroupSums<Arithmetic>& group, u32 left, u32 right, u32 column) {
    // One for all: registers that are set again for each group would be instructions.
    const typename Arithmetic::Sum start[4] = {Arithmetic::start(), Arithmetic::start(), Arithmetic::start(),
                                               Arithmetic::start()};
    u32 a[STRIPS][4];
    load_a<WIDE>(a, left, column);
    UNROLL
    for (u32 n = 0; n < COLUMNS; n += 16) {
        u32 b[4];
        load_matrix_x4(b, lane_chunk<WIDE>(right, n, column));
        const u32 halves[2][2] = {{b[0], b[1]}, {b[2], b[3]}};
        UNROLL
        for (u32 s = 0; s < STRIPS; ++s) {
            UNROLL
            for (u32 half = 0; half < 2; ++half) {
                auto& sums = group.x[s][n / 8 + half];
                if constexpr (FIRST) {
                    Arithmetic::multiply(sums, a[s], halves[half], start);
                } else {
                    Arithmetic::multiply(sums, a[s], halves[half], sums);
                }
            }
        }
    }
}

// What stands before the 8 rows and the 8 columns of a lane's elements.
struct LaneNumbers {
    float rows[2 * STRIPS], columns[COLUMNS / 4];
};

// `left` and `right`: this lane's first row and column within the tile.
DEVICE LaneNumbers lane_numbers(const float* rows, const float* columns, u32 left, u32 right) {
    LaneNumbers own;
    UNROLL
    for (u32 i = 0; i < 2 * STRIPS; ++i) own.rows[i] = rows[left + 8 * i];
    UNROLL
    for (u32 n = 0; n < COLUMNS / 8; ++n) {
        const Bits8 pair = load_8(columns + right + 8 * n);
        own.columns[2 * n] = from_bits(pair.x[0]);
        own.columns[2 * n + 1] = from_bits(pair.x[1]);
    }
    return own;
}

// Calls `add(sum, group's sum, row's number, column's number)` for each element of a lane.
template <class Arithmetic, class F>
DEVICE void each_sum(Sums<STRIPS, COLUMNS>& sums, const GroupSums<Arithmetic>& group, const LaneNumbers& own, F add) {
    UNROLL
    for (u32 s = 0; s < STRIPS; ++s) {
        UNROLL
        for (u32 n = 0; n < COLUMNS / 8; ++n) {
            UNROLL
            for (u32 e = 0; e < 4; ++e)
                add(sums.x[s][n][e], group.x[s][n][e], own.rows[2 * s + e / 2], own.columns[2 * n + e % 2]);
        }
    }
}

// sums += group under the scales of both, and the sums of activations times offsets: one fused operation each.
template <class Arithmetic>
DEVICE void add_group(Sums<STRIPS, COLUMNS>& sums, const GroupSums<Arithmetic>& group, const float* numbers, u32 index,
                      u32 left, u32 right, bool offsets) {
    using Sum = typename Arithmetic::Sum;
    const auto of = [&](u32 rows, u32 columns) {
        return lane_numbers(numbers + numbers_at(rows, index), numbers + numbers_at(columns, index), left, right);
    };
    each_sum(sums, group, of(LEFT_SCALES, RIGHT_SCALES), [](float& sum, Sum products, float row, float column) {
        sum = fma_(Arithmetic::value(products), column * row, sum);
    });
    if (offsets) {
        each_sum(sums, group, of(LEFT_SUMS, RIGHT_OFFSETS),
                 [](float& sum, Sum, float row, float column) { sum = fma_(column, row, sum); });
    }
}

// Calls `pair(sums, row, column)` for each two neighbours of the output of which the first exists.
template <class F>
DEVICE void each_pair(Sums<STRIPS, COLUMNS>& sums, u32 row, u32 column, u32 rows, u32 columns, F pair) {
    UNROLL
    for (u32 s = 0; s < STRIPS; ++s) {
        UNROLL
        for (u32 half = 0; half < 2; ++half) {
            const u32 r = row + 16 * s + 8 * half;
            UNROLL
            for (u32 n = 0; n < COLUMNS / 8; ++n) {
                const u32 c = column + 8 * n;
                float(&x)[4] = sums.x[s][n];
                if (r < rows && c < columns) pair(x[2 * half], x[2 * half + 1], r, c);
            }
        }
    }
}

// Outputs of activations: what follows the last column of an odd number is overwritten.
struct RoundedOutput {
    bf16* y;
    u32 pitch;
    DEVICE void load(const RoundedOutput& out, float& low, float& high, u32 r, u32 c, u32) {
        const u32 two = *(const u32*)(out.y + (u64)r * out.pitch + c);
        low = low_to_float(two);
        high = high_to_float(two);
    }
    DEVICE void store(const RoundedOutput& out, float low, float high, u32 r, u32 c, u32) {
        *(u32*)(out.y + (u64)r * out.pitch + c) = pack_bf16(low, high);
    }
};

// Gradients of weights, without room between rows.
struct FloatOutput {
    float* y;
    u32 pitch;
    DEVICE void load(const FloatOutput& out, float& low, float& high, u32 r, u32 c, u32 columns) {
        const float* const at = out.y + (u64)r * out.pitch + c;
        low = at[0];
        if (c + 1 < columns) high = at[1];
    }
    DEVICE void store(const FloatOutput& out, float low, float high, u32 r, u32 c, u32 columns) {
        float* const at = out.y + (u64)r * out.pitch + c;
        at[0] = low;
        if (c + 1 < columns) at[1] = high;
    }
};

// y = left right^T, or y += left right^T: a tile of the output for each block. Groups are added in their order,
// beginning with what y holds.
template <class Arithmetic, class Output>
DEVICE void multiply_bytes(const Bytes& left, const Bytes& right, const Output& out, u32 width, u32 group_bits,
                           u32 accumulate) {
    const u32 column = block_x() * TILE, row = block_y() * TILE;
    const u32 own_row = warp() / 4 * 64, own_column = warp() % 4 * COLUMNS;
    const u32 lane_row = own_row + lane() / 4, lane_column = own_column + lane() % 4 * 2;
    Sums<STRIPS, COLUMNS> sums;
    clear(sums);
    if (accumulate != 0) {
        each_pair(sums, row + lane_row, column + lane_column, left.rows, right.rows,
                  [&](float& low, float& high, u32 r, u32 c) { Output::load(out, low, high, r, c, right.rows); });
    }
    GroupSums<Arithmetic> group;
    const u32 chunks = ceil_div(width, DEPTH), in_group = (1u << group_bits) - 1;
    DYNAMIC_SHARED(u8, shared);
    load_stage(0, left, right, row, column, width, group_bits, 0);
    for (u32 chunk = 0; chunk < chunks; ++chunk) {
        const u32 stage = chunk % 2 * STAGE;
        wait_async<0>();
        // What was loaded is seen by all, and nobody reads the other stage any more.
        sync_threads();
        if (chunk + 1 < chunks)
            load_stage(STAGE - stage, left, right, row, column, width, group_bits, chunk + 1);
        const u32 a = stage + own_row * DEPTH + lane_of_rows<WIDE>();
        const u32 b = stage + RIGHT + own_column * DEPTH + lane_of_columns<WIDE>();
        const float* const numbers = (const float*)(shared + stage + NUMBERS);
        UNROLL
        for (u32 k = 0; k < DEPTH; k += 32) {
            const u32 begin = chunk * DEPTH + k, end = begin + 32;
            if (end > width) break;
            if ((begin & in_group) == 0) {
                add_products<Arithmetic, true>(group, a, b, k / 2);
            } else {
                add_products<Arithmetic, false>(group, a, b, k / 2);
            }
            if ((end & in_group) == 0)
                add_group(sums, group, numbers, k >> group_bits, lane_row, lane_column, right.extras != nullptr);
        }
    }
    each_pair(sums, row + lane_row, column + lane_column, left.rows, right.rows,
              [&](float& low, float& high, u32 r, u32 c) { Output::store(out, low, high, r, c, right.rows); });
}

#define QUANTIZE(name, Arithmetic)                                                                                    \
    KERNEL(256, quantize_##name, const bf16* x, u8* codes, float* scales, float* sums, u32 rows, u32 width,           \
           u32 padded, u32 group_bits, u32 stride) {                                                                  \
        quantize_rows<Arithmetic>(x, codes, scales, sums, rows, width, padded, group_bits, stride);                   \
    }
// `meanings` are a codec's, `unit` times whose scale multiplies them.
#define UNPACK(name, codec, Codec, meanings, unit)                                                                    \
    KERNEL(256, unpack_##name##_##codec, const u8* data, const u16* scales, const u16* offsets, u8* codes,            \
           float* code_scales, float* code_offsets, u32 first, u32 blocks, u32 blocks_per_row, u32 group_bits,        \
           u32 stride) {                                                                                              \
        unpack_rows<Codec>({data, scales, offsets, group_bits}, meanings, unit, codes, code_scales, code_offsets,     \
                           first, blocks, blocks_per_row, stride);                                                    \
    }
// `y`, of numbers of type `Type`, is an `Output`.
#define MULTIPLY(name, Arithmetic, Type, Output)                                                                      \
    KERNEL(256, multiply_##name, const u8* x, const float* x_scales, const float* x_sums, const u8* w,                \
           const float* w_scales, const float* w_offsets, Type* y, u32 rows, u32 cols, u32 x_stride, u32 w_stride,    \
           u32 width, u32 group_bits, u32 pitch, u32 accumulate) {                                                    \
        const Output out = {y, pitch};                                                                                \
        multiply_bytes<Arithmetic>({x, x_scales, x_sums, rows, x_stride}, {w, w_scales, w_offsets, cols, w_stride},   \
                                   out, width, group_bits, accumulate);                                               \
    }
