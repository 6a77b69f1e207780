#!/usr/bin/env python3
"""The table of docs/optimizers.md: gigabytes (10^9) of weights with residue plus optimizer state, by rule and preset.

benches/rule_memory.py TETRAD [--set KEY=VALUE]...

Every figure is what `tetrad plan` says; a combination that it refuses is a dash.
"""
import json
import subprocess
import sys

SIZES = ["60m", "130m", "350m", "1b", "3b", "7b"]
RULES = ["stable-spam", "adamw", "adam-mini", "lion", "muon", "galore", "fira", "apollo", "adafactor", "apollo-mini",
         "scale", "sgd"]


def planned(tetrad, rule, size, more):
    own = ["--set", "optimizer.momentum=0"] if rule == "sgd" else []
    command = [tetrad, "plan", size, "--device", "cpu", "--json", "--set", f"optimizer.name={rule}", *own, *more]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr.strip(), file=sys.stderr)
        return "-"
    bytes_of = json.loads(done.stdout)["categories"]
    weights = bytes_of.get("weights", 0) + bytes_of.get("residue", 0)
    return f"{weights / 1e9:.3f} + {bytes_of.get('state', 0) / 1e9:.3f}"


tetrad, more = sys.argv[1], sys.argv[2:]
print("| rule | " + " | ".join(SIZES) + " |")
print("| --- |" + " --- |" * len(SIZES))
for rule in RULES:
    print(f"| `{rule}` | " + " | ".join(planned(tetrad, rule, size, more) for size in SIZES) + " |")
