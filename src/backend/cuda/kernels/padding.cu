// What lies between rows, so that cuBLASLt is given sizes whose rows are aligned: its fast kernels want no others.
#include "rows.h"

// Zeros behind each row: products may then sum over whole pitches. One thread per row, 16 bytes of it.
KERNEL(256, clear_padding, bf16* x, u32 rows, u32 width) {
    const u32 row = block_x() * 256 + thread();
    if (row < rows) {
        bf16* end = x + (u64)row * pitch(width);
        for (u32 i = width; i < pitch(width); ++i) end[i] = 0;
    }
}

// to = from, or to += from if `accumulate`: rows of `cols` floats, `from` with `stride` floats from one to the next,
// `to` without gaps. Floor, in bytes of device memory per element: 4 where `from` is in the L2 cache, 8 if it adds.
KERNEL(256, close_rows, const float* from, float* to, u32 rows, u32 cols, u32 stride, u32 accumulate) {
    const u32 i = block_x() * 256 + thread();
    if (i < rows * cols) {
        const float x = from[(u64)(i / cols) * stride + i % cols];
        to[i] = accumulate ? to[i] + x : x;
    }
}
