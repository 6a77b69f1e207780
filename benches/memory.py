#!/usr/bin/env python3
"""Prints the README's table of planned memory: bytes on a GPU by model, batch and mode, from `tetrad plan --json`.

    benches/memory.py target/release/tetrad [--set KEY=VALUE ...]
"""
import json
import subprocess
import sys

SHAPES = [(1, 256), (16, 256), (8, 512)]
HERE = ["offload.weights=device", "offload.optimizer=device"]
MODES = [
    ("none", ["run.activation_checkpointing=none", *HERE]),
    ("block", ["run.activation_checkpointing=block", *HERE]),
    ("block-int4", ["run.activation_checkpointing=block-int4", *HERE]),
    ("state in host memory", ["run.activation_checkpointing=block-int4", "offload.weights=device", "offload.optimizer=host"]),
    ("weights too", ["run.activation_checkpointing=block-int4", "offload.weights=host", "offload.optimizer=host"]),
]


def planned(program, model, batch, sequence, settings):
    """Bytes on the device and in host memory."""
    shape = [f"train.batch={batch}", f"train.sequence={sequence}", f"model.context={sequence}"]
    # Sequences one by one, where that is what leaves least on the device.
    best = None
    for micro in {batch, max(batch // 4, 1), 1}:
        for gradient in ["block", "tensor"]:
            sets = [*shape, f"train.micro_batch={micro}", f"run.grad_buffer={gradient}", *settings]
            args = [word for key in sets for word in ("--set", key)]
            told = subprocess.run(
                [program, "plan", model, "--device", "cuda", "--json", *args], check=True, capture_output=True
            )
            places = json.loads(told.stdout)["places"]
            found = (places["device"], places.get("host", 0), micro, gradient)
            best = min(best, found) if best else found
    return best


def size(count):
    """MiB below one GiB, GiB above."""
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"


def main():
    program, settings = sys.argv[1], [word for word in sys.argv[2:] if word != "--set"]
    print("| model | batch | " + " | ".join(name for name, _ in MODES) + " | host memory then |")
    print("| --- | --- |" + " --- |" * (len(MODES) + 1))
    for model in [f"{size}-compact" for size in ["60m", "130m", "350m", "1b", "3b", "7b"]]:
        for batch, sequence in SHAPES:
            found = [planned(program, model, batch, sequence, [*mode, *settings]) for _, mode in MODES]
            cells = [size(device) for device, *_ in found]
            print(f"| {model.removesuffix('-compact')} | {batch} x {sequence} | " + " | ".join(cells) + f" | {size(found[-1][1])} |", flush=True)


main()
