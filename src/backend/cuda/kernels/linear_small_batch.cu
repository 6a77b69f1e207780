// y[T, O] = x[T, I] w[O, I]^T for up to eight tokens: sampling. One warp per output; the weight is read once, sixteen
// bytes (32 weights) per lane at a time, and used for all tokens in registers.
// Floor: the bytes of codes and scales, 0.52 per weight in groups of 128.
#include "weights.h"

template <int TOKENS>
DEVICE void output(const bf16* x, const u8* codes, const u16* scales, const u16* offsets, bf16* y, u32 tokens,
                   u32 inputs, u32 outputs, u32 width, u32 group_bits, u32 accumulate) {
    const u32 row = block_x() * 8 + warp();
    if (row < outputs) {
        float sums[TOKENS] = {};
        for (u32 col = lane() * 32; col < inputs; col += 1024) {
            const u64 at = (u64)row * width + col;
            const Bits16 run = load_16(codes + at / 2);
            const Group of = group_of(scales, offsets, at >> group_bits);
            UNROLL
            for (u32 part = 0; part < 4; ++part) {
                const u32 from = col + part * 8;
                if (from < inputs) {
                    const Bits8 bytes = {{run.x[part % 2 * 2], run.x[part % 2 * 2 + 1]}};
                    const Eight w = int4_eight(bytes, part >= 2, of);
                    UNROLL
                    for (u32 t = 0; t < TOKENS; ++t) {
                        if (t < tokens) {
                            const Eight v = load_eight(x + (u64)t * pitch(inputs) + from, in_row(from, inputs));
                            UNROLL
                            for (int i = 0; i < 8; ++i) sums[t] = fma_(w.x[i], v.x[i], sums[t]);
                        }
                    }
                }
            }
        }
        UNROLL
        for (u32 t = 0; t < TOKENS; ++t) {
            const float sum = warp_sum(sums[t]);
            if (lane() == 0 && t < tokens) {
                bf16* to = y + (u64)t * pitch(outputs) + row;
                *to = to_bf16(accumulate ? to_float(*to) + sum : sum);
            }
        }
    }
}

KERNEL(256, gemv_int4, const bf16* x, const u8* codes, const u16* scales, const u16* offsets, bf16* y, u32 tokens,
       u32 inputs, u32 outputs, u32 width, u32 group_bits, u32 accumulate) {
    output<1>(x, codes, scales, offsets, y, tokens, inputs, outputs, width, group_bits, accumulate);
}

KERNEL(256, small_batch_int4, const bf16* x, const u8* codes, const u16* scales, const u16* offsets, bf16* y,
       u32 tokens, u32 inputs, u32 outputs, u32 width, u32 group_bits, u32 accumulate) {
    output<8>(x, codes, scales, offsets, y, tokens, inputs, outputs, width, group_bits, accumulate);
}
