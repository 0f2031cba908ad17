#!/usr/bin/env bash
# Measures the built binaries on this machine, etcd beside them in the same run; installs what is missing. Without a part, all parts.
#   scripts/bench.sh writes       labels of 1,000 data nodes on three control nodes, beside etcd's puts: wrk at 1, 64, 256 connections
#   scripts/bench.sh reads        a shard at 64 connections: stale, linearizable; beside etcd's ranges and a bare axum handler
#   scripts/bench.sh failover     the leader killed 20 times, and asked to hand over 20 times; beside etcd
#   scripts/bench.sh steady       10 minutes of full load: exits with 1 if there was an election or a request failed
#   scripts/bench.sh scale        10,000, 100,000 and 1,000,000 shards: memory, restart, the map, heartbeats, 5,000 watchers
#   scripts/bench.sh migration    primaries that move under load: exits with 1 if a request failed, or anything was lost, stale or twice
# Options: --rounds N and --seconds N (writes, reads), --minutes N (steady), --shards N,... (scale), --migrations N, --vectors N, --load PERCENT (migration).
# Missed goals are named, and do not fail the run.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/toolchain.sh
. scripts/local-nodes.sh

usage() { sed -n '2,10s/^# \{0,1\}//p' scripts/bench.sh; }

part=all
case "${1-}" in
    writes | reads | failover | steady | scale | migration) part=$1 && shift ;;
    --help) usage && exit 0 ;;
    '' | --*) ;;
    *) usage >&2 && exit 2 ;;
esac
control=() steady=() scale=() migration=()
while [ $# -gt 0 ]; do
    case "${2-}" in '' | *[!0-9,]*) usage >&2 && exit 2 ;; esac
    case "$1" in
        --rounds | --seconds) control+=("$1" "$2") ;;
        --minutes) steady+=("$1" "$2") ;;
        --shards) scale+=("$1" "$2") ;;
        --migrations | --vectors | --load) migration+=("$1" "$2") ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift 2
done

need_toolchain
wants() { [ "$part" = all ] || [ "$part" = "$1" ]; }
packages=(-p ruvector-cluster)
if [ "$part" != migration ]; then
    command -v wrk >/dev/null || apt_install wrk
    if [ "$part" != steady ] && [ "$part" != scale ]; then command -v etcd >/dev/null || apt_install etcd-server; fi
    packages+=(-p ruvector-cluster-bench)
fi
if wants migration; then packages+=(-p vector-node); fi
say "building in release (minutes the first time)"
cargo build --release --locked "${packages[@]}"
bin="${CARGO_TARGET_DIR:-target}/release"

begin_work bench
status=0
# run PROGRAM ARGUMENT...: a later part runs also where an earlier one failed.
run() { "$bin/$1" "${@:2}" --bin-dir "$bin" --work-dir "$work" || status=$?; }

for each in writes reads failover; do
    if wants "$each"; then run bench-control "$each" ${control[@]+"${control[@]}"}; fi
done
if wants steady; then run bench-control steady ${steady[@]+"${steady[@]}"}; fi
if wants scale; then run bench-control scale ${scale[@]+"${scale[@]}"}; fi
if wants migration; then
    run bench-migration ${migration[@]+"${migration[@]}"}
    say "what a route by the cached map costs (builds the first time)"
    cargo bench --locked -p ruvector-cluster-client --bench route -- --table || status=$?
fi
exit "$status"
