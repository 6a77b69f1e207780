#!/usr/bin/env bash
# What a machine with an NVIDIA GPU is asked, in two calls of limited time. Each writes one Markdown report as it goes, part by
# part: a part that fails or takes too long leaves the others alone, and the exit status is 1 if there was one.
#
#   benches/gpu.sh build    where Rust is: builds tests, benchmark and program, stripped, into $BUILT
#   benches/gpu.sh a        where the GPU is, 430 s: first steps, exactness, all tests, kernels, steps, PyTorch, memory, a run
#   benches/gpu.sh b        the same, 200 s: profiler and sanitizers
#
# The machine needs this folder, the driver, NVRTC and cuBLASLt; what else is missing (PyTorch, ncu, compute-sanitizer) is said.
#
# OUT     where the report and one archive of logs go (benches/reports)
# BUILT   where `build` puts its programs (target/gpu)
# LIMIT   seconds of a call
# SMALL   1: every part with small shapes, to see that this script works (tests/cuda/script.rs)
set -uo pipefail
cd "$(dirname "$0")/.."
export BUILT=${BUILT:-target/gpu}
small=${SMALL:+small}

# Modules of tests/cuda that a real device is held to.
tests=(rows:: linear:: linear_grad_int8:: matmul:: optimizer:: rules:: attention:: device:: instructions:: training:: conformance:: quantizers::)
tests+=(bytes:: adapter:: clip:: audit:: together::)
# Of a run that is compared with the CPU's: its preset and settings, the steps on a GPU, and those on a CPU.
run=(60m --set train.batch=32 --set train.eval_every=0 --set train.checkpoint_every=0 --set train.sample_tokens=0)
steps=100 steps_on_cpu=5 life=20 torch=(--preset 1b --tokens 16384)
# Seconds for what is done beside the tests, whose end does not wait longer.
beside_tests=100
# What the sanitizers look at: whole steps, and kernels that are not cuBLASLt's.
checked=(training::steps_are) raced=(attention::heads optimizer::rows)
if [ -n "$small" ]; then
    tests=(device::products instructions::matrices)
    run=(quickstart --set train.batch=2 --set train.sequence=32 --set model.layers=1 --set train.eval_every=0)
    run+=(--set train.sample_tokens=0 --set train.eval_sequences=2)
    steps=4 steps_on_cpu=2 life=2 torch=(--preset 60m --tokens 512 --steps 1)
    beside_tests=3600
    checked=(instructions::matrices) raced=(instructions::matrices)
fi

build() {
    set -e
    mkdir -p "$BUILT"
    # Paths of the executables, as cargo tells them.
    paths() { python3 -c 'import json,sys
for line in sys.stdin:
    m = json.loads(line)
    if m.get("executable"): print(m["target"]["name"], m["executable"])'; }
    cargo test --no-run --test cuda --message-format=json | paths | while read -r name path; do
        [ "$name" != cuda ] || strip -o "$BUILT/cuda" "$path"
    done
    cargo bench --no-run --bench gpu --message-format=json | paths | while read -r name path; do
        [ "$name" != gpu ] || strip -o "$BUILT/gpu" "$path"
    done
    cargo build --release
    strip -o "$BUILT/tetrad" "${CARGO_TARGET_DIR:-target}/release/tetrad"
    git rev-parse --short HEAD >"$BUILT/commit"
    du -sh "$BUILT"
}

# --- Parts. Each is a process of its own, whose output goes to the report and whose errors go to a log. ---

machine() {
    echo '```'
    nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.memory,memory.total,memory.used --format=csv
    "$BUILT/tetrad" doctor
    local status=$?
    echo '```'
    return $status
}

# Losses of a run beside another's, by step; fails if the first differ by a thousandth, or any two by 3 % (what tests/cuda
# allows), or none is in both.
compare() {
    awk -v names="$2" '
        function value(key) {
            if (!match($0, "\"" key "\":[-+.0-9e]+")) return ""
            return substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3)
        }
        BEGIN { print "| step | " names " |"; print "| ---: | ---: | ---: |" }
        value("loss") == "" { next }
        FILENAME == ARGV[1] { first[value("step")] = value("loss"); next }
        { second[value("step")] = value("loss") }
        END {
            for (step = 1; step in first; step++) {
                if (step in second) {
                    off = first[step] / second[step] - 1
                    wrong += off != off || off > (step == 1 ? 0.001 : 0.03) || -off > (step == 1 ? 0.001 : 0.03)
                    both++
                }
                if (step <= 5 || step % 10 == 0)
                    printf "| %d | %.4f | %s |\n", step, first[step], step in second ? sprintf("%.4f", second[step]) : ""
            }
            if (wrong || !both) { print "\nThe losses are not those of the CPU."; exit 1 }
        }' "$1/metrics.jsonl" "$3/metrics.jsonl"
}

