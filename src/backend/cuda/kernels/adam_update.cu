// The fused pass of the optimizer (adam_fused.h) for weights of four bits.
#include "adam_fused.h"

FOUR_BIT_CODECS(OPTIMIZER_UPDATE)

// The same where the launcher knows what is written here: symmetric codes with residue, moments in nibbles, rows of
// whole groups, no reset, no mask, no feedback, no decay, and constants that pass `plain`.
KERNEL_RESIDENT(128, 3, optimizer_update_nibbles, TABLE Members members, Storage storage, AdamArgs c,
                const u32* maxima, const GradStats* verdicts, UpdateStats* outcomes) {
    storage.plain = 1;
    storage.m = {NIBBLE, 7.0f, 8.0f, 0x08080808u};
    storage.v = {NIBBLE, 15.0f, 0.0f, 0};
    storage.grid.steps_per_scale = 16.0f;
    storage.grid.unit = 0.0625f;
    storage.grid.base = 136.0f;
    storage.grid.excess = 0.0f;
    storage.grid.max = 255.0f;
    c.density = 1.0f;
    c.reset_before = c.reset_after = 0;
    c.feedback = c.l2 = c.decay = 0.0f;
    c.post_decay = 1.0f;
    run<Int4Weight, true>(members, storage, c, maxima, verdicts, outcomes);
}
