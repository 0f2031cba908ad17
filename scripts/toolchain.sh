# Sourced by the other scripts: makes sure that cargo, a linker and the named rustup components are there.

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# apt_install PACKAGE...: where this is a Debian and we may install; says what to do elsewhere.
apt_install() {
    local sudo=""
    if [ "$(id -u)" != 0 ]; then sudo="sudo -n"; fi
    if ! command -v apt-get >/dev/null; then fail "please install: $*"; fi
    say "installing $*"
    $sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
        fail "could not install: $*"
}

# need_toolchain COMPONENT...: cargo, cc, and rustup components such as clippy.
need_toolchain() {
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH="$HOME/.cargo/bin:$PATH"; fi
    command -v cc >/dev/null || apt_install gcc libc6-dev
    if ! command -v cargo >/dev/null; then
        command -v curl >/dev/null || apt_install curl ca-certificates
        say "installing Rust with rustup"
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal >/dev/null ||
            fail "could not install Rust: see https://rustup.rs"
        PATH="$HOME/.cargo/bin:$PATH"
    fi
    export PATH
    local component
    for component in "$@"; do
        cargo "$component" --version >/dev/null 2>&1 || rustup component add "${component/fmt/rustfmt}" ||
            fail "cargo $component is missing, and rustup could not add it"
    done
}
