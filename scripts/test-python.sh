#!/usr/bin/env bash
# The Python client's tests: against the package as pip installs it, in a virtual environment of its own, and real clusters of
# the built binaries. They are taken from target/debug, or from the folder that RUVECTOR_CLUSTER_BIN names, and built if they
# are missing. More arguments are given to unittest: scripts/test-python.sh -v -k Hashing
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/toolchain.sh

# need_python: Python 3.9 or newer that can make virtual environments.
need_python() {
    local has="import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))"
    python3 -c "$has" 2>/dev/null || apt_install python3 python3-venv
    python3 -c "$has" || fail "python3 is older than 3.9, or can't make virtual environments"
}

need_python
bin="${RUVECTOR_CLUSTER_BIN:-${CARGO_TARGET_DIR:-target}/debug}"
if [ ! -x "$bin/ruvector-cluster" ] || [ ! -x "$bin/data-node" ]; then
    if [ -n "${RUVECTOR_CLUSTER_BIN:-}" ]; then fail "$bin lacks ruvector-cluster or data-node"; fi
    need_toolchain
    cargo build --locked -p ruvector-cluster -p data-node
fi
RUVECTOR_CLUSTER_BIN=$(cd "$bin" && pwd)
export RUVECTOR_CLUSTER_BIN

work=$(mktemp -d "${TMPDIR:-/tmp}/ruvector-python.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
# Nothing is left beside the sources: neither what Python compiles nor what setuptools builds.
export PYTHONPYCACHEPREFIX="$work/pycache"
cp -r clients/python "$work/source"
say "== install: clients/python, in a virtual environment"
python3 -m venv "$work/venv"
python="$work/venv/bin/python"
"$python" -m pip install --quiet --disable-pip-version-check "$work/source"
"$python" - "$work/venv" <<'END' || fail "the package is not installed whole"
import pathlib, sys
import ruvector_cluster
folder = pathlib.Path(ruvector_cluster.__file__).parent
sys.exit(not (folder.is_relative_to(pathlib.Path(sys.argv[1])) and (folder / "py.typed").exists()))
END
"$python" -W error -m compileall -q -f clients/python || fail "a file does not compile"
say "== tests, with the binaries of $RUVECTOR_CLUSTER_BIN"
"$python" -X dev -W error::ResourceWarning -m unittest discover -s clients/python/tests -t clients/python/tests "$@" ||
    fail "the tests failed"
say "== python: fine after $SECONDS s"
