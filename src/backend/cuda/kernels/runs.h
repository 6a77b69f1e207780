// Runs of 32 elements: which one a thread has, and how planes give and take it. A thread owns one run of the padded
// tensor, a warp 32 neighbouring runs; a group is 1, 2, 4 or 8 neighbouring lanes.
//
// Padded planes (nibbles, bytes) lie so that each lane loads its own run. Planes without padding are rows of any
// length, so a warp moves them together, through a tile of shared memory.
#pragma once
#include "gpu.h"

static constexpr u32 RUN = 32;

// Rows and columns of a matrix, and its runs (src/nibble/geometry.rs).
struct Shape {
    u32 rows;
    u32 cols;
    // Runs of one padded row, and of a group.
    u32 runs_per_row;
    u32 runs_per_group;
};

// One lane's run.
struct Run {
    // Number in the padded tensor.
    u32 index;
    // Elements that are not padding; none past the tensor's end.
    u32 real;
    // First element in planes without padding.
    u64 plain;
};

DEVICE Run run_of(const Shape& shape, u32 index) {
    const u32 row = index / shape.runs_per_row;
    const u32 col = (index - row * shape.runs_per_row) * RUN;
    const bool inside = row < shape.rows && col < shape.cols;
    return {index, inside ? min_(RUN, shape.cols - col) : 0u, (u64)row * shape.cols + col};
}

// A warp's 32 runs of a plane without padding, in shared memory. Rows are 16 bytes longer than their elements, so that
// lanes reading 16 bytes each of their own row meet different banks.
template <typename T> struct Tile {
    static constexpr u32 WIDE = 16 / sizeof(T);
    static constexpr u32 PIECES = RUN / WIDE;
    static constexpr u32 PITCH = RUN + WIDE;
    static constexpr u32 BYTES = 32 * PITCH * sizeof(T);

    T* data;
};

// One piece of 16 bytes that a lane moves for its warp: of which run, and which element of it.
struct Piece {
    u32 run;
    u32 at;
};
template <typename T> DEVICE Piece piece_of(u32 i) {
    const u32 pieces = Tile<T>::PIECES;
    return {i * (32 / pieces) + lane() / pieces, lane() % pieces * Tile<T>::WIDE};
}

// The warp starts loading its runs of a plane; elements of padding become zero. `wait_for_tiles` ends it. Pieces of 16
// bytes are aligned in the plane and never straddle a row's end, if rows are whole pieces.
template <typename T> DEVICE void fetch(Tile<T> tile, const T* plane, const Shape& shape, const Run& run) {
    if (shape.cols % Tile<T>::WIDE == 0) {
        UNROLL
        for (u32 i = 0; i < Tile<T>::PIECES; ++i) {
            const Piece p = piece_of<T>(i);
            const u64 from = shuffle(run.plain, p.run) + p.at;
            copy_async_16(tile.data + p.run * Tile<T>::PITCH + p.at, plane + from, p.at < shuffle(run.real, p.run));
        }
    } else {
        for (u32 j = 0; j < 32; ++j) {
            const u64 from = shuffle(run.plain, j) + lane();
            tile.data[j * Tile<T>::PITCH + lane()] = lane() < shuffle(run.real, j) ? plane[from] : T(0);
        }
    }
    commit_async();
}

DEVICE void wait_for_tiles() {
    wait_async<0>();
    sync_warp();
}

// The warp stores its runs, each lane's as it wrote it to its own row.
template <typename T> DEVICE void flush(Tile<T> tile, T* plane, const Shape& shape, const Run& run) {
    sync_warp();
    if (shape.cols % Tile<T>::WIDE == 0) {
        UNROLL
        for (u32 i = 0; i < Tile<T>::PIECES; ++i) {
            const Piece p = piece_of<T>(i);
            const u64 to = shuffle(run.plain, p.run) + p.at;
            const bool real = p.at < shuffle(run.real, p.run);
            if (real) store_16(plane + to, load_16(tile.data + p.run * Tile<T>::PITCH + p.at));
        }
    } else {
        for (u32 j = 0; j < 32; ++j) {
            const u64 to = shuffle(run.plain, j) + lane();
            const bool real = lane() < shuffle(run.real, j);
            if (real) plane[to] = tile.data[j * Tile<T>::PITCH + lane()];
        }
    }
}

// Piece `i` of this lane's row.
template <typename T> DEVICE Bits16 row_piece(Tile<T> tile, u32 i) {
    return load_16(tile.data + lane() * Tile<T>::PITCH + i * Tile<T>::WIDE);
}
template <typename T> DEVICE void set_row_piece(Tile<T> tile, u32 i, Bits16 x) {
    store_16(tile.data + lane() * Tile<T>::PITCH + i * Tile<T>::WIDE, x);
}

