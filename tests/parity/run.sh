#!/usr/bin/env bash
# Compares the trainer with transformers and TRL on the CPU in float32: logits, losses, log-probabilities, every gradient,
# and loss curves of 20 optimiser steps. Exits 1 when a bound is exceeded.
#
# Usage: run.sh [TRAINER_PROGRAM]     (default: the release build, else the debug build)
# Needs: scripts/libtorch.sh was run; python3, gcc and nm. The Python environment is made once, in the cache.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
trainer=${1:-}
for build in release debug; do
    if [ -z "$trainer" ] && [ -x "$target/$build/sealign-trainer" ]; then trainer=$target/$build/sealign-trainer; fi
done
if [ -z "$trainer" ]; then
    echo "run.sh: no trainer program in $target; run 'cargo build -p sealign-trainer' first, or name it" >&2
    exit 2
fi

# shellcheck source=environment.sh
. "$here/environment.sh"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
"$environment/bin/python" "$here/parity.py" --trainer "$trainer" --work "$work"