train() { # DEVICE FOLDER ARGUMENTS
    local device=$1 folder=$2
    shift 2
    ${within:+timeout --foreground "$within"} "$BUILT/tetrad" train "$@" --device "$device" --set run.dir="$work/$folder" --overwrite >"$logs/$folder.txt"
}

life() {
    local small_run=(quickstart --set train.steps="$life" --set train.warmup=1 --set train.sample_tokens=0)
    [ -z "$small" ] || small_run=("${run[@]}" --set train.steps="$life" --set train.warmup=1)
    train cuda life-cuda "${small_run[@]}" && train cpu life-cpu "${small_run[@]}" || return 1
    head -1 "$logs/life-cuda.txt"
    echo
    compare "$work/life-cuda" "GPU | CPU" "$work/life-cpu"
}

exact() { "$BUILT/cuda" exact:: --nocapture | grep 'correctly rounded$'; }

# All at once: they are small, and what takes long beside them needs no GPU. That is PyTorch's compiler, whose results are
# kept for `torch`, and the CPU's steps, which are kept for `curve`.
correctness() {
    local name failed=0 running=()
    for name in "${tests[@]}"; do
        "$BUILT/cuda" "$name" --test-threads=2 >"$logs/tests-${name//:/-}.log" 2>&1 &
        running+=("$!")
    done
    within=$beside_tests train cpu curve-cpu "${run[@]}" --set train.steps="$steps" --stop-at "$steps_on_cpu" \
        2>"$logs/curve-cpu.log" &
    local beside=("$!")
    if has_torch; then
        for width in 5461 5504; do
            timeout --foreground "$beside_tests" python3 benches/gpu_torch.py "${torch[@]}" --intermediate "$width" --steps 1 \
                >"$logs/torch-$width.log" 2>&1 &
            beside+=("$!")
        done
    fi
    for i in "${!tests[@]}"; do
        name=${tests[$i]}
        if wait "${running[$i]}" && grep -q '^test result: ok. [1-9]' "$logs/tests-${name//:/-}.log"; then
            echo "- ${name%::}: $(grep -o '[0-9]* passed' "$logs/tests-${name//:/-}.log")"
        else
            echo "- ${name%::}: FAILED"
            grep -a '^test .*FAILED$\|^thread .*panicked' "$logs/tests-${name//:/-}.log" | sed 's/^/    /' | head -20
            failed=1
        fi
    done
    # What of these fails shows where it is used.
    wait "${beside[@]}"
    return "$failed"
}

kernels() { "$BUILT/gpu" kernels $small; }
steps() { "$BUILT/gpu" steps $small; }
memory() { "$BUILT/gpu" memory $small; }

has_torch() { python3 -c 'import torch' 2>/dev/null; }

torch() {
    has_torch || { echo "PyTorch is not installed: not run." && return; }
    echo "| PyTorch | tokens per step | ms | tokens/s | peak of its allocator | peak of the driver |"
    echo "| --- | ---: | ---: | ---: | ---: | ---: |"
    local failed=0
    for width in 5461 5504; do
        python3 benches/gpu_torch.py "${torch[@]}" --intermediate "$width" || failed=1
    done
    return "$failed"
}

curve() {
    train cuda curve-cuda "${run[@]}" --set train.steps="$steps" || return 1
    compare "$work/curve-cuda" "GPU | CPU" "$work/curve-cpu" || return 1
    echo
    tail -3 "$logs/curve-cuda.txt"
}

# A tool of CUDA's, which need not be on the PATH.
tool() { command -v "$1" || ls /usr/local/cuda*/bin/"$1" /opt/nvidia/nsight-compute/*/"$1" 2>/dev/null | tail -1; }

profile() {
    local ncu
    ncu=$(tool ncu)
    [ -n "$ncu" ] || { echo "ncu is not installed: not run." && return; }
    "$ncu" --clock-control none --section SpeedOfLight --section Occupancy --section WarpStateStats \
        --section MemoryWorkloadAnalysis "$BUILT/gpu" profile $small >"$logs/ncu.txt" || return 1
    echo "| kernel | us | % of the multiprocessors | % of the memory | warps, % of the most |"
    echo "| --- | ---: | ---: | ---: | ---: |"
    awk '
        function row() { if (kernel) print "| " kernel " | " time " | " sm " | " dram " | " warps " |" }
        /Context [0-9]+, Stream [0-9]+/ { row(); kernel = $1; sub(/\(.*/, "", kernel); time = sm = dram = warps = "" }
        $1 == "Duration" { time = $2 == "ms" ? $3 * 1000 : $2 == "ns" ? $3 / 1000 : $3 }
        /^ *Compute \(SM\) Throughput/ { sm = $NF }
        /^ *Memory Throughput +%/ { dram = $NF }
        /^ *Achieved Occupancy/ { warps = $NF }
        END { row(); exit !kernel }' "$logs/ncu.txt"
}

