# Sourced by the scripts that run Python beside the trainer. Expects `root`; makes the environment once, in the cache, and
# sets `environment`, `work` (a folder that is removed at exit), and what Python and the trainer need to find libtorch.
parity=$root/tests/parity
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sealign
torch_home=$(dirname "$(dirname "$(readlink -f "$root/.torch/lib")")")
environment=$cache/parity-transformers-5.23.0-trl-1.16.0-$(sha256sum "$parity/requirements.txt" | cut -c1-12)

if [ ! -f "$environment/complete" ]; then
    echo "parity: installing transformers and TRL (about 150 MB, once)" >&2
    rm -rf "$environment"
    python3 -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --no-deps --requirement "$parity/requirements.txt"
    "$parity/cuda_stubs.sh" "$torch_home/torch/lib" "$environment/stubs"
    touch "$environment/complete"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false
export HF_HUB_OFFLINE=1 HF_HOME=$work/hf PYTHONDONTWRITEBYTECODE=1
export TRAINER_LIBRARY_PATH=$root/.torch/lib
export PYTHONPATH=$torch_home:$parity LD_LIBRARY_PATH=$environment/stubs
