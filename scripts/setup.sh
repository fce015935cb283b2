#!/usr/bin/env bash
# Installs what the embedded runner and the build need and this machine lacks. Says what it does; does nothing twice.
set -euo pipefail

if [ "$(uname -s)" != Linux ]; then
    echo "sealign runs embedded on Linux only: on other systems use a cluster" >&2
    exit 1
fi

missing=()
command -v bwrap >/dev/null || missing+=(bubblewrap)
command -v cc >/dev/null || missing+=(gcc)
command -v c++ >/dev/null || missing+=(g++)
command -v cmake >/dev/null || missing+=(cmake)
[ -x /usr/bin/python3 ] || missing+=(python3)
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)

if [ ${#missing[@]} -gt 0 ]; then
    sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { echo "install as root: ${missing[*]}" >&2; exit 1; }
        sudo=(sudo)
    fi
    command -v apt-get >/dev/null || { echo "install with your package manager: ${missing[*]}" >&2; exit 1; }
    echo "installing ${missing[*]}" >&2
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" apt-get install -y -qq "${missing[@]}" >/dev/null
fi

command -v cargo >/dev/null || { echo "Rust is missing: install it with rustup (1.95 or newer), then run make again" >&2; exit 1; }
