// The sums of another rank, added to this rank's, as the host would: a single addition each. In bfloat16 they were
// rounded before they were sent, and are added in float32.
//
// Floors: 12 bytes an element that is added (10 in bfloat16: two reads and a write), 6 of one that is rounded.
#include "gpu.h"

KERNEL(256, add_received, const float* received, float* sums, u64 count) {
    const u64 i = (u64)block_x() * threads() + thread();
    if (i < count) sums[i] = sums[i] + received[i];
}

KERNEL(256, add_received_bf16, const bf16* received, float* sums, u64 count) {
    const u64 i = (u64)block_x() * threads() + thread();
    if (i < count) sums[i] = sums[i] + to_float(received[i]);
}

KERNEL(256, round_sums, const float* sums, bf16* out, u64 count) {
    const u64 i = (u64)block_x() * threads() + thread();
    if (i < count) out[i] = to_bf16(sums[i]);
}
