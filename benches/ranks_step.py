#!/usr/bin/env python3
"""What ranks cost on one machine: two ranks of one thread beside one process of two threads, by turns.

benches/ranks_step.py TETRAD MPIRUN... [--rounds 5] [--config quickstart] [--settings train.steps=40 ...]
    e.g. benches/ranks_step.py target/release/tetrad target/mpi/*/bin/mpirun

A ratio is that of tokens in a second, of the medians of the steps after the first five: median, least and most over the rounds;
beside it how long the slowest rank was waited for in a step. Nothing else may run meanwhile. A rank that waits uses its core, so two ranks on two cores are the most that
says anything here.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

WAYS = {
    "a chain": [],
    "sums of all at once": ["train.reproducible=false"],
    "sums of all, in bf16": ["train.reproducible=false", "train.reduce_dtype=bf16"],
}
FIRST = 5
ROOT = dict(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")


def rate(command, settings):
    """Tokens in a second, and seconds that the slowest rank was waited for in a step."""
    with tempfile.TemporaryDirectory() as folder:
        sets = [*settings, f"run.dir={folder}/run", "train.eval_every=0", "train.checkpoint_every=0", "train.audit_every=0"]
        args = [*command, "--device", "cpu", *(word for setting in sets for word in ("--set", setting))]
        subprocess.run(args, check=True, capture_output=True, env={**os.environ, **ROOT})
        lines = map(json.loads, pathlib.Path(folder, "run/metrics.jsonl").read_text().splitlines())
        steps = [line for line in lines if line.get("tokens_per_s")][FIRST:]
        tokens = statistics.median(step["tokens_per_s"] for step in steps)
        waits = [step["rank_wait_seconds"] for step in steps if step.get("rank_wait_seconds") is not None]
        return tokens, statistics.median(waits) if waits else 0.0


parser = argparse.ArgumentParser(usage=__doc__)
parser.add_argument("tetrad")
parser.add_argument("mpirun", nargs="+")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--config", default="quickstart")
parser.add_argument("--settings", nargs="*", default=["train.steps=40"])
asked = parser.parse_args()
train = [str(pathlib.Path(asked.tetrad).resolve()), "train", asked.config]
found = {}
for number in range(asked.rounds):
    alone, _ = rate(train, [*asked.settings, "run.threads=2"])
    for mpirun in asked.mpirun:
        launcher = pathlib.Path(mpirun).resolve().parent.parent.name
        for way, more in WAYS.items():
            bind = ["--bind-to", "none"] if "openmpi" in launcher else []
            tokens, waits = rate([mpirun, "-n", "2", *bind, *train], [*asked.settings, *more, "run.threads=1"])
            found.setdefault((launcher, way), []).append((tokens / alone, waits))
    print(f"round {number + 1}: one process {alone:.0f} tokens/s", flush=True)
print(f"{asked.config} {' '.join(asked.settings)}: tokens/s of 2 ranks x 1 thread over those of 1 process x 2 threads")
for (launcher, way), rounds in found.items():
    ratios, waits = [ratio for ratio, _ in rounds], [wait for _, wait in rounds]
    print(f"| {launcher} | {way} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
          f"| {statistics.median(waits) * 1e3:.1f} ms |")
