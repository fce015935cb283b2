"""Holds the trainer and its server to transformers on SmolLM2-135M-Instruct.

Logits of several texts, relative to the largest; then the greedy answers to prompts, token for token, one at a time and all
at once, through the chat completions endpoint.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

RELATIVE_BOUND = 1e-5
ANSWER_TOKENS = 24
TOPICS = [
    "the sea", "a stack", "prime numbers", "rain", "a linked list", "the moon", "recursion", "bread", "a hash map", "trains",
]
QUESTIONS = [
    "Explain {} in one sentence.", "Write a Python function about {}.", "List three facts on {}.", "Why does {} matter?",
    "Give me a riddle whose answer is {}.",
]


def prompts(count):
    every = [question.format(topic) for topic in TOPICS for question in QUESTIONS]
    return (every * (count // len(every) + 1))[:count]


def environment():
    return dict(os.environ, LD_LIBRARY_PATH=os.environ["TRAINER_LIBRARY_PATH"])


def compare_logits(arguments, model, tokenizer):
    rows = []
    for text in prompts(4) + ["def total(values):\n    result = 0\n    for value in values:\n        result += value\n"]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        rows.append({"ids": ids, "weights": [1.0] * len(ids)})
    request = arguments.work / "request.json"
    request.write_text(json.dumps({
        "model": str(arguments.model), "layout": "treePacked", "recompute": "nothing", "microbatchTokens": 4096,
        "examples": rows, "logits": True, "gradients": False,
    }))
    out = arguments.work / "probe"
    subprocess.run([arguments.trainer, "probe", "--request", request, "--out", out], env=environment(), check=True)
    found = load_file(out / "logits.safetensors")
    worst = 0.0
    for index, row in enumerate(rows):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([row["ids"]])).logits[0, :-1]
        worst = max(worst, ((found[f"{index:04}"] - expected).abs().max() / expected.abs().max()).item())
    print(f"smollm2: worst logit difference relative to the largest {worst:.1e}, bound {RELATIVE_BOUND:.0e}")
    return worst <= RELATIVE_BOUND


def chat(address, text, tokens=ANSWER_TOKENS):
    body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": tokens}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)["choices"][0]["message"]["content"]


def greedy(model, tokenizer, text):
    ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt")
    ids = ids["input_ids"] if not torch.is_tensor(ids) else ids
    with torch.no_grad():
        answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER_TOKENS, do_sample=False)
    return tokenizer.decode(answer[0, ids.shape[1]:], skip_special_tokens=True)


def timed(address, texts, workers, tokens):
    started = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda text: chat(address, text, tokens), texts))
    return time.monotonic() - started


def compare_serving(arguments, model, tokenizer):
    file = arguments.work / "address"
    server = subprocess.Popen(
        [arguments.trainer, "serve", "--model", arguments.model, "--listen", "127.0.0.1:0", "--address-file", file,
         "--threads", os.environ["OMP_NUM_THREADS"]],
        env=environment(), stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not file.exists() or not file.read_text():
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit("smollm2.py: the server did not start")
            time.sleep(0.1)
        address = file.read_text().strip()
        texts = prompts(arguments.prompts)
        expected = [greedy(model, tokenizer, text) for text in texts]
        alone = [chat(address, text) for text in texts]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda text: chat(address, text), texts))
        equal = sum(a == b for a, b in zip(alone, expected))
        same = sum(a == b for a, b in zip(alone, together))
        for text, found, wanted in zip(texts, alone, expected):
            if found != wanted:
                print(f"smollm2: {text!r}: {found!r} instead of {wanted!r}")
        print(f"smollm2: {equal} of {len(texts)} greedy answers equal transformers'; {same} are equal eight at a time")
        fresh = [f"Tell me a story about number {number}." for number in range(16)]
        single, batched = timed(address, fresh[:8], 1, 48), timed(address, fresh[8:], 8, 48)
        print(f"smollm2: 8 answers of 48 tokens: {single:.1f} s one after another, {batched:.1f} s together, {single / batched:.2f}x")
        return equal == same == len(texts)
    finally:
        server.terminate()
        server.wait(30)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trainer", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=50)
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    model.eval()
    passed = [compare_logits(arguments, model, tokenizer), compare_serving(arguments, model, tokenizer)]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
