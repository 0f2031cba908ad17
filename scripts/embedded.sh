#!/usr/bin/env bash
# The library in three processes that form one cluster (examples/embedded.rs), built to be seen soon and not to be fast.
# Three addresses may be given: scripts/embedded.sh 127.0.0.1:7001 127.0.0.1:7002 127.0.0.1:7003
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/toolchain.sh
need_toolchain
exec cargo run --locked --profile quick --example embedded -- "$@"
