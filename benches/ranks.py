#!/usr/bin/env python3
"""The tables of docs/ranks.md that say what more ranks than anyone here has would send and hold; a prediction, not a measurement.

benches/ranks.py TETRAD

Bytes of tetrad are those of `tetrad plan --ranks N`, other trainers' are counted: bytes per parameter that a rank sends in a
step, times (N - 1) / N, as rings and all-to-alls send them. Computing takes 6 operations per parameter and token. From the
tokens on that the second table names, sending takes no longer than computing; below it no overlap can hide it. Latency, skew
between ranks, activations and the engine's own buffers are left out.
"""
import json
import subprocess
import sys

GIB = 2**30
COMPACT = ["storage.group=128", "storage.embedding=int8", "storage.head=int8", "storage.v=factored", "model.tied=false"]
MODELS = {
    "7B": [],
    "13B": ["model.hidden=5120", "model.intermediate=13824", "model.layers=40", "model.heads=40", "model.kv_heads=40"],
    "70B": ["model.hidden=8192", "model.intermediate=28672", "model.layers=80", "model.heads=64", "model.kv_heads=8"],
}
RANKS = [8, 64]
# Floating-point operations in a second that training reaches, and bytes in a second from one rank to the next.
MACHINES = {
    "H100, 400 TFLOP/s, 50 GB/s": (400e12, 50e9),
    "RTX 4090, 80 TFLOP/s, 10 Gb/s": (80e12, 1.25e9),
    "CPU, 2 TFLOP/s, 1 Gb/s": (2e12, 0.125e9),
}
# Gradients out and in, weights gathered: bytes per parameter.
OTHERS = {
    "DDP, gradients in float32": 4 + 4,
    "DDP, ZeRO-1 and ZeRO-2 in bf16": 2 + 2,
    "ZeRO-3, FSDP in bf16": 2 + 2 + 2,
    "FSDP, gradients reduced in float32": 2 + 2 + 4,
}


def planned(tetrad, settings, ranks):
    """What `tetrad plan` says of so many ranks with a sequence each."""
    sets = [*COMPACT, *settings, f"train.batch={ranks}", "train.micro_batch=1", "train.sequence=4096", "model.context=4096",
            "run.activation_checkpointing=block-int4", "run.grad_buffer=tensor"]
    command = [tetrad, "plan", "7b", "--device", "cpu", "--json", "--ranks", str(ranks)]
    done = subprocess.run(command + [word for key in sets for word in ("--set", key)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip())
    plan = json.loads(done.stdout)
    # An untied model sends every gradient once; else this script counts it wrongly.
    assert plan["sent_bytes"] == 4 * plan["parameters"], plan["sent_bytes"]
    return plan


def sent(plan, ranks):
    """Bytes that the busiest rank sends in a step, by scheme."""
    part, parameters = (ranks - 1) / ranks, plan["parameters"]
    # The chain from rank to rank; the last rank deals gradients out instead. Then the weights that updates change.
    rows = {"tetrad": plan["sent_bytes"] + plan["shared_bytes"] * part}
    for gradient, name in [(4, "tetrad, reproducible = false"), (2, "the same, gradients in bf16")]:
        rows[name] = (gradient * parameters + plan["shared_bytes"]) * part
    rows.update({name: per * parameters * part for name, per in OTHERS.items()})
    return rows


def held(plan, ranks):
    """Bytes of weights, gradients and state on a rank, by scheme."""
    parameters, of = plan["parameters"], plan["categories"]
    return {
        "tetrad": of["weights"] + of["residue"] + of["state"] + of["gradient"],
        "DDP, mixed precision": 16 * parameters,
        "ZeRO-1": 4 * parameters + 12 * parameters / ranks,
        "ZeRO-3, FSDP": 16 * parameters / ranks,
    }


def table(heading, rows):
    print("\n| " + " | ".join(heading) + " |\n|" + " --- |" * len(heading))
    for row in rows:
        print("| " + " | ".join(row) + " |")


tetrad = sys.argv[1]
cases = [(name, ranks) for name in MODELS for ranks in RANKS]
plans = {(name, ranks): planned(tetrad, MODELS[name], ranks) for name, ranks in cases}
heading = [f"{name} on {ranks}" for name, ranks in cases]

volumes = {case: sent(plans[case], case[1]) for case in cases}
schemes = list(volumes[cases[0]])
print("Sent by a rank in a step, 10^9 bytes:")
table(["", *heading], [[scheme, *(f"{volumes[case][scheme] / 1e9:.1f}" for case in cases)] for scheme in schemes])

print("\nTokens of a rank in a step from which sending takes no longer than computing (7B on 64):")
case = ("7B", 64)
tokens = lambda scheme, machine: volumes[case][scheme] / machine[1] * machine[0] / (6 * plans[case]["parameters"])
table(["", *MACHINES], [[scheme, *(f"{tokens(scheme, machine):,.0f}".replace(",", " ") for machine in MACHINES.values())]
                        for scheme in schemes])

memories = {case: held(plans[case], case[1]) for case in cases}
print("\nHeld by a rank without activations, GiB:")
table(["", *heading], [[scheme, *(f"{memories[case][scheme] / GIB:.1f}" for case in cases)] for scheme in memories[case]])
