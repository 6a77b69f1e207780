#!/usr/bin/env bash
# The tables of format-spec/RATIONALE.md: what four bits, compact moments and packed tables cost. Trains the quick-start with every kind of storage, the
# same data and steps, three seeds each, and prints mean and spread of the final validation loss as Markdown.
#
#   benches/quality.sh [OUT_DIR]        two runs at a time, one thread each; finished runs are not repeated
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/quality}
cargo build --release --quiet
tetrad=${CARGO_TARGET_DIR:-target}/release/tetrad
mkdir -p "$out"

float="storage.embedding=f32 storage.head=f32 storage.m=f32 storage.v=f32"
# name | overrides
runs=$(cat <<EOF
f32, Adam|storage.weights=f32 $float optimizer.name=adam
f32, Stable-SPAM|storage.weights=f32 $float
int4-simulated-rows over f32, asymmetric, f32 state|storage.weights=int4-simulated-rows storage.scheme=asymmetric storage.m=f32 storage.v=f32
int4-simulated-rows over f32, symmetric, f32 state|storage.weights=int4-simulated-rows storage.m=f32 storage.v=f32
packed codes + residue, f32 state|storage.m=f32 storage.v=f32
packed codes + residue, f32 state, feedback|storage.m=f32 storage.v=f32 storage.feedback=true
packed codes + residue, int8 state|storage.m=int8 storage.v=int8
packed codes + residue, int8 state, feedback|storage.m=int8 storage.v=int8 storage.feedback=true
packed codes + residue, int4 state|storage.m=int4
packed codes + residue, int4 state, feedback|storage.m=int4 storage.feedback=true
packed codes only, int4 state|storage.residue=false
int4 m, int8 v|storage.v=int8
int4 m, factored v|storage.v=factored
int4 m, one v per row|storage.v=row
embedding int8, head int8|storage.embedding=int8 storage.head=int8
embedding int4, head int4|storage.embedding=int4 storage.head=int4
embedding int8, head bf16|storage.embedding=int8
embedding bf16, head int8|storage.head=int8
embedding int4, head bf16|storage.embedding=int4
embedding bf16, head int4|storage.head=int4
sparse embedding|optimizer.embedding=sparse
EOF
)

one() { # name overrides seed
    local dir
    dir="$out/$(printf '%s' "$1" | tr -c 'a-z0-9A-Z\n' '-')-seed$3"
    [ -e "$dir/model.tetrad" ] && return
    local sets=(--set "run.dir=$dir" --set "run.seed=$3" --set run.threads=1 --set train.eval_every=0
        --set train.checkpoint_every=0 --set train.sample_tokens=0 --set train.keep=1)
    for set in $2; do sets+=(--set "$set"); done
    "$tetrad" train --overwrite "${sets[@]}" > "$dir.log" 2>&1 || { echo "failed: $1, seed $3: see $dir.log" >&2; exit 1; }
}
export -f one
export out tetrad

while IFS='|' read -r name overrides; do
    for seed in 1 2 3; do printf '%s\0%s\0%s\0' "$name" "$overrides" "$seed"; done
done <<< "$runs" | xargs -0 -n 3 -P 2 bash -c 'one "$@"' one

echo "| storage | mean | lowest | highest | seeds |"
echo "| --- | --- | --- | --- | --- |"
while IFS='|' read -r name _; do
    for seed in 1 2 3; do
        dir="$out/$(printf '%s' "$name" | tr -c 'a-z0-9A-Z\n' '-')-seed$seed"
        sed -n 's/.*"val_loss":\([0-9.]*\).*/\1/p' "$dir/metrics.jsonl" | tail -n 1
    done | awk -v name="$name" '{ sum += $1; if (NR == 1 || $1 < low) low = $1; if ($1 > high) high = $1 }
        END { printf "| %s | %.4f | %.4f | %.4f | %d |\n", name, sum / NR, low, high, NR }'
done <<< "$runs"
