// Gradients of products in integers: both operands are rounded in groups of 64 along the sum, the gradient that comes
// in at random, and laid out as rows of bytes for the product of bytes.h.
//
// Floors, in bytes of device memory: rounding, 3 for an element of an activation; the product as in linear_int8.cu.
#include "bytes.h"
#include "rng.h"

// Elements of a group, and its bits.
static constexpr u32 GROUP = 64, GROUP_BITS = 6;
// What is added to a random number before a gradient is rounded to the nearest integer (`FIRST_ADDED`).
static constexpr float FIRST_ADDED = 0.5f / 65536.0f - 0.5f;

// Rounded at random; `u` in [0, 1).
DEVICE u32 code_at_random(float steps, float u) {
    const float x = steps + (u + FIRST_ADDED);
    return Integers::code(fmin_(fmax_(x, -Integers::MOST), Integers::MOST));
}

// Rows of a gradient of an output: a warp per row and 256 of its elements, eight lanes a group. Behind a row's end, up
// to whole groups, are zeros.
KERNEL(256, round_rows_int8, const bf16* x, u8* codes, float* scales, u32 rows, u32 width, u32 padded, u32 stride,
       u64 first, u64 seed, u32 step, u32 tensor) {
    const u32 row = block_x() * 8 + warp(), column = block_y() * 256 + lane() * 8;
    if (row < rows) {
        Eight own = {};
        if (column < width) own = load_eight(x + (u64)row * pitch(width) + column, in_row(column, width));
        u32 most = 0;
        UNROLL
        for (u32 i = 0; i < 8; ++i) most = max_(most, bits(own.x[i]) & 0x7fffffffu);
        UNROLL
        for (u32 by = 1; by < GROUP / 8; by *= 2) most = max_(most, shuffle_xor(most, by));
        const Steps steps = steps_of<Integers>(most);
        const RngKey key = {seed, step, tensor, FOR_GRAD_INPUT};
        const EightNumbers random = eight_numbers(key, ((first + row) * padded + column) / BLOCK);
        Bits8 packed = {};
        UNROLL
        for (u32 i = 0; i < 8; ++i) {
            const u32 code = code_at_random(own.x[i] * steps.factor, EightNumbers::of(random, i));
            packed.x[i / 4] |= code << (i % 4 * 8);
        }
        if (column < padded) {
            store_8(codes + (u64)row * padded + column, packed);
            if (lane() % (GROUP / 8) == 0) scales[(u64)(column >> GROUP_BITS) * stride + row] = steps.scale;
        }
    }
}

// Which columns of which groups of rows become rows of bytes. Groups begin anew with every `run` rows, which have
// `each` groups.
struct Columns {
    u32 run, each;
    // The first group, and the first column.
    u32 group, column;
    u32 columns;
    // Bytes of a row, and floats from one group to the next.
    u32 padded, stride;
};

