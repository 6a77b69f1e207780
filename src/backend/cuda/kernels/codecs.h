// The codecs of stored weights (src/quant/format.rs), one struct each, and the list by which kernels are instantiated:
// a kernel that is named after an operation and a codec takes the planes of that codec.
// src/backend/cuda/ops/weights.rs has the same list.
#pragma once
#include "fp4.h"
#include "rows.h"

// X(name in kernels' names, struct), of all codecs, of those with more than four bits and of those with four.
// CODE_CODECS are those whose data are codes under scales.
#define WEIGHT_CODECS(X) WIDE_CODECS(X) FOUR_BIT_CODECS(X)
#define WIDE_CODECS(X) X(f32, F32Weight) X(bf16, Bf16Weight) X(int8, Int8Weight)
#define CODE_CODECS(X) X(int8, Int8Weight) FOUR_BIT_CODECS(X)
#define FOUR_BIT_CODECS(X) X(int4, Int4Weight) X(int4_offset, Int4OffsetWeight) X(fp4, Fp4Weight)

// The planes that products read. Scales and offsets are null where a codec has none; scales of four-bit floats are
// bytes.
struct WeightPlanes {
    const u8* data;
    const u16* scales;
    const u16* offsets;
    // A group has 2^group_bits elements.
    u32 group_bits;
};

// Every codec has `load`: eight neighbours of a row as floats, from element `at` of the data on, a multiple of 8 where
// rows are padded; of floats, whose rows are not, the first `count` and zeros. A group is a multiple of 32 elements, so
// eight neighbours share their scale.
//
// `Stored` is what updates (adam_pass.h) find in the data: numbers of that type, or integers that a struct of that file
// decodes and stores, whose values are spaced as `Levels` (grid.h) say. `OFFSETS`: whether a group has one;
// `DEEP`: whether it may hold integers below `QuantGrid::deep`.
// Of codes, `group` is the scale (and the offset) of the group that `at` is in, and products of bytes (bytes.h) read
// them as signed integers, which `INTEGER_UNIT` times the scale multiplies, and those of four bits also as floats of
// eight: `integers` and `small_floats` are those of each nibble; BYTES are such integers as they lie.
struct StoredBytes;
struct StoredNibbles;
struct StoredFloats4;
struct EvenLevels;
struct Fp4Levels;

// The byte of each of sixteen nibbles.
struct Meanings {
    u32 x[4];
};

DEVICE float number(float x) { return x; }
DEVICE float number(bf16 x) { return to_float(x); }

// Rows of floats start at any element, so these are read one by one.
template <typename T> DEVICE Eight load_floats(const T* from, u32 count) {
    Eight out;
    UNROLL
    for (u32 i = 0; i < 8; ++i) out.x[i] = i < count ? number(from[i]) : 0.0f;
    return out;
}

struct F32Weight {
    using Stored = float;
    using Levels = EvenLevels;
    static constexpr bool OFFSETS = false;
    DEVICE Eight load(const WeightPlanes& w, u64 at, u32 count) {
        return load_floats((const float*)w.data + at, count);
    }
};

struct Bf16Weight {
    using Stored = bf16;
    using Levels = EvenLevels;
    static constexpr bool OFFSETS = false;
    DEVICE Eight load(const WeightPlanes& w, u64 at, u32 count) {
        return load_floats((const bf16*)w.data + at, count);
    }
};

struct Int8Group {
    float scale;
};

struct Int8Weight {
    using Stored = StoredBytes;
    using Levels = EvenLevels;
    static constexpr bool OFFSETS = false, BYTES = true, DEEP = false;
    static constexpr float INTEGER_UNIT = 1.0f;
    DEVICE Meanings integers() { return {}; }
    DEVICE Int8Group group(const WeightPlanes& w, u64 at) { return {f16_to_float(w.scales[at >> w.group_bits])}; }
    DEVICE Eight load(const WeightPlanes& w, u64 at, u32) {
        const float scale = group(w, at).scale;
        const Bits8 bytes = load_8(w.data + at);
        Eight out;
        UNROLL
        for (int i = 0; i < 8; ++i) out.x[i] = scale * (float)(i8)(bytes.x[i / 4] >> (i % 4 * 8) & 255);
        return out;
    }
};

