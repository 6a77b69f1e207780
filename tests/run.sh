#!/usr/bin/env bash
# All tests of the workspace by one command; arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/setup.sh
# With what is optional too: Parquet's reader needs a C compiler, as the emulated GPU does.
exec cargo test --workspace --all-features "$@"
