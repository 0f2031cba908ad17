#!/usr/bin/env bash
# Dependencies: what is banned, which licences, which sources (deny.toml); advisories where their database can be reached.
# The example vector-node is left out: ruvector-core brings bincode, which deny.toml bans from what we ship.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/toolchain.sh
need_toolchain

if ! command -v cargo-deny >/dev/null && [ ! -x "$HOME/.cargo/bin/cargo-deny" ]; then
    say "installing cargo-deny (takes some minutes once)"
    cargo install --locked --quiet cargo-deny || fail "could not install cargo-deny"
fi
deny() { cargo deny --locked --workspace --exclude vector-node "$@"; }

deny check bans licenses sources || fail "deny.toml is broken: see above"
if deny fetch db >/dev/null 2>&1; then
    deny check advisories || fail "advisories: see above"
else
    say "advisories: not checked, their database can't be reached from here"
fi
say "audit: fine"
