// Blocks of 32 elements: which one a thread has, and how planes give and take it. A thread owns one block of the padded
// tensor, a warp 32 neighbouring blocks; a group is 1, 2, 4 or 8 neighbouring lanes.
//
// Padded planes (nibbles, bytes) lie so that each lane loads its own block. Planes without padding are rows of any
// length, so a warp moves them together, through a tile of shared memory.
#pragma once
#include "gpu.h"

static constexpr u32 BLOCK = 32;

// Rows and columns of a matrix, and its blocks (src/quant/grouped.rs).
struct Shape {
    u32 rows;
    u32 cols;
    // Blocks of one padded row, of a group, and of the tensor (fewer than 2^32).
    u32 blocks_per_row;
    u32 blocks_per_group;
    u32 blocks;
    // Whether rows are whole groups: then nothing is padding, and blocks follow each other in every plane.
    u32 dense;
};
SIZE_ON_HOST(Shape, 24);

// One lane's block.
struct Block {
    // Number in the padded tensor, and of its group.
    u32 index;
    u32 group;
    // Elements that are not padding; none past the tensor's end.
    u32 real;
    // Not past the tensor's end.
    bool live;
    // First element in planes without padding.
    u64 plain;
};

DEVICE Block block_of(const Shape& shape, u32 index) {
    const bool live = index < shape.blocks;
    const u32 group = live ? index / shape.blocks_per_group : 0;
    if (shape.dense != 0) return {index, group, live ? BLOCK : 0, live, (u64)index * BLOCK};
    const u32 row = index / shape.blocks_per_row;
    const u32 col = (index - row * shape.blocks_per_row) * BLOCK;
    const bool inside = live && col < shape.cols;
    return {index, group, inside ? min_(BLOCK, shape.cols - col) : 0u, live, (u64)row * shape.cols + col};
}

// A warp's 32 blocks of a plane without padding, in shared memory. Rows are 16 bytes longer than their elements: so
// lanes reading 16 bytes each of their own row meet different banks.
template <typename T> struct Tile {
    static constexpr u32 WIDE = 16 / sizeof(T);
    static constexpr u32 PIECES = BLOCK / WIDE;
    static constexpr u32 PITCH = BLOCK + WIDE;
    static constexpr u32 BYTES = 32 * PITCH * sizeof(T);

    T* data;
};

// One piece of 16 bytes that a lane moves for its warp: its place in the tile and in the plane. Pieces are aligned and
// never straddle a row's end, if rows are whole pieces.
struct Piece {
    u32 tile;
    u64 plane;
    bool real;
};
template <typename T> DEVICE Piece piece_of(u32 i, const Shape& shape, const Block& block) {
    const u32 pieces = Tile<T>::PIECES;
    const u32 of = i * (32 / pieces) + lane() / pieces, at = lane() % pieces * Tile<T>::WIDE;
    const u32 tile = of * Tile<T>::PITCH + at;
    if (shape.dense != 0) {
        const u32 first = block.index - lane();
        return {tile, (u64)first * BLOCK + of * BLOCK + at, first + of < shape.blocks};
    }
    return {tile, shuffle(block.plain, of) + at, at < shuffle(block.real, of)};
}

// The warp starts loading its blocks of a plane; elements of padding become zero. `wait_for_tiles` ends it.
template <typename T> DEVICE void fetch(Tile<T> tile, const T* plane, const Shape& shape, const Block& block) {
    if (shape.cols % Tile<T>::WIDE == 0) {
        UNROLL
        for (u32 i = 0; i < Tile<T>::PIECES; ++i) {
            const Piece p = piece_of<T>(i, shape, block);
            copy_async_16(tile.data + p.tile, plane + p.plane, p.real);
        }
    } else {
        for (u32 j = 0; j < 32; ++j) {
            const u64 from = shuffle(block.plain, j) + lane();
            tile.data[j * Tile<T>::PITCH + lane()] = lane() < shuffle(block.real, j) ? plane[from] : T(0);
        }
    }
    commit_async();
}

DEVICE void wait_for_tiles() {
    wait_async<0>();
    sync_warp();
}

