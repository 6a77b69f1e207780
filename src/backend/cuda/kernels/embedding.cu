// Rows of a table by token, and their gradient.
//
// Floors: lookup 2 bytes out per element and what the table's kind takes in; gradient per element of dout 2 bytes in,
// and 8 per element of each row that occurred.
#include "codecs.h"

// One block per token; a token beyond the table gives what is not a number. `width`: elements from one row of the table
// to the next, padding included.
template <class Codec>
DEVICE void look_up(const WeightPlanes& table, const u32* tokens, bf16* out, u32 vocab, u32 cols, u32 width) {
    const u32 token = tokens[block_x()];
    bf16* row = out + (u64)block_x() * pitch(cols);
    for (u32 c = thread() * 8; c < cols; c += threads() * 8) {
        if (token < vocab) {
            store_eight(row + c, Codec::load(table, (u64)token * width + c, in_row(c, cols)));
        } else {
            store_16(row + c, {{~0u, ~0u, ~0u, ~0u}});
        }
    }
}

#define EMBEDDING(name, Codec)                                                                                     \
    KERNEL(256, embedding_##name, const u32* tokens, const u8* data, const u16* scales, const u16* offsets,        \
           bf16* out, u32 vocab, u32 cols, u32 width, u32 group_bits) {                                            \
        look_up<Codec>({data, scales, offsets, group_bits}, tokens, out, vocab, cols, width);                      \
    }
WEIGHT_CODECS(EMBEDDING)

constexpr u32 WARPS = 8;

// Whether `mine` is true in any thread of the block.
DEVICE bool any_of_block(bool mine) {
    SHARED(u32, votes, WARPS);
    const u32 vote = ballot(mine);
    sync_threads();
    if (lane() == 0) votes[warp()] = vote;
    sync_threads();
    u32 all = 0;
    for (u32 i = 0; i < WARPS; ++i) all |= votes[i];
    return all != 0;
}

// The numbers of the threads for which `mine` is true, in order, and how many there are.
DEVICE u32 list_of_block(bool mine, u32* list) {
    SHARED(u32, counts, WARPS);
    const u32 vote = ballot(mine);
    sync_threads();
    if (lane() == 0) counts[warp()] = count_ones(vote);
    sync_threads();
    u32 before = 0, all = 0;
    for (u32 i = 0; i < WARPS; ++i) {
        if (i < warp()) before += counts[i];
        all += counts[i];
    }
    if (mine) list[before + count_ones(vote & ((1u << lane()) - 1))] = thread();
    sync_threads();
    return all;
}

// grad[token] += dout[t] for all t of that token, in order: the block of its first occurrence does it. The others find
// an earlier one, mostly a near one, and stop. Comparing T tokens with at most T others costs T^2 / 64 loads of a warp:
// less than reading dout up to some ten thousand tokens. Sums in float atomics would differ from run to run.
KERNEL(256, embedding_grad, const u32* tokens, const bf16* dout, float* grad, u32 count, u32 vocab, u32 cols) {
    SHARED(u32, list, 256);
    const u32 first = block_x(), token = tokens[first];
    bool earlier = false;
    for (u32 end = first; end > 0 && !earlier; end -= min_(end, 256u)) {
        earlier = any_of_block(thread() < end && tokens[end - 1 - thread()] == token);
    }
    if (!earlier && token < vocab) {
        for (u32 from = first; from < count; from += 256) {
            const u32 mine = from + thread();
            const u32 found = list_of_block(mine < count && tokens[mine] == token, list);
            const bf16* rows = dout + (u64)from * pitch(cols);
            for (u32 c = thread(); found > 0 && c < cols; c += 256) {
                float* to = grad + (u64)token * cols + c;
                float sum = *to;
                u32 k = 0;
                // Loads of eight rows are under way at once.
                for (; k + 8 <= found; k += 8) {
                    float x[8];
                    UNROLL
                    for (int j = 0; j < 8; ++j) x[j] = to_float(rows[(u64)list[k + j] * pitch(cols) + c]);
                    UNROLL
                    for (int j = 0; j < 8; ++j) sum += x[j];
                }
                for (; k < found; ++k) sum += to_float(rows[(u64)list[k] * pitch(cols) + c]);
                *to = sum;
            }
        }
    }
}
