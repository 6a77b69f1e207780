// The sums of another rank, added to this rank's: the same single addition as on the host.
//
// Floor: two reads and one write of each sum (12 bytes an element).
#include "gpu.h"

KERNEL(256, add_received, const float* received, float* sums, u64 count) {
    const u64 i = (u64)block_x() * threads() + thread();
    if (i < count) sums[i] = sums[i] + received[i];
}
