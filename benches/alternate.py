#!/usr/bin/env python3
"""Two benchmarks of one bench program by turns, since the load of a shared machine changes from minute to minute: for each
argument the median ratio of their medians, and the fastest of each.

benches/alternate.py BENCH FIRST SECOND [REPEATS]        e.g. benches/alternate.py products forward forward_int8

Build it first: cargo bench -p tetrad-benches --bench BENCH --no-run
"""
import re
import statistics
import subprocess
import sys

bench, names, repeats = sys.argv[1], sys.argv[2:4], int(sys.argv[4]) if len(sys.argv) > 4 else 9
UNITS = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
ROW = re.compile(r"([^\s│├╰─].*?)\s{2,}([\d.]+) (ns|µs|ms|s)\s+│\s+[\d.]+ \S+\s+│\s+([\d.]+) (ns|µs|ms|s)\s+│")


def measure(name):
    """Fastest and median seconds by argument."""
    command = ["cargo", "bench", "-q", "-p", "tetrad-benches", "--bench", bench, "--", rf"\b{name}\b", "--sample-count", "15"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = (ROW.search(line) for line in done.stdout.splitlines())
    found = {row[1]: (float(row[2]) * UNITS[row[3]], float(row[4]) * UNITS[row[5]]) for row in rows if row}
    assert found, done.stdout
    return found


runs = [[measure(name) for name in names] for _ in range(repeats)]
print(f"{bench}, {repeats} pairs: {names[0]} / {names[1]}")
for argument in runs[0][0]:
    ratios = [first[argument][1] / second[argument][1] for first, second in runs]
    least = [min(run[i][argument][0] for run in runs) for i in (0, 1)]
    print(f"{argument}: median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
          f"fastest {least[0] * 1e3:.3f} and {least[1] * 1e3:.3f} ms")