sanitize() { # TOOL TESTS...
    local sanitizer tool=$1 name
    shift
    sanitizer=$(tool compute-sanitizer)
    [ -n "$sanitizer" ] || { echo "compute-sanitizer is not installed: not run." && return; }
    # cuBLASLt's kernels are NVIDIA's to check, and racecheck knows only a part of what they do.
    local others=()
    for name in nvjet cutlass gemm splitK cublas; do others+=(--kernel-name-exclude "kernel_substring=$name"); done
    "$sanitizer" --tool "$tool" --error-exitcode 9 "${others[@]}" "$BUILT/cuda" --test-threads=1 "$@" >"$logs/$tool.txt" 2>&1
    local status=$?
    case $status in
        0) echo "Nothing found: $*." ;;
        9) echo "FOUND:" && grep -a -m 20 '=========' "$logs/$tool.txt" | sed 's/^/    /' ;;
        *) echo "The tests or the tool failed with status $status." ;;
    esac
    return "$status"
}

memcheck() { sanitize memcheck "${checked[@]}"; }
racecheck() { sanitize racecheck "${raced[@]}"; }

# --- The calls. ---

say() { printf '%s\n' "$@" | tee -a "$report"; }

# Runs a part and appends what it prints. The logs are packed again each time: the call may be ended from outside.
part() { # NAME SECONDS HEADING
    local name=$1 most=$2 begun=$SECONDS left=$((limit - SECONDS)) status
    [ -z "$small" ] || most=$left
    ((most < left)) || most=$left
    say "## $3" ""
    if ((most < 1)); then
        say "NOT RUN: no time was left." ""
        failed+=("$name")
        return
    fi
    timeout -k 5 "$most" bash benches/gpu.sh part "$name" 2>"$logs/$name.log" | tee -a "$report"
    status=${PIPESTATUS[0]}
    case $status in
        0) say "" "($name: $((SECONDS - begun)) s)" "" ;;
        124 | 137) say "" "($name: ENDED after $most s)" "" && failed+=("$name") ;;
        *) say "" "($name: FAILED with status $status)" "" && failed+=("$name") && tail -5 "$logs/$name.log" | sed 's/^/    /' | tee -a "$report" ;;
    esac
    tar czf "$out/logs-$call.tar.gz" -C "$logs" .
}

call() {
    call=$1 limit=${LIMIT:-$2} out=${OUT:-benches/reports}
    failed=()
    work=$(mktemp -d)
    logs=$work/logs
    mkdir -p "$out" "$logs"
    export work logs TETRAD_REQUIRE_CUDA=1
    local device watch
    device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)
    report="$out/$(date +%Y-%m-%d)-$(printf %s "${device:-unknown}" | tr -cs 'A-Za-z0-9' '-')-$call.md"
    nvidia-smi dmon -s pucm -d 2 >"$logs/dmon.txt" 2>&1 &
    watch=$!
    trap 'kill "$watch" 2>/dev/null; rm -rf "$work"' EXIT
    : >"$report"
    say "# ${device:-No NVIDIA GPU}, call $call" "" "$(date +%Y-%m-%d), commit $(cat "$BUILT/commit" 2>/dev/null || git rev-parse --short HEAD)." ""
    "parts_$call"
    say "${#failed[@]} parts failed${failed[*]:+: ${failed[*]}}; $SECONDS s."
    ((${#failed[@]} == 0))
}

parts_a() {
    part machine 20 "Machine"
    part life 60 "First steps"
    part exact 20 "Roots and quotients of the update"
    part correctness 120 "Checks against the CPU backend"
    part kernels 90 "Kernels"
    part steps 90 "Training steps"
    part torch 80 "The 1b preset in PyTorch, with its width and with a multiple of 64"
    part memory 60 "Memory, as the driver reports it"
    part curve 60 "A run beside the CPU's"
}

parts_b() {
    part profile 70 "Kernels, by the profiler"
    part memcheck 60 "Memory accesses, by compute-sanitizer"
    part racecheck 60 "Shared memory, by compute-sanitizer"
}

case ${1:-} in
    build) build ;;
    a) call a 430 ;;
    b) call b 200 ;;
    part) "$2" ;;
    *) sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0" && exit 2 ;;
esac
