#!/usr/bin/env bash
# A cluster end to end on real vectors: builds, starts 3 control nodes and 5 vector nodes on loopback, loads 1,797 digits, then
# joins, kills, migrates, drains and spreads a hot node's load under a client that never pauses. Exits with 1 if anything is
# lost, wrong, or failed outside the one gap that a killed primary costs. --keep leaves the cluster running and prints its URLs.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/toolchain.sh

keep=""
case "${1-}" in
    "") ;;
    --keep) keep=--keep ;;
    *) printf 'usage: scripts/demo.sh [--keep]\n'; [ "$1" = --help ] && exit 0; exit 2 ;;
esac

need_toolchain
say "building in release (minutes the first time)"
cargo build --release --locked -p ruvector-cluster -p vector-node
bin="${CARGO_TARGET_DIR:-target}/release"

work=$(mktemp -d "${TMPDIR:-/tmp}/ruvector-demo.XXXXXX")
# The demo ends its nodes itself; this is for one that was killed before it could.
is_ours() {
    if [ -r /proc/self/cmdline ]; then grep -qaF "$work" "/proc/$1/cmdline" 2>/dev/null; return; fi
    ps -p "$1" -o args= 2>/dev/null | grep -qF "$work"
}
end_nodes() {
    local pid
    [ -f "$work/pids" ] || return 0
    while read -r pid; do
        if [ -n "$pid" ] && is_ours "$pid"; then kill -KILL "$pid" || true; fi
    done <"$work/pids"
}
status=1
finish() {
    if [ -n "$keep" ] && [ "$status" = 0 ]; then return; fi
    end_nodes
    if [ "$status" = 0 ] || [ "$status" = 130 ]; then rm -rf "$work"; else say "the nodes' logs are in $work"; fi
}
trap finish EXIT
trap 'status=130; exit 130' INT TERM HUP

gzip -dc examples/vector-node/data/digits.csv.gz >"$work/digits.csv"
status=0
"$bin/demo-client" --bin-dir "$bin" --digits "$work/digits.csv" --work-dir "$work" $keep || status=$?
exit "$status"
