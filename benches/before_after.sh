#!/usr/bin/env bash
# Compares two builds of a benchmark in alternating runs: benches/before_after.sh BEFORE AFTER FILTER [PAIRS].
#
# BEFORE and AFTER are the programs that `cargo bench --no-run` names (target/release/deps/step-...), each of its own
# checkout. Prints the median of each run in milliseconds and the ratio of each pair; nothing else may run meanwhile.
set -euo pipefail
before=$1 after=$2 filter=$3 pairs=${4:-6}
median() { # of the benchmark's own samples, in milliseconds
    "$1" --bench "$filter" 2>/dev/null | awk -F'│' '/ms|µs| s / && /[0-9]/ {
        split($3, part, " "); value = part[1]; unit = part[2]
        if (unit == "µs") value /= 1000; if (unit == "s") value *= 1000; print value; exit }'
}
median "$before" >/dev/null; median "$after" >/dev/null # warm caches and clocks
for i in $(seq "$pairs"); do
    if ((i % 2)); then b=$(median "$before"); a=$(median "$after"); else a=$(median "$after"); b=$(median "$before"); fi
    awk -v b="$b" -v a="$a" 'BEGIN { printf "before %.3f ms, after %.3f ms, ratio %.4f\n", b, a, a / b }'
done | tee /dev/stderr | awk '{ print $NF }' | sort -n | awk '{ r[NR] = $1 } END {
    m = NR % 2 ? r[(NR + 1) / 2] : (r[NR / 2] + r[NR / 2 + 1]) / 2
    printf "median ratio %.4f of %d pairs, %.4f to %.4f\n", m, NR, r[1], r[NR] }'