// Eight columns of four rows become a word of each; 16 threads have a group of eight columns, a block 64 columns.
// `load(row, column, count)` gives the first `count` of eight elements; `random(row, column)` gives their numbers where
// RANDOM, else they are rounded to the nearest.
template <bool RANDOM, class Load, class Random>
DEVICE void round_columns(const Columns& part, u8* codes, float* scales, Load load, Random random) {
    // Words of a column's group, with one between columns so that they meet different banks.
    constexpr u32 WORDS = GROUP / 4, APART = WORDS + 1, WARPS = 4;
    SHARED(u32, words, GROUP * APART);
    SHARED(u32, most_of_warp, WARPS * GROUP);
    const u32 eight = thread() % 8 * 8, four = thread() / 8, column = block_x() * GROUP + eight;
    const u32 group = part.group + block_y(), in_run = group % part.each * GROUP;
    const u32 first = group / part.each * part.run + in_run, rows = min_(GROUP, part.run - in_run);
    const u32 count = column < part.columns ? min_(8u, part.columns - column) : 0;
    Eight own[4];
    u32 most[8] = {};
    UNROLL
    for (u32 i = 0; i < 4; ++i) {
        own[i] = Eight{};
        if (4 * four + i < rows && count > 0) own[i] = load(first + 4 * four + i, part.column + column, count);
        UNROLL
        for (u32 j = 0; j < 8; ++j) most[j] = max_(most[j], bits(own[i].x[j]) & 0x7fffffffu);
    }
    UNROLL
    for (u32 j = 0; j < 8; ++j) {
        most[j] = max_(most[j], shuffle_xor(most[j], 8));
        most[j] = max_(most[j], shuffle_xor(most[j], 16));
    }
    if (lane() < 8) {
        UNROLL
        for (u32 j = 0; j < 8; ++j) most_of_warp[warp() * GROUP + eight + j] = most[j];
    }
    sync_threads();
    Steps steps[8];
    UNROLL
    for (u32 j = 0; j < 8; ++j) {
        UNROLL
        for (u32 w = 0; w < WARPS; ++w) most[j] = max_(most[j], most_of_warp[w * GROUP + eight + j]);
        steps[j] = steps_of<Integers>(most[j]);
    }
    u32 word[8] = {};
    UNROLL
    for (u32 i = 0; i < 4; ++i) {
        EightNumbers numbers;
        if constexpr (RANDOM) numbers = random(first + 4 * four + i, part.column + column);
        UNROLL
        for (u32 j = 0; j < 8; ++j) {
            const float x = own[i].x[j] * steps[j].factor;
            u32 code;
            if constexpr (RANDOM) {
                code = code_at_random(x, EightNumbers::of(numbers, j));
            } else {
                code = Integers::code(x);
            }
            word[j] |= code << (i * 8);
        }
    }
    UNROLL
    for (u32 j = 0; j < 8; ++j) words[(eight + j) * APART + four] = word[j];
    if (four == 0) {
        UNROLL
        for (u32 j = 0; j < 8; ++j) {
            if (j < count) scales[(u64)block_y() * part.stride + column + j] = steps[j].scale;
        }
    }
    sync_threads();
    UNROLL
    for (u32 half = 0; half < 2; ++half) {
        const u32 i = half * 128 + thread(), of = i / 4, quarter = i % 4, to = block_x() * GROUP + of;
        Bits16 four_words;
        UNROLL
        for (u32 k = 0; k < 4; ++k) four_words.x[k] = words[of * APART + quarter * 4 + k];
        if (to < part.columns) store_16(codes + (u64)to * part.padded + block_y() * GROUP + quarter * 16, four_words);
    }
}

// A layer's input, whose rows are `width` wide.
KERNEL(128, round_columns_int8, const bf16* x, u8* codes, float* scales, u32 width, u32 run, u32 each, u32 group,
       u32 column, u32 columns, u32 padded, u32 stride) {
    const auto load = [&](u32 row, u32 at, u32 count) { return load_eight(x + (u64)row * pitch(width) + at, count); };
    round_columns<false>({run, each, group, column, columns, padded, stride}, codes, scales, load,
                         [](u32, u32) { return EightNumbers{}; });
}

// A gradient of an output likewise, at random; its first row is row `first` of the batch.
KERNEL(128, round_columns_at_random_int8, const bf16* x, u8* codes, float* scales, u32 width, u32 run, u32 each,
       u32 group, u32 column, u32 columns, u32 padded, u32 stride, u64 first, u64 seed, u32 step, u32 tensor) {
    const RngKey key = {seed, step, tensor, FOR_GRAD_WEIGHT};
    const u32 elements = ceil_div(width, GROUP) * GROUP;
    const auto load = [&](u32 row, u32 at, u32 count) { return load_eight(x + (u64)row * pitch(width) + at, count); };
    round_columns<true>({run, each, group, column, columns, padded, stride}, codes, scales, load,
                        [&](u32 row, u32 at) { return eight_numbers(key, ((first + row) * elements + at) / BLOCK); });
}

// A weight's columns, its rows `width` elements apart.
#define ROUND_WEIGHT(name, Codec)                                                                                     \
    KERNEL(128, round_weight_int8_##name, const u8* data, const u16* scales, const u16* offsets, u8* codes,           \
           float* code_scales, u32 width, u32 run, u32 each, u32 group, u32 column, u32 columns, u32 padded,          \
           u32 stride, u32 group_bits) {                                                                              \
        const WeightPlanes w = {data, scales, offsets, group_bits};                                                   \
        round_columns<false>({run, each, group, column, columns, padded, stride}, codes, code_scales,                 \
                             [&](u32 row, u32 at, u32 count) {                                                        \
                                 return first_of(Codec::load(w, (u64)row * width + at, count), count);                \
                             },                                                                                       \
                             [](u32, u32) { return EightNumbers{}; });                                                \
    }
CODE_CODECS(ROUND_WEIGHT)

MULTIPLY(grad_input_int8, Integers, bf16, RoundedOutput)
MULTIPLY(grad_weight_int8, Integers, float, FloatOutput)
