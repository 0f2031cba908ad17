#!/usr/bin/env bash
# Real control nodes under faults: SIGKILL, SIGSTOP, links that drop, delay and cut, a full disk, changes of the membership; what their
# clients saw is judged (docs/reliability.md, "Chaos"). Exits 1 on a violation, and keeps the files then. Linux only.
#   scripts/chaos.sh --minutes M             faults for M minutes (or --seconds S); a summary at the end
#   scripts/chaos.sh --only KIND,..          only these kinds: scripts/chaos.sh -- --help lists them
#   scripts/chaos.sh --reopen N [--nodes 1]  one node's directory killed and opened again N times under writes
#   scripts/chaos.sh --release ..            release builds
#   scripts/chaos.sh --built DIR ..          the binaries that are in DIR, nothing is built
#   scripts/chaos.sh --mutant NAME ..        with one rule of the code left out (mutants/): a violation is what should come
# Everything else (--seed S, --clients N, -- FLAG.. for each control node) goes to the program as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/toolchain.sh
. scripts/local-nodes.sh

built="" profile=() folder=debug features=()
while [ $# -gt 0 ]; do
    case "$1" in
        --help) sed -n '2,/^set /{/^# /s/^# //p}' "$0"; exit 0 ;;
        --built) built=$2; shift 2 ;;
        --release) profile=(--release) folder=release; shift ;;
        --mutant) features=(--features ruvector-cluster/mutants) folder=mutants/debug; export RUVECTOR_CLUSTER_MUTANT=$2; shift 2 ;;
        *) break ;;
    esac
done
if [ "${1-}" = -- ] && [ "${2-}" = --help ]; then shift; fi

if [ -z "$built" ]; then
    need_toolchain
    target="${CARGO_TARGET_DIR:-target}"
    built="$target/$folder"
    # Binaries with a rule left out never stand where others are looked for.
    if [ ${#features[@]} -gt 0 ]; then target="$target/mutants"; fi
    CARGO_INCREMENTAL=0 cargo build --quiet --locked --target-dir "$target" "${profile[@]}" "${features[@]}" \
        -p ruvector-cluster -p ruvector-cluster-chaos || fail "it does not build"
fi

begin_work chaos
ended=0
"$built/chaos" --bin-dir "$built" --work-dir "$work" "$@" || ended=$?
# Only where the program was killed before it could.
for disk in "$work"/*/small-disk; do
    if mountpoint -q "$disk" 2>/dev/null; then umount -l "$disk"; fi
done
status=$ended
exit "$status"