// The warp stores its blocks, each lane's as it wrote it to its own row.
template <typename T> DEVICE void flush(Tile<T> tile, T* plane, const Shape& shape, const Block& block) {
    sync_warp();
    if (shape.cols % Tile<T>::WIDE == 0) {
        UNROLL
        for (u32 i = 0; i < Tile<T>::PIECES; ++i) {
            const Piece p = piece_of<T>(i, shape, block);
            if (p.real) store_16(plane + p.plane, load_16(tile.data + p.tile));
        }
    } else {
        for (u32 j = 0; j < 32; ++j) {
            const u64 to = shuffle(block.plain, j) + lane();
            const bool real = lane() < shuffle(block.real, j);
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
DEVICE void read_row(Tile<float> tile, float (&x)[BLOCK]) {
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        const Bits16 p = row_piece(tile, i);
        UNROLL
        for (u32 j = 0; j < 4; ++j) x[4 * i + j] = from_bits(p.x[j]);
    }
}

DEVICE void write_row(Tile<float> tile, const float (&x)[BLOCK]) {
    UNROLL
    for (u32 i = 0; i < 8; ++i)
        set_row_piece(tile, i, {{bits(x[4 * i]), bits(x[4 * i + 1]), bits(x[4 * i + 2]), bits(x[4 * i + 3])}});
}

// The same of bfloat16.
DEVICE void read_row(Tile<bf16> tile, float (&x)[BLOCK]) {
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

// A block of a nibble plane (16 bytes: byte j holds element j low and element j + 16 high) as bytes, and back. Only the
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

DEVICE Bytes32 load_bytes(const u8* plane, u32 block) {
    const Bits16 a = load_16(plane + (u64)block * 32), b = load_16(plane + (u64)block * 32 + 16);
    return {{a.x[0], a.x[1], a.x[2], a.x[3], b.x[0], b.x[1], b.x[2], b.x[3]}};
}

DEVICE void store_bytes(u8* plane, u32 block, const Bytes32& x) {
    store_16(plane + (u64)block * 32, {{x.x[0], x.x[1], x.x[2], x.x[3]}});
    store_16(plane + (u64)block * 32 + 16, {{x.x[4], x.x[5], x.x[6], x.x[7]}});
}

DEVICE Bits16 load_nibbles(const u8* plane, u32 block) { return load_16(plane + (u64)block * 16); }
// Either, as it lies in memory; nibbles are the first 16 bytes.
DEVICE Bytes32 load_raw(const u8* plane, u32 block, bool bytes) {
    if (bytes) return load_bytes(plane, block);
    const Bits16 nibbles = load_nibbles(plane, block);
    return {{nibbles.x[0], nibbles.x[1], nibbles.x[2], nibbles.x[3], 0, 0, 0, 0}};
}

DEVICE void store_nibbles(u8* plane, u32 block, Bits16 x) { store_16(plane + (u64)block * 16, x); }

// Byte k as a float, plus 32768: placed in the low half of a float of that size, whose last place is 1/256. No
// conversion instruction, and what follows subtracts its own number from it anyway.
static constexpr float BIAS = 32768.0f;
DEVICE float biased(const Bytes32& bytes, u32 k) {
    return from_bits(permute_bytes(bytes.x[k / 4], 0x47000000u, 0x7604u | k % 4 << 4));
}

// Signed bytes to unsigned ones that are 128 larger, and back.
DEVICE Bytes32 flip_signs(Bytes32 bytes, u32 signs) {
    UNROLL
    for (u32 i = 0; i < 8; ++i) bytes.x[i] ^= signs;
    return bytes;
}

// The number next below x (below 2^22 in magnitude), in two's complement, in the low bits: the sum is rounded down and
// has the number's bits at the end of its mantissa.
DEVICE u32 floor_bits(float x) { return bits(add_down(x, 12582912.0f)); }

// The low bytes of four words, as one word.
DEVICE u32 four_bytes(const u32 (&x)[4]) {
    return permute_bytes(permute_bytes(x[0], x[1], 0x0040u), permute_bytes(x[2], x[3], 0x0040u), 0x5410u);
}

// The largest and the smallest of the values of a group's lanes, in all of them.
DEVICE float group_max(float x, u32 lanes) {
    for (u32 by = 1; by < lanes; by *= 2) x = fmax_(x, shuffle_xor(x, by));
    return x;
}
DEVICE float group_min(float x, u32 lanes) {
    for (u32 by = 1; by < lanes; by *= 2) x = fmin_(x, shuffle_xor(x, by));
    return x;
}
