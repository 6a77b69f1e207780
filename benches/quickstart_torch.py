#!/usr/bin/env python3
"""The quick-start's training step in PyTorch: same shapes, AdamW, float32 or (`--bf16`) autocast to bfloat16; the figure
`tetrad` is compared with.

    python3 benches/quickstart_torch.py                    # needs torch (2.9 was used)
    python3 benches/quickstart_torch.py --corpus assets/corpus/austen.txt --train 1000

Prints one JSON line: the median time of a whole step (forward, backward, optimizer) in milliseconds, eager and with
torch.compile (null where no compiler is installed). With `--train N` it also trains N steps on the corpus, warm-up
and cosine as in the quick-start, and reports the loss on the last 5 % of it in nats per byte.
"""
import argparse
import json
import math
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, hidden, heads, kv_heads):
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, hidden // heads
        self.q = nn.Linear(hidden, hidden, bias=False)
        self.k = nn.Linear(hidden, kv_heads * self.size, bias=False)
        self.v = nn.Linear(hidden, kv_heads * self.size, bias=False)
        self.o = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x, cos, sin):
        batch, sequence, hidden = x.shape
        split = lambda y, heads: y.view(batch, sequence, heads, self.size).transpose(1, 2)
        q, k, v = split(self.q(x), self.heads), split(self.k(x), self.kv_heads), split(self.v(x), self.kv_heads)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        shared = self.heads != self.kv_heads
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shared)
        return self.o(y.transpose(1, 2).reshape(batch, sequence, hidden))


def rotate(x, cos, sin):
    """Rotary embedding, half-split: element i is paired with element i + size / 2."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


class Block(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.attention_norm = nn.RMSNorm(args.hidden, eps=1e-6)
        self.attention = Attention(args.hidden, args.heads, args.kv_heads or args.heads)
        self.mlp_norm = nn.RMSNorm(args.hidden, eps=1e-6)
        self.gate = nn.Linear(args.hidden, args.intermediate, bias=False)
        self.up = nn.Linear(args.hidden, args.intermediate, bias=False)
        self.down = nn.Linear(args.intermediate, args.hidden, bias=False)

    def forward(self, x, cos, sin):
        x = x + self.attention(self.attention_norm(x), cos, sin)
        y = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.embedding = nn.Embedding(args.vocab, args.hidden)
        self.blocks = nn.ModuleList(Block(args) for _ in range(args.layers))
        self.norm = nn.RMSNorm(args.hidden, eps=1e-6)
        self.head = nn.Linear(args.hidden, args.vocab, bias=False)
        size = args.hidden // args.heads
        rates = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
        angles = torch.outer(torch.arange(args.sequence, dtype=torch.float32), rates)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, inputs, targets):
        x = self.embedding(inputs)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def adamw(model, args):
    return torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.0, fused=True)


def step_ms(forward, model, args):
    """Median milliseconds of a training step on random tokens."""
    optimizer = adamw(model, args)
    inputs = torch.randint(args.vocab, (args.batch, args.sequence))
    targets = torch.randint(args.vocab, (args.batch, args.sequence))
    times = []
    for step in range(args.warmup + args.steps):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = forward(inputs, targets)
        loss.backward()
        optimizer.step()
        if step >= args.warmup:
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def trained_loss(model, args):
    """Loss on the held-out tail, nats per byte, after `args.train` steps on the rest of the corpus."""
    text = torch.frombuffer(bytearray(open(args.corpus, "rb").read()), dtype=torch.uint8).long()
    cut = len(text) - round(len(text) * 0.05)
    train, tail = text[:cut], text[cut:]
    optimizer = adamw(model, args)
    for step in range(args.train):
        warmup = max(1, args.train // 10)
        cosine = 0.55 + 0.45 * math.cos(math.pi * max(0, step - warmup) / max(1, args.train - warmup))
        optimizer.param_groups[0]["lr"] = args.lr * min((step + 1) / warmup, cosine)
        starts = torch.randint(len(train) - args.sequence - 1, (args.batch,)).tolist()
        windows = torch.stack([train[s : s + args.sequence + 1] for s in starts])
        optimizer.zero_grad(set_to_none=True)
        model(windows[:, :-1], windows[:, 1:]).backward()
        optimizer.step()
    count = (len(tail) - 1) // args.sequence
    inputs = tail[: count * args.sequence].view(count, args.sequence)
    targets = tail[1 : count * args.sequence + 1].view(count, args.sequence)
    with torch.no_grad():
        parts = zip(inputs.split(args.batch), targets.split(args.batch))
        return sum(model(i, t).item() * len(i) for i, t in parts) / count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape = dict(hidden=128, intermediate=344, layers=4, heads=4, kv_heads=0, vocab=256, batch=16, sequence=128)
    for name, default in (shape | dict(threads=2, steps=60, warmup=10, train=0)).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--lr", type=float, default=4e-3, help="default 4e-3")
    parser.add_argument("--corpus", help="a text for --train")
    parser.add_argument("--no-compile", action="store_true", help="time eager mode only")
    parser.add_argument("--bf16", action="store_true", help="time steps under autocast to bfloat16")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)

    model = Llama(args)
    report = {"torch": torch.__version__, "threads": args.threads, "steps": args.steps, "bf16": args.bf16}
    report |= {name: getattr(args, name) for name in shape}
    report["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    report["eager_ms"] = step_ms(model, model, args)
    report["compiled_ms"], report["compile_error"] = None, None
    if not args.no_compile:
        try:
            report["compiled_ms"] = step_ms(torch.compile(model), model, args)
        except Exception as error:  # a missing compiler is no reason to lose the eager figure
            report["compile_error"] = str(error).strip().splitlines()[0]
    best = min(ms for ms in (report["eager_ms"], report["compiled_ms"]) if ms)
    report["tokens_per_s"] = round(1e3 * args.batch * args.sequence / best)
    if args.train:
        torch.manual_seed(1)
        report["val_loss"] = trained_loss(Llama(args), args)
    print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in report.items()}))


if __name__ == "__main__":
    main()
