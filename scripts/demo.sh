#!/usr/bin/env bash
# A cluster end to end on real vectors: builds, starts 3 control nodes and 5 vector nodes on loopback, loads 1,797 digits, then
# joins, kills, migrates, drains and spreads a hot node's load under a client that never pauses. Exits with 1 if anything is
# lost, wrong, or failed outside the one gap that a killed primary costs. --keep leaves the cluster running and prints its URLs.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/toolchain.sh
. scripts/local-nodes.sh

asked_to_keep=""
case "${1-}" in
    "") ;;
    --keep) asked_to_keep=--keep ;;
    *) printf 'usage: scripts/demo.sh [--keep]\n'; [ "$1" = --help ] && exit 0; exit 2 ;;
esac

need_toolchain
say "building in release (minutes the first time)"
cargo build --release --locked -p ruvector-cluster -p vector-node
bin="${CARGO_TARGET_DIR:-target}/release"

begin_work demo
keep=$asked_to_keep

gzip -dc examples/vector-node/data/digits.csv.gz >"$work/digits.csv"
status=0
"$bin/demo-client" --bin-dir "$bin" --digits "$work/digits.csv" --work-dir "$work" $keep || status=$?
exit "$status"
