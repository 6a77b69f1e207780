#!/usr/bin/env bash
# A training step of tetrad and of PyTorch by turns, since the load of a shared machine changes from minute to minute: the
# quick-start, rung L of the ladder, and 60m with 4 x 256 tokens; float32 and bfloat16 of both, and tetrad in integers.
#
#     PYTHON=venv/bin/python benches/peers.sh [ROUNDS] [SHAPE...]        shapes: quickstart ladder_l preset_60m
#
# PYTHON has torch (2.9 was used) and a C++ compiler for torch.compile. Prints the median milliseconds of a step of each round,
# and the median ratios with their range: tetrad in float32, in bfloat16 and in integers to torch.compile in float32, and the
# latter two to PyTorch under autocast to bfloat16, compiled too.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5}
shift || true
[ $# -gt 0 ] || set -- quickstart ladder_l preset_60m
python=${PYTHON:-python3}
cargo bench -q -p tetrad-benches --bench step --no-run

torch() { # SHAPE [--bf16]
    local shape
    case $1 in
    quickstart) shape=() ;;
    ladder_l) shape=(--hidden 384 --intermediate 1024 --layers 6 --heads 12 --vocab 4096 --batch 16 --sequence 256) ;;
    preset_60m) shape=(--hidden 512 --intermediate 1376 --layers 8 --heads 8 --vocab 32000 --batch 4 --sequence 256) ;;
    esac
    [ "$1" = quickstart ] || shape+=(--steps 12 --warmup 3)
    "$python" benches/quickstart_torch.py "${shape[@]}" "${@:2}" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["compiled_ms"])'
}

tetrad() { # BENCHMARK
    cargo bench -q -p tetrad-benches --bench step -- "\b$1\b" 2>/dev/null | python3 -c '
import re, sys
row = next(line for line in sys.stdin if sys.argv[1] in line)
cells = [float(value) * {"ms": 1, "s": 1e3}[unit] for value, unit in re.findall(r"([\d.]+) (ms|s)\b", row)]
print(cells[2])' "$1"
}

for shape; do
    for _ in $(seq "$rounds"); do
        echo "$shape $(tetrad "${shape}_int4") $(tetrad "${shape}_bf16") $(tetrad "${shape}_int8") $(torch "$shape") \
            $(torch "$shape" --bf16)"
    done
done | python3 -c '
import statistics, sys
rows = []
for line in sys.stdin:
    print(line, end="", flush=True)
    rows.append(line.split())
for shape in dict.fromkeys(row[0] for row in rows):
    times = [list(map(float, row[1:])) for row in rows if row[0] == shape]
    for what, a, b in [("float32 to torch.compile", 0, 3), ("bf16 to torch.compile", 1, 3), ("bf16 to autocast, compiled", 1, 4),
                       ("integers to torch.compile", 2, 3), ("integers to autocast, compiled", 2, 4)]:
        ratios = [time[a] / time[b] for time in times]
        print(f"{shape}: {what}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")'
