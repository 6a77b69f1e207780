// y[T, O] = x[T, I] w[O, I]^T for up to eight tokens: sampling. One warp per output; the weight is read once, sixteen
// bytes (32 weights) per lane at a time, and used for all tokens in registers.
// Floor: the bytes of codes and scales, 0.52 per weight in groups of 128.
#include "codecs.h"

template <class Codec, int TOKENS>
DEVICE void output(const WeightPlanes& w, const bf16* x, bf16* y, u32 tokens, u32 inputs, u32 outputs, u32 width,
                   u32 accumulate) {
    const u32 row = block_x() * 8 + warp();
    if (row < outputs) {
        float sums[TOKENS] = {};
        for (u32 col = lane() * 32; col < inputs; col += 1024) {
            const u64 at = (u64)row * width + col;
            const Bits16 block = load_16(w.data + at / 2);
            const auto group = Codec::group(w, at);
            UNROLL
            for (u32 part = 0; part < 4; ++part) {
                const u32 from = col + part * 8;
                if (from < inputs) {
                    const Bits8 bytes = {{block.x[part % 2 * 2], block.x[part % 2 * 2 + 1]}};
                    const Eight weights = decode_nibbles(bytes, part >= 2, group);
                    UNROLL
                    for (u32 t = 0; t < TOKENS; ++t) {
                        if (t < tokens) {
                            const Eight v = load_eight(x + (u64)t * pitch(inputs) + from, in_row(from, inputs));
                            UNROLL
                            for (int i = 0; i < 8; ++i) sums[t] = fma_(weights.x[i], v.x[i], sums[t]);
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

#define SMALL_BATCH(name, Codec)                                                                                   \
    KERNEL(256, gemv_##name, const bf16* x, const u8* data, const u16* scales, const u16* offsets, bf16* y,        \
           u32 tokens, u32 inputs, u32 outputs, u32 width, u32 group_bits, u32 accumulate) {                       \
        output<Codec, 1>({data, scales, offsets, group_bits}, x, y, tokens, inputs, outputs, width, accumulate);   \
    }                                                                                                              \
    KERNEL(256, small_batch_##name, const bf16* x, const u8* data, const u16* scales, const u16* offsets, bf16* y, \
           u32 tokens, u32 inputs, u32 outputs, u32 width, u32 group_bits, u32 accumulate) {                       \
        output<Codec, 8>({data, scales, offsets, group_bits}, x, y, tokens, inputs, outputs, width, accumulate);   \
    }
FOUR_BIT_CODECS(SMALL_BATCH)