// The nibbles of eight bytes, the low or the high ones, decoded under the scale of their group.
template <class Group> DEVICE Eight decode_nibbles(Bits8 bytes, bool high, const Group& group) {
    Eight out;
    UNROLL
    for (int i = 0; i < 8; ++i) {
        const u32 byte = bytes.x[i / 4] >> (i % 4 * 8);
        out.x[i] = Group::decode(group, (high ? byte >> 4 : byte) & 15);
    }
    return out;
}

// In a block of 32 elements (16 bytes) element k < 16 is the low nibble of byte k, element k + 16 the high one.
template <class Codec> DEVICE Eight load_nibbles(const WeightPlanes& w, u64 at) {
    const Bits8 bytes = load_8(w.data + at / 32 * 16 + at % 16);
    return decode_nibbles(bytes, at % 32 >= 16, Codec::group(w, at));
}

// s (q - 8), rounded once.
struct Int4Group {
    float scale;
    DEVICE float decode(const Int4Group& group, u32 code) { return group.scale * ((float)code - 8.0f); }
};

struct Int4Weight {
    using Stored = StoredNibbles;
    using Levels = EvenLevels;
    static constexpr bool OFFSETS = false, BYTES = false, DEEP = true;
    static constexpr float INTEGER_UNIT = 1.0f;
    // -8 to 7.
    DEVICE Meanings integers() { return {{0xfbfaf9f8u, 0xfffefdfcu, 0x03020100u, 0x07060504u}}; }
    DEVICE Meanings small_floats() { return {{0xcaccced0u, 0xb8c0c4c8u, 0x44403800u, 0x4e4c4a48u}}; }
    DEVICE Int4Group group(const WeightPlanes& w, u64 at) { return {f16_to_float(w.scales[at >> w.group_bits])}; }
    DEVICE Eight load(const WeightPlanes& w, u64 at, u32) { return load_nibbles<Int4Weight>(w, at); }
};

// s q + o, rounded twice, as on the CPU.
struct Int4OffsetGroup {
    float scale, offset;
    DEVICE float decode(const Int4OffsetGroup& group, u32 code) { return group.scale * (float)code + group.offset; }
};

struct Int4OffsetWeight {
    using Stored = StoredNibbles;
    using Levels = EvenLevels;
    static constexpr bool OFFSETS = true, BYTES = false, DEEP = false;
    static constexpr float INTEGER_UNIT = 1.0f;
    // 0 to 15.
    DEVICE Meanings integers() { return {{0x03020100u, 0x07060504u, 0x0b0a0908u, 0x0f0e0d0cu}}; }
    DEVICE Meanings small_floats() { return {{0x44403800u, 0x4e4c4a48u, 0x53525150u, 0x57565554u}}; }
    DEVICE Int4OffsetGroup group(const WeightPlanes& w, u64 at) {
        const u64 group = at >> w.group_bits;
        return {f16_to_float(w.scales[group]), f16_to_float(w.offsets[group])};
    }
    DEVICE Eight load(const WeightPlanes& w, u64 at, u32) { return load_nibbles<Int4OffsetWeight>(w, at); }
};

// A power of two times a float of four bits, which no bit is lost of.
struct Fp4Group {
    float scale;
    DEVICE float decode(const Fp4Group& group, u32 code) {
        return group.scale * fp4_level((float)fp4_rank(code) - 7.0f);
    }
};

struct Fp4Weight {
    using Stored = StoredFloats4;
    using Levels = Fp4Levels;
    static constexpr bool OFFSETS = false, BYTES = false, DEEP = false;
    static constexpr float INTEGER_UNIT = 0.5f;
    // Twice the values, and the values.
    DEVICE Meanings integers() { return {{0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu}}; }
    DEVICE Meanings small_floats() { return {{0x3c383000u, 0x4c484440u, 0xbcb8b080u, 0xccc8c4c0u}}; }
    DEVICE Fp4Group group(const WeightPlanes& w, u64 at) {
        return {power_of_two(((const u8*)w.scales)[at >> w.group_bits])};
    }
    DEVICE Eight load(const WeightPlanes& w, u64 at, u32) { return load_nibbles<Fp4Weight>(w, at); }
};