// A float lane's row to registers and back.
DEVICE void read_row(Tile<float> tile, float (&x)[RUN]) {
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        const Bits16 p = row_piece(tile, i);
        UNROLL
        for (u32 j = 0; j < 4; ++j) x[4 * i + j] = from_bits(p.x[j]);
    }
}

DEVICE void write_row(Tile<float> tile, const float (&x)[RUN]) {
    UNROLL
    for (u32 i = 0; i < 8; ++i)
        set_row_piece(tile, i, {{bits(x[4 * i]), bits(x[4 * i + 1]), bits(x[4 * i + 2]), bits(x[4 * i + 3])}});
}

// The same of bfloat16.
DEVICE void read_row(Tile<bf16> tile, float (&x)[RUN]) {
    UNROLL
    for (u32 i = 0; i < 4; ++i) {
        const Bits16 p = row_piece(tile, i);
        UNROLL
        for (u32 j = 0; j < 4; ++j) {
            x[8 * i + 2 * j] = low_to_float(p.x[j]);
            x[8 * i + 2 * j + 1] = high_to_float(p.x[j]);
        }
    }
}

// 32 bytes in element order: element k is byte k % 4 of word k / 4.
struct Bytes32 {
    u32 x[8];
};

// A run of a nibble plane (16 bytes: byte j holds element j low and element j + 16 high) as bytes, and back. Only the
// low nibbles of the bytes are packed.
DEVICE Bytes32 unpack(Bits16 nibbles) {
    Bytes32 bytes;
    UNROLL
    for (u32 i = 0; i < 4; ++i) {
        bytes.x[i] = nibbles.x[i] & 0x0f0f0f0fu;
        bytes.x[4 + i] = nibbles.x[i] >> 4 & 0x0f0f0f0fu;
    }
    return bytes;
}

DEVICE Bits16 pack(const Bytes32& bytes) {
    Bits16 nibbles;
    UNROLL
    for (u32 i = 0; i < 4; ++i) {
        nibbles.x[i] = (bytes.x[i] & 0x0f0f0f0fu) | (bytes.x[4 + i] & 0x0f0f0f0fu) << 4;
    }
    return nibbles;
}

DEVICE Bytes32 load_bytes(const u8* plane, u32 run) {
    const Bits16 a = load_16(plane + (u64)run * 32), b = load_16(plane + (u64)run * 32 + 16);
    return {{a.x[0], a.x[1], a.x[2], a.x[3], b.x[0], b.x[1], b.x[2], b.x[3]}};
}

DEVICE void store_bytes(u8* plane, u32 run, const Bytes32& x) {
    store_16(plane + (u64)run * 32, {{x.x[0], x.x[1], x.x[2], x.x[3]}});
    store_16(plane + (u64)run * 32 + 16, {{x.x[4], x.x[5], x.x[6], x.x[7]}});
}

DEVICE Bits16 load_nibbles(const u8* plane, u32 run) { return load_16(plane + (u64)run * 16); }
DEVICE void store_nibbles(u8* plane, u32 run, Bits16 x) { store_16(plane + (u64)run * 16, x); }

// Byte k as a float: placed under the exponent of 2^23, whose last place is 1. No conversion instruction.
DEVICE float byte_to_float(const Bytes32& bytes, u32 k) {
    return from_bits(permute_bytes(bytes.x[k / 4], 0x4b000000u, 0x7440u | k % 4)) - 8388608.0f;
}
// The same of a signed byte.
DEVICE float signed_to_float(const Bytes32& bytes, u32 k) {
    return from_bits(permute_bytes(bytes.x[k / 4] ^ 0x80808080u, 0x4b000000u, 0x7440u | k % 4)) - 8388736.0f;
}

// A whole number below 2^22 in magnitude, in two's complement, in the low bits (src/nibble/rounding.rs, `low_byte`).
DEVICE u32 low_bits(float x) { return bits(x + 12582912.0f); }

// The low bytes of the `low_bits` of elements 4 i .. 4 i + 3, as one word.
DEVICE u32 four_bytes(u32 a, u32 b, u32 c, u32 d) {
    return permute_bytes(permute_bytes(a, b, 0x0040u), permute_bytes(c, d, 0x0040u), 0x5410u);
}

// What `combine` makes of the values of the lanes of a group, the same in all of them.
template <typename Combine> DEVICE float over_group(float x, u32 lanes, Combine combine) {
    for (u32 by = 1; by < lanes; by *= 2) x = combine(x, shuffle_xor(x, by));
    return x;
}
DEVICE float group_max(float x, u32 lanes) {
    return over_group(x, lanes, [](float a, float b) { return fmax_(a, b); });
}
DEVICE float group_min(float x, u32 lanes) {
    return over_group(x, lanes, [](float a, float b) { return fmin_(a, b); });
}
