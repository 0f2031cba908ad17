#!/usr/bin/env bash
# What migrations cost, measured on the real binaries: a cluster on loopback under a steady load of writes, reads and searches, whose
# primaries are moved one after the other, then killed and paused. Exits with 1 if a request failed while primaries moved, or any vector
# was lost, duplicated, stale, or answered under an epoch that had ended; goals of time that are missed are named.
#   scripts/bench.sh migration [--migrations N] [--vectors N]     100 primaries, 10,000 vectors a shard
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/toolchain.sh

usage() { printf 'usage: scripts/bench.sh migration [--migrations N] [--vectors N]\n'; }
case "${1-}" in
    migration) shift ;;
    --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac
options=()
while [ $# -gt 0 ]; do
    case "$1" in
        --migrations | --vectors)
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

work=$(mktemp -d "${TMPDIR:-/tmp}/ruvector-bench.XXXXXX")
# The benchmark ends its nodes itself; this is for one that was killed before it could.
is_ours() {
    if [ -r /proc/self/cmdline ]; then grep -qaF "$work" "/proc/$1/cmdline" 2>/dev/null; return; fi
    ps -p "$1" -o args= 2>/dev/null | grep -qF "$work"
}
end_nodes() {
    local pid
    [ -f "$work/pids" ] || return 0
    while read -r pid; do
        # A node that is paused can only be killed.
        if [ -n "$pid" ] && is_ours "$pid"; then kill -KILL "$pid" || true; fi
    done <"$work/pids"
}
status=1
finish() {
    end_nodes
    if [ "$status" = 0 ] || [ "$status" = 130 ]; then rm -rf "$work"; else say "the nodes' logs are in $work"; fi
}
trap finish EXIT
trap 'status=130; exit 130' INT TERM HUP

status=0
"$bin/bench-migration" --bin-dir "$bin" --work-dir "$work" ${options[@]+"${options[@]}"} || status=$?
# What a route and a watch cost, beside a quiet cluster, comes here: benches of the client library.
exit "$status"
