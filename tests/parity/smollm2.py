"""Holds the trainer and its server to transformers on SmolLM2-135M-Instruct.

Logits of several texts, relative to the largest; the greedy answers to prompts, token for token, one at a time and eight at
once; tokens a second of eight requests at once against one; one greedy answer asked for again and again in changing company;
and the client of OpenAI's package.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from openai import BadRequestError, OpenAI
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

RELATIVE_BOUND = 1e-5
ANSWER_TOKENS = 24
SPEED_TOKENS = 64
SPEEDUP_BOUND = 3.0  # tokens a second of eight requests at once against one after another
REPEAT_TOKENS = 8
REPEATS_MAX_AT_ONCE = 12
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
    print(f"smollm2: worst logit difference relative to the largest {worst:.1e}, bound {RELATIVE_BOUND:.0e}", flush=True)
    return worst <= RELATIVE_BOUND


@contextlib.contextmanager
def server(arguments):
    file = arguments.work / "address"
    process = subprocess.Popen(
        [arguments.trainer, "serve", "--model", arguments.model, "--listen", "127.0.0.1:0", "--address-file", file,
         "--threads", os.environ["OMP_NUM_THREADS"]],
        env=environment(), stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not file.exists() or not file.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("smollm2.py: the server did not start")
            time.sleep(0.1)
        yield file.read_text().strip()
    finally:
        process.terminate()
        process.wait(30)


def send(address, text, tokens, **members):
    body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": tokens, **members}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as response:
        return response.read().decode()


def chat(address, text, tokens=ANSWER_TOKENS):
    answer = json.loads(send(address, text, tokens))
    return answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]


def at_once(address, texts, workers, tokens=ANSWER_TOKENS):
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda text: chat(address, text, tokens), texts))


def greedy(model, tokenizer, text):
    ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt")
    ids = ids["input_ids"] if not torch.is_tensor(ids) else ids
    with torch.no_grad():
        answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER_TOKENS, do_sample=False)
    answer = answer[0, ids.shape[1]:]
    return tokenizer.decode(answer, skip_special_tokens=True), len(answer)


def compare_answers(address, count, model, tokenizer):
    texts = prompts(count)
    expected = [greedy(model, tokenizer, text) for text in texts]
    alone = [chat(address, text) for text in texts]
    together = at_once(address, texts, 8)
    for text, found, wanted in zip(texts, alone, expected):
        if found != wanted:
            print(f"smollm2: {text!r}: {found!r} instead of {wanted!r}")
    equal = sum(a == b for a, b in zip(alone, expected))
    same = sum(a == b for a, b in zip(alone, together))
    print(f"smollm2: {equal} of {count} greedy answers equal transformers'; {same} are equal eight at a time", flush=True)
    return equal == same == count


def compare_speed(address):
    """The same number of answers to prompts that nothing has seen; the better of two rounds each, in alternation."""
    rates = {1: 0.0, 8: 0.0}
    for number in range(2):
        for workers in rates:
            texts = [f"Tell me a long story about the number {1000 * number + 100 * workers + index}." for index in range(8)]
            started = time.monotonic()
            tokens = sum(count for _, count in at_once(address, texts, workers, SPEED_TOKENS))
            rates[workers] = max(rates[workers], tokens / (time.monotonic() - started))
    ratio = rates[8] / rates[1]
    print(
        f"smollm2: {rates[1]:.1f} tokens/s one request after another, {rates[8]:.1f} with eight at once: {ratio:.2f}x, "
        f"bound {SPEEDUP_BOUND}x", flush=True,
    )
    return ratio >= SPEEDUP_BOUND


def compare_repeats(address, count):
    """One greedy request `count` times, 1 to 12 at once, among others that share its beginning or nothing with it."""
    draw = random.Random(7)
    text = "Name the days of the week, and say which one you like."
    expected = chat(address, text, REPEAT_TOKENS)
    asked = different = 0
    while asked < count:
        size = draw.randint(1, REPEATS_MAX_AT_ONCE)
        batch = [text if draw.random() < 0.7 else text[: draw.randint(1, 40)] + str(draw.random()) for _ in range(size)]
        for asked_for, answer in zip(batch, at_once(address, batch, size, REPEAT_TOKENS)):
            if asked_for == text:
                asked += 1
                different += answer != expected
    print(f"smollm2: {asked} greedy repeats in changing company: {different} differ", flush=True)
    return different == 0


def compare_protocol(address):
    """Whole and streamed by hand, and by OpenAI's own client."""
    text = "What is the capital of France?"
    whole, tokens = chat(address, text)
    lines = send(address, text, ANSWER_TOKENS, stream=True, stream_options={"include_usage": True}).splitlines()
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events[:-1]]
    streamed = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    passed = events[-1] == "[DONE]" and streamed == whole and chunks[-1]["usage"]["completion_tokens"] == tokens
    print(f"smollm2: streamed answer {'equals' if passed else 'differs from'} the whole one: {whole!r}")
    client = OpenAI(base_url=f"{address}/v1", api_key="none")
    name = client.models.list().data[0].id
    asked = dict(model=name, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=ANSWER_TOKENS)
    answer = client.chat.completions.create(**asked).choices[0].message.content
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**asked, stream=True)]
    try:
        client.chat.completions.create(**(asked | {"max_tokens": 10**6}))
        refused = False
    except BadRequestError as error:
        refused = "maximum context length" in error.message
    passed = passed and answer == "".join(pieces) == whole and refused
    print(f"smollm2: OpenAI's client {'agrees' if passed else f'does not agree: {answer!r}, {pieces!r}, {refused}'}", flush=True)
    return passed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trainer", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=1000)
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    model.eval()
    passed = [compare_logits(arguments, model, tokenizer)]
    with server(arguments) as address:
        passed.append(compare_answers(address, arguments.prompts, model, tokenizer))
        passed.append(compare_speed(address))
        passed.append(compare_repeats(address, arguments.repeats))
        passed.append(compare_protocol(address))
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
