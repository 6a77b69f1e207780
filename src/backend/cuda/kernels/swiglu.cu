// SwiGLU and its gradient, eight elements per thread.
// Floors, in bytes of device memory per element: forward 6 (gate, up in; out out), gradient 10 (gate, up, dout in;
// gate, up out).
#include "rows.h"

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp2_fast(-1.44269504f * x)); }

DEVICE float forward_one(float gate, float up) { return gate * sigmoid(gate) * up; }

DEVICE void backward_one(float& gate, float& up, float dout) {
    const float g = gate, s = sigmoid(g);
    gate = dout * up * s * (1.0f + g * (1.0f - s));
    up = dout * g * s;
}

// out = silu(gate) up
KERNEL(256, swiglu, const bf16* gate, const bf16* up, bf16* out, u64 count) {
    const u64 at = ((u64)block_x() * 256 + thread()) * 8;
    if (at + 8 <= count) {
        Eight g = load_eight(gate + at);
        const Eight u = load_eight(up + at);
        for (int j = 0; j < 8; ++j) g.x[j] = forward_one(g.x[j], u.x[j]);
        store_eight(out + at, g);
    } else {
        for (u64 i = at; i < count; ++i) out[i] = to_bf16(forward_one(to_float(gate[i]), to_float(up[i])));
    }
}

// gate and up become their gradients for dout.
KERNEL(256, swiglu_grad, bf16* gate, bf16* up, const bf16* dout, u64 count) {
    const u64 at = ((u64)block_x() * 256 + thread()) * 8;
    if (at + 8 <= count) {
        Eight g = load_eight(gate + at), u = load_eight(up + at);
        const Eight d = load_eight(dout + at);
        for (int j = 0; j < 8; ++j) backward_one(g.x[j], u.x[j], d.x[j]);
        store_eight(gate + at, g);
        store_eight(up + at, u);
    } else {
        for (u64 i = at; i < count; ++i) {
            float g = to_float(gate[i]), u = to_float(up[i]);
            backward_one(g, u, to_float(dout[i]));
            gate[i] = to_bf16(g);
            up[i] = to_bf16(u);
        }
    }
}
