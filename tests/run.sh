#!/usr/bin/env bash
# All tests of the workspace by one command; arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/setup.sh
exec cargo test --workspace "$@"
