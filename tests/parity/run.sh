#!/usr/bin/env bash
# Compares the trainer with transformers and TRL on the CPU in float32: logits, losses, log-probabilities, every gradient,
# and loss curves of 20 optimiser steps. Exits 1 when a bound is exceeded.
#
# Usage: run.sh [TRAINER_PROGRAM]     (default: the release build, else the debug build)
# Needs: scripts/libtorch.sh was run; python3, gcc and nm. The Python environment is made once, in the cache.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sealign
torch_home=$(dirname "$(dirname "$(readlink -f "$root/.torch/lib")")")
environment=$cache/parity-transformers-5.23.0-trl-1.16.0-$(sha256sum "$here/requirements.txt" | cut -c1-12)

target=${CARGO_TARGET_DIR:-$root/target}
trainer=${1:-}
for build in release debug; do
    if [ -z "$trainer" ] && [ -x "$target/$build/sealign-trainer" ]; then trainer=$target/$build/sealign-trainer; fi
done
if [ -z "$trainer" ]; then
    echo "run.sh: no trainer program in $target; run 'cargo build -p sealign-trainer' first, or name it" >&2
    exit 2
fi

if [ ! -f "$environment/complete" ]; then
    echo "parity: installing transformers and TRL (about 150 MB, once)" >&2
    rm -rf "$environment"
    python3 -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --no-deps --requirement "$here/requirements.txt"
    "$here/cuda_stubs.sh" "$torch_home/torch/lib" "$environment/stubs"
    touch "$environment/complete"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false
export HF_HUB_OFFLINE=1 HF_HOME=$work/hf PYTHONDONTWRITEBYTECODE=1
export TRAINER_LIBRARY_PATH=$root/.torch/lib
PYTHONPATH=$torch_home LD_LIBRARY_PATH=$environment/stubs \
    "$environment/bin/python" "$here/parity.py" --trainer "$trainer" --work "$work"
