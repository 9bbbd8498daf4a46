# Shared by the scripts beside it; sourced, never run.
# shellcheck shell=bash

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$top" || exit 1

if [[ -t 1 ]]; then bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'; else bold='' red='' green='' plain=''; fi
say() { printf '%s\n' "$*"; }
title() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
fail() { printf '%s%s%s\n' "$red" "$*" "$plain" >&2; exit 1; }

# `sudo make test` has root's PATH; the toolchain is usually the user's.
find_cargo() {
    local home
    for home in "$HOME" "$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)"; do
        command -v cargo >/dev/null 2>&1 && return
        [[ -x $home/.cargo/bin/cargo ]] && PATH=$home/.cargo/bin:$PATH &&
            export RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
    done
    command -v cargo >/dev/null 2>&1 ||
        fail "cargo was not found: install Rust from https://rustup.rs, then run this again"
}

# Root is needed for namespaces and TUN. Building stays with the user; only what
# needs it runs with sudo.
as_root() {
    if [[ $(id -u) -eq 0 ]]; then "$@"; else sudo -E "PATH=$PATH" "$@"; fi
}
need_root() {
    [[ $(id -u) -eq 0 ]] && return
    command -v sudo >/dev/null 2>&1 || fail "this needs root: run it as root, or install sudo"
    sudo -v || fail "this needs root, and sudo refused"
    local triple
    triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${triple}_RUNNER=sudo -E"
}

target_dir() { printf '%s\n' "${CARGO_TARGET_DIR:-$top/target}"; }
