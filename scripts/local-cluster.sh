#!/usr/bin/env bash
# Three control nodes on loopback, to try things out: http://127.0.0.1:7001 to 7003. Ctrl-C ends them and deletes their files.
# More arguments are given to each of them: scripts/local-cluster.sh --num-shards 256
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/toolchain.sh
need_toolchain

cargo build --release --locked -p ruvector-cluster
bin="${CARGO_TARGET_DIR:-target}/release/ruvector-cluster"
work=$(mktemp -d "${TMPDIR:-/tmp}/ruvector-local.XXXXXX")
pids=()
finish() {
    kill "${pids[@]}" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

for n in 1 2 3; do
    "$bin" server --node-id "n$n" --listen "127.0.0.1:700$n" --data-dir "$work/n$n" \
        --seeds 127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003 "$@" >"$work/n$n.log" 2>&1 &
    pids+=($!)
done
say "control nodes: http://127.0.0.1:7001 http://127.0.0.1:7002 http://127.0.0.1:7003 (logs in $work; Ctrl-C ends them)"
wait -n || { tail -n 5 "$work"/*.log >&2; fail "a control node ended"; }
