#!/usr/bin/env bash
# Trains the same model on the same tokens with the trainer and with TRL, in alternation, one thread each, and prints one
# JSON line a case.
#
# Usage: run.sh [TRAINER_PROGRAM] [ARGUMENTS OF bench.py]
# Needs: scripts/libtorch.sh was run, and the recorded trajectories (SEALIGN_SHARED_DATA, or ../shared/data beside the
# repository). The Python environment is the one of tests/parity.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
trainer=${1:?run.sh: name the trainer program}
shift
data=${SEALIGN_SHARED_DATA:-$root/../shared/data}
if [ ! -d "$data/openhands-swegym-samples" ]; then
    echo "skipped: no shared data (set SEALIGN_SHARED_DATA to a folder with openhands-swegym-samples)"
    exit 0
fi
# shellcheck source=../parity/environment.sh
. "$root/tests/parity/environment.sh"
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
"$environment/bin/python" "$here/bench.py" --trainer "$trainer" --data "$data" --work "$work" "$@"
