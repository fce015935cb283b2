#!/usr/bin/env bash
# Puts the CPU half of libtorch into the cache and links it into .torch/, where cargo looks for it.
#
# The wheels on the package index are CUDA builds; only three of them are needed for the CPU, without their dependencies.
# The link folder is separate from the run folder on purpose: with it the trainer never depends on libtorch_cuda, and the
# same binary opens that library at start where it exists.
set -euo pipefail
version=2.11.0
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sealign
home=$cache/libtorch-$version-$(uname -m)

if [ ! -f "$home/complete" ]; then
    mkdir -p "$cache"
    partial=$(mktemp -d "$cache/libtorch.XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    echo "libtorch $version: downloading about 550 MB" >&2
    python3 -m pip install --quiet --no-deps --target "$partial" \
        "torch==$version" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85
    # Half a gigabyte that a CPU build never opens.
    rm -f "$partial"/torch/lib/libtorch_cuda*.so "$partial"/torch/lib/libtorch_nvshmem.so
    touch "$partial/complete"
    rm -rf "$home"
    mv "$partial" "$home"
    trap - EXIT
fi

link=$root/.torch/link
mkdir -p "$link/lib"
ln -sfn "$home/torch/include" "$link/include"
ln -sfn "$home/torch/lib/libtorch_cpu.so" "$link/lib/libtorch_cpu.so"
ln -sfn "$home/torch/lib/libc10.so" "$link/lib/libc10.so"
if [ ! -f "$link/lib/libtorch.so" ]; then
    echo 'void torch_stub_unused(void) {}' | cc -shared -fPIC -Wl,-soname,libtorch.so -o "$link/lib/libtorch.so" -x c -
fi
echo "$version" > "$link/build-version"
ln -sfn "$home/torch/lib" "$root/.torch/lib"
