// Panels of a weight as bfloat16, for products of many tokens.
//
// Floor: what is read of the panel (half a byte and 2 / G an element of INT4) and 2 bytes written, which stay in the
// second-level cache: about 2.5 bytes an element.

#include "weights.h"

// Rows and runs of a panel, and of how many elements its rows are in the output: a multiple of eight.
struct Panel {
    u32 row;
    u32 run;
    u32 runs_per_row;
    u32 runs;
    u32 pitch;
    u32 cols;
};

// `out[r][c] = w[row + r][32 run + c]`, c < cols; the rest of a row's pitch is set to zero.
KERNEL(128, dequantize, Weight w, Shape shape, Panel panel, bf16* out) {
    SHARED(u8, tiles, 4 * Tile<float>::BYTES);
    SHARED(u8, outputs, 4 * Tile<bf16>::BYTES);
    const u32 i = block_x() * 128 + thread();
    const u32 r = i / panel.runs_per_row, in_row = i - r * panel.runs_per_row;
    const bool live = i < panel.runs;
    Run run = run_of(shape, live ? (panel.row + r) * shape.runs_per_row + panel.run + in_row : shape.runs);
    float x[RUN];
    // Runs of a panel that is not the whole width do not follow each other.
    Shape apart = shape;
    apart.dense = 0;
    read_runs(w, apart, run, read_tiles(tiles + warp() * Tile<float>::BYTES), x);
    UNROLL
    for (u32 k = 0; k < RUN; ++k) x[k] = k < run.real ? x[k] : 0.0f;
    const Tile<bf16> tile = {(bf16*)(outputs + warp() * Tile<bf16>::BYTES)};
    write_row(tile, x);
    // The panel's own rows.
    apart.cols = panel.pitch;
    run.plain = (u64)r * panel.pitch + in_row * RUN;
    run.real = live && in_row * RUN < panel.pitch ? min_(RUN, panel.pitch - in_row * RUN) : 0;
    flush(tile, out, apart, run);
}
