#!/usr/bin/env bash
# Shows by strace that a write is on the disks of a majority before it is acknowledged: one registration, at a leader and one
# follower (the third control node is killed first, so that these two are the majority). Exits with 1 when it is not so.
# scripts/strace.sh [BINARY]: a built ruvector-cluster; a debug build is made when there is none given.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/toolchain.sh
for tool in strace curl; do command -v "$tool" >/dev/null || apt_install "$tool"; done
bin=${1:-}
if [ -z "$bin" ]; then
    need_toolchain
    cargo build --locked -p ruvector-cluster
    bin="${CARGO_TARGET_DIR:-target}/debug/ruvector-cluster"
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/ruvector-strace.XXXXXX")
pids=()
finish() {
    kill "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

port() { echo $((7600 + $1)); }
seeds="127.0.0.1:$(port 1),127.0.0.1:$(port 2),127.0.0.1:$(port 3)"
for n in 1 2 3; do
    "$bin" server --node-id "n$n" --listen "127.0.0.1:$(port "$n")" --data-dir "$work/n$n" --seeds "$seeds" \
        >"$work/n$n.log" 2>&1 &
    pids[n]=$!
done

# put NAME: registers a data node, through whichever control node answers first.
put() {
    local body="{\"addr\":\"127.0.0.1:1\",\"store_id\":\"store-of-$1\"}"
    curl -sf -m 5 -X PUT -H 'Content-Type: application/json' -d "$body" "http://127.0.0.1:$2/v1/nodes/$1" >/dev/null
}
leader() { curl -sf -m 5 "http://127.0.0.1:$(port 1)/v1/cluster" | sed -n 's/.*"leader":{"id":"n\([0-9]\)".*/\1/p'; }

for _ in $(seq 150); do
    lead=$(leader || true)
    if [ -n "$lead" ] && put "before" "$(port "$lead")"; then break; fi
    sleep 0.2
done
[ -n "${lead:-}" ] || { tail -n 5 "$work"/*.log >&2; fail "no control node leads"; }
follow=$((lead % 3 + 1))
killed=$((follow % 3 + 1))
kill -9 "${pids[killed]}"
wait "${pids[killed]}" 2>/dev/null || true

# One file a thread, so that no call is split; times of entry in seconds since 1970, and how long each call took.
tracers=()
for n in "$lead" "$follow"; do
    strace -f -ff -ttt -T -y -s 400 -e trace=pwrite64,fdatasync,write,writev,sendto,sendmsg -o "$work/trace-n$n" \
        -p "${pids[n]}" 2>"$work/strace-n$n.log" &
    tracers+=($!)
done
for n in "$lead" "$follow"; do
    for _ in $(seq 100); do
        grep -q attached "$work/strace-n$n.log" && break
        sleep 0.1
    done
    grep -q attached "$work/strace-n$n.log" || { cat "$work/strace-n$n.log" >&2; fail "strace may not attach here"; }
done
put "traced" "$(port "$lead")" || fail "the write was refused"
sleep 0.5
kill -INT "${tracers[@]}" 2>/dev/null || true
wait "${tracers[@]}" 2>/dev/null || true

# logged N: entry and end of the pwrite64 with our record, and of the fdatasync after it in the same thread.
logged() {
    awk -v node="n$1" '
        function took(line) { match(line, /<[0-9.]+>$/); return substr(line, RSTART + 1, RLENGTH - 2) }
        /pwrite64\(.*wal-.*store-of-traced/ { printf "%s %s %s pwrite64 wal\n", $1, $1 + took($0), node; mine = 1; next }
        mine && /fdatasync\(.*wal-/ { printf "%s %s %s fdatasync wal\n", $1, $1 + took($0), node; mine = 0 }
    ' OFMT=%.6f CONVFMT=%.6f "$work/trace-n$1".*
}
answered=$(awk '/HTTP\/1.1 200/ { if (!first || $1 < first) first = $1 } END { print first }' "$work/trace-n$lead".*)
[ -n "$answered" ] || fail "the answer was not seen"
{
    logged "$lead"
    logged "$follow"
    echo "$answered $answered n$lead answers HTTP/1.1_200"
} | sort -n >"$work/events"
say "n$lead leads, n$follow follows, n$killed is dead. Milliseconds from the first call:"
awk 'NR == 1 { zero = $1 } { printf "  %8.3f to %8.3f  %s  %s %s\n", ($1 - zero) * 1000, ($2 - zero) * 1000, $3, $4, $5 }' "$work/events"
say "The calls:"
grep -h -A1 'pwrite64(.*wal-.*store-of-traced' "$work"/trace-n*.* | grep -E 'pwrite64|fdatasync' |
    sed -E "s#$work/##g; s/\"(.{0,40}).*\"\.*, ([0-9]+, [0-9]+\))/\"\1\"..., \2/"
awk -v answered="$answered" '/HTTP\/1.1 200/ && $1 == answered' "$work/trace-n$lead".* | sed -E 's/(HTTP\/1.1 200 OK).*"/\1"/' | cut -c1-160
awk -v answered="$answered" '
    $4 == "fdatasync" { synced[$3] = 1; if ($2 > answered) late = 1 }
    END { for (node in synced) n++; exit !(n == 2 && !late) }
' "$work/events" || fail "the answer came before both disks had the write"
say "fine: both fdatasync returned before the answer was written"
