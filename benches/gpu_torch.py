#!/usr/bin/env python3
"""A training step of a preset in PyTorch on a GPU: bf16, torch.compile, fused AdamW; what `benches/gpu.sh` reports beside
its own figures.

    python3 benches/gpu_torch.py --preset 1b --tokens 16384

Prints one Markdown row: preset, tokens, milliseconds (median), tokens per second, peak memory by PyTorch's allocator and
by the driver.
"""
import argparse
import statistics
import time
from types import SimpleNamespace

import torch

from quickstart_torch import Llama

# hidden, intermediate, heads, layers: as in src/config/presets.rs.
PRESETS = {
    "60m": (512, 1376, 8, 8),
    "130m": (768, 2048, 12, 12),
    "350m": (1024, 2736, 16, 24),
    "1b": (2048, 5461, 32, 24),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="1b", choices=PRESETS)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--intermediate", type=int, help="of the SwiGLU block, in place of the preset's")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    hidden, intermediate, heads, layers = PRESETS[args.preset]
    intermediate = args.intermediate or intermediate
    shape = SimpleNamespace(
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=heads,
        layers=layers,
        vocab=32000,
        sequence=args.sequence,
    )
    device = torch.device("cuda")
    free_before, total = torch.cuda.mem_get_info()
    model = Llama(shape).to(device=device, dtype=torch.bfloat16)
    forward = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batch = args.tokens // args.sequence
    text = torch.randint(shape.vocab, (batch, args.sequence + 1), device=device)
    times = []
    for step in range(5 + args.steps):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        forward(text[:, :-1], text[:, 1:]).backward()
        optimizer.step()
        torch.cuda.synchronize()
        if step >= 5:
            times.append(time.perf_counter() - begun)
    seconds = statistics.median(times)
    mib = 1 << 20
    peak = torch.cuda.max_memory_allocated() / mib
    used = (free_before - torch.cuda.mem_get_info()[0]) / mib
    print(
        f"| PyTorch {torch.__version__}, {args.preset}, {intermediate} | {args.tokens} | {1e3 * seconds:.1f} "
        f"| {args.tokens / seconds:.0f} | {peak:.0f} MiB | {used:.0f} MiB |"
    )


if __name__ == "__main__":
    main()
