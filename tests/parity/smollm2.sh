#!/usr/bin/env bash
# Compares the trainer and its server with transformers on a real model, SmolLM2-135M-Instruct: logits and greedy answers;
# then what the server promises: speed of several requests at once, one answer whatever the company, OpenAI's protocol.
# Not part of the quick comparison because it takes minutes.
#
# Usage: smollm2.sh TRAINER_PROGRAM [ARGUMENTS OF smollm2.py]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
trainer=${1:?smollm2.sh: name the trainer program}
shift
# shellcheck source=environment.sh
. "$here/environment.sh"
# shellcheck source=smollm2_model.sh
. "$here/smollm2_model.sh"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
"$environment/bin/python" "$here/smollm2.py" --trainer "$trainer" --model "$model" --work "$work" "$@"
