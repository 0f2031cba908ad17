#!/usr/bin/env bash
# Everything that has to hold before a change lands: format, lints, all tests of the workspace, documentation, the Python client's
# tests, the simulation (regression seeds and fresh ones), the model checker, and chaos on the binaries that the tests were built with,
# all bounded.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/toolchain.sh
need_toolchain fmt clippy

step() {
    local started=$SECONDS name=$1
    shift
    say "== $name: $*"
    "$@" || fail "$name failed"
    say "== $name: fine after $((SECONDS - started)) s"
}

step format cargo fmt --all --check
step lints cargo clippy --workspace --all-targets --locked -- -D warnings
step tests cargo test --workspace --locked
RUSTDOCFLAGS="-D warnings" step documentation cargo doc --workspace --no-deps --locked
step python scripts/test-python.sh
step simulation scripts/simulate.sh --seeds 3
step migrations scripts/simulate.sh --table --every 6 --from "$(date +%s)"
step model scripts/simulate.sh --model
step chaos scripts/chaos.sh --built "${CARGO_TARGET_DIR:-target}/debug" --seconds 15
say "all fine after $SECONDS s"
