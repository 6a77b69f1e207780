// The exact GELU and its gradient, an element per thread: its inputs are narrow. Floors, in bytes of device memory per
// element: 4 and 6.
#include "rows.h"

DEVICE float cumulative(float x) { return 0.5f * (1.0f + erf_(x * 0.70710678f)); }

KERNEL(256, gelu, const bf16* x, bf16* out, u64 count) {
    const u64 i = (u64)block_x() * 256 + thread();
    if (i < count) {
        const float value = to_float(x[i]);
        out[i] = to_bf16(value * cumulative(value));
    }
}

KERNEL(256, gelu_grad, const bf16* x, bf16* dout, u64 count) {
    const u64 i = (u64)block_x() * 256 + thread();
    if (i < count) {
        const float value = to_float(x[i]);
        const float slope = cumulative(value) + value * 0.39894228f * exp_(-0.5f * value * value);
        dout[i] = to_bf16(to_float(dout[i]) * slope);
    }
}
