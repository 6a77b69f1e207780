#!/usr/bin/env python3
"""Prints what merging keeps of a light and of a heavy adapter of the quick-start, as a table for docs/merging.md.

    benches/quality/merge.py target/release/tetrad TEXT FOLDER

The quick-start is trained for 400 steps. Two adapters of rank 8 are trained on the first nine tenths of TEXT: 80 steps at a
rate of 3e-4, 300 at 2e-3. Each is merged in every way, and measured on the last tenth: with --text on every second window,
which feeds no errors. A fixed seed makes the figures those of the script; another seed gives others.
"""
import json
import pathlib
import subprocess
import sys

tetrad, text, folder = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
ADAPTERS = {"light": (80, 3e-4), "heavy": (300, 2e-3)}


def run(*arguments, allowed=(0,)):
    done = subprocess.run([str(tetrad), *map(str, arguments)], cwd=folder, capture_output=True, text=True)
    if done.returncode not in allowed:
        raise SystemExit(f"{' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout


def sets(**keys):
    return [part for key, value in keys.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]


def loss(*arguments):
    return json.loads(run("eval", *arguments, "--text", "held.txt", "--sequence", 128, "--json"))["loss"]


def main():
    folder.mkdir(parents=True, exist_ok=True)
    words = text.read_text()
    cut = len(words) * 9 // 10
    (folder / "train.txt").write_text(words[:cut])
    (folder / "held.txt").write_text(words[cut:cut + 80_000])
    quiet = sets(train__sample_tokens=0, train__eval_every=0, train__checkpoint_every=0, train__keep=1)
    if not (folder / "base/model.tetrad").exists():
        run("train", "quickstart", *sets(train__steps=400, run__dir="base"), *quiet)
    base = loss("base/model.tetrad")
    print("| adapter | merged how | base | adapter | merged | kept | groups with new scales |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (steps, rate) in ADAPTERS.items():
        if not (folder / name / "adapter.tetrad").exists():
            run("train", "--from", "base/model.tetrad", "--adapter", "lora", *quiet,
                *sets(adapter__rank=8, adapter__alpha=16, optimizer__name="adamw", optimizer__lr=rate, train__steps=steps,
                      train__warmup=10, train__schedule="constant", train__batch=8, train__sequence=128,
                      data__train="['train.txt']", data__validation="['held.txt']", run__dir=name))
        adapter = f"{name}/adapter.tetrad"
        adapted = loss("base/model.tetrad", "--adapter", adapter)
        for into in ["f32", "int8", "int4"]:
            said = json.loads(run("merge", "base/model.tetrad", "--adapter", adapter, "--into", into, "--overwrite", "-o",
                                  "merged.tetrad", "--json"))
            row(name, f"`{into}`", base, adapted, loss("merged.tetrad"), said)
        said = json.loads(run("merge", "base/model.tetrad", "--adapter", adapter, "--into", "int4", "--overwrite", "-o",
                              "merged.tetrad", "--json", "--text", "held.txt", "--sequence", 128, allowed=(0, 3)))
        row(name, "`int4` with `--text`", said["base"], said["adapter"], said["merged_loss"], said)


def row(name, how, base, adapter, merged, said):
    kept = (base - merged) / (base - adapter)
    print(f"| {name} | {how} | {base:.4f} | {adapter:.4f} | {merged:.4f} | {kept:.1%} | {said['refitted']} of "
          f"{said['groups']} |", flush=True)


main()
