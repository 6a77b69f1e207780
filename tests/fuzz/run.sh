#!/usr/bin/env bash
# Fuzzes the readers, SECONDS each (60): tests/fuzz/run.sh [SECONDS [READER...]]
#
# Not built since it was rewritten (29 November 2026). The counts in SECURITY.md are those of the other fuzzer alone,
# `cargo run --release --example fuzz`.
#
# Meant for the stable toolchain and a C++ compiler; on nightly (RUSTUP_TOOLCHAIN=nightly) the address sanitizer joins.
# What is found beyond the readers' corpora is kept under the target directory, what breaks a reader in tests/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")"
seconds="${1:-60}"
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- tetrad gguf safetensors tokenizer sentencepiece tokenizer-config template jsonl csv peft adapter-gguf config
target="${CARGO_TARGET_DIR:-../../target}/fuzz"
# The very versions that the program is built with; what fuzzing needs beside them is added to the copy.
cp ../../Cargo.lock Cargo.lock
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-pc-table"
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-trace-compares"
flags="$flags -Cdebug-assertions -Coverflow-checks --cfg fuzzing"
if cargo --version | grep -q nightly; then
    flags="$flags -Zsanitizer=address"
fi
# With --target, build scripts and macros are not instrumented.
host="$(rustc -vV | sed -n 's/^host: //p')"
RUSTFLAGS="$flags" CARGO_TARGET_DIR="$target" cargo build --release --target "$host"
for reader; do
    export TETRAD_FUZZ_READER="$reader"
    mkdir -p "$target/corpus/$reader" "$target/begin/$reader" "artifacts/$reader"
    TETRAD_FUZZ_CORPUS="$target/begin/$reader" "$target/$host/release/reader"
    "$target/$host/release/reader" -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=1024 \
        -print_final_stats=1 -artifact_prefix="artifacts/$reader/" "$target/corpus/$reader" "$target/begin/$reader"
done
