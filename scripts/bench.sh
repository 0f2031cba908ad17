#!/usr/bin/env bash
# What migrations cost, measured on the real binaries: a cluster on loopback under a steady load of writes, reads and searches, whose
# primaries are moved one after the other, then killed and paused. Exits with 1 if a request failed while primaries moved, or any vector
# was lost, duplicated, stale, or answered under an epoch that had ended; goals of time that are missed are named.
#   scripts/bench.sh migration [--migrations N] [--vectors N] [--load N]
#                                   100 primaries, 10,000 vectors a shard, 35 percent of what the machine bears
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/toolchain.sh
. scripts/local-nodes.sh

usage() { printf 'usage: scripts/bench.sh migration [--migrations N] [--vectors N] [--load PERCENT]\n'; }
case "${1-}" in
    migration) shift ;;
    --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac
options=()
while [ $# -gt 0 ]; do
    case "$1" in
        --migrations | --vectors | --load)
            case "${2-}" in '' | *[!0-9]*) usage >&2; exit 2 ;; esac
            options+=("$1" "$2")
            shift 2
            ;;
        *) usage >&2; exit 2 ;;
    esac
done

need_toolchain
say "building in release (minutes the first time)"
cargo build --release --locked -p ruvector-cluster -p vector-node
bin="${CARGO_TARGET_DIR:-target}/release"

begin_work bench

status=0
"$bin/bench-migration" --bin-dir "$bin" --work-dir "$work" ${options[@]+"${options[@]}"} || status=$?
if [ "$status" = 0 ]; then
    say "what a route by the cached map costs (builds the first time)"
    cargo bench --locked -p ruvector-cluster-client --bench route -- --table || status=$?
fi
exit "$status"
