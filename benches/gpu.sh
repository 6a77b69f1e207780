#!/usr/bin/env bash
# The checks and the measurements of a machine with an NVIDIA GPU, in one command; writes one Markdown report.
#
#   benches/gpu.sh build    where Rust is: builds tests and benchmark, stripped, into target/gpu
#   benches/gpu.sh          where the GPU is: needs this folder and the driver, NVRTC and cuBLASLt; builds if it must
#
# OUT: where the report and the logs go (default: benches/reports). PARTS: kernels, steps, memory (default: all).
set -euo pipefail
cd "$(dirname "$0")/.."
built=target/gpu
# Modules of tests/cuda that a real device is held to.
tests=(rows linear optimizer rules attention device instructions training)

build() {
    mkdir -p "$built"
    # Paths of the executables, as cargo tells them.
    paths() { python3 -c 'import json,sys
for line in sys.stdin:
    m = json.loads(line)
    if m.get("executable"): print(m["target"]["name"], m["executable"])'; }
    cargo test --no-run --test cuda --message-format=json | paths | while read -r name path; do
        strip -o "$built/$name" "$path"
    done
    cargo bench --no-run --bench gpu --message-format=json | paths | while read -r _ path; do
        strip -o "$built/gpu" "$path"
    done
    cargo build --release
    strip -o "$built/tetrad" "${CARGO_TARGET_DIR:-target}/release/tetrad"
    du -sh "$built"
}

if [ "${1:-}" = build ]; then build; exit; fi
[ -x "$built/gpu" ] || build

out=${OUT:-benches/reports}
mkdir -p "$out"
device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -1)
report="$out/$(date +%Y-%m-%d)-$(echo "$device" | tr -cs 'A-Za-z0-9\n' '-').md"
export TETRAD_REQUIRE_CUDA=1
failed=0
{
    echo "# $device"
    echo
    echo "$(date +%Y-%m-%d), driver $driver, commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)."
    echo
    echo "## Checks against the CPU backend"
    echo
    for test in "${tests[@]}"; do
        if "$built/cuda" "$test::" --test-threads=1 >"$out/$test.log" 2>&1; then
            echo "- $test: $(grep -o '[0-9]* passed' "$out/$test.log")"
        else
            echo "- $test: FAILED, see $test.log"
            failed=1
        fi
    done
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -1 || true)
    if [ -n "$sanitizer" ]; then
        for tool in memcheck racecheck; do
            if "$sanitizer" --tool "$tool" --error-exitcode 9 "$built/cuda" --test-threads=1 training::steps_are \
                >"$out/$tool.log" 2>&1; then
                echo "- compute-sanitizer $tool, three training steps: nothing found"
            else
                echo "- compute-sanitizer $tool: FAILED, see $tool.log"
                failed=1
            fi
        done
    else
        echo "- compute-sanitizer is not installed: not run"
    fi
    echo
} >"$report"
# shellcheck disable=SC2086
"$built/gpu" ${PARTS:-} >>"$report" 2>"$out/gpu.log" || { echo "The benchmark failed, see gpu.log." >>"$report"; failed=1; }
cat "$report"
exit "$failed"
