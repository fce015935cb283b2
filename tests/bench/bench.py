"""Trains one model on the same tokens with sealign-trainer and with TRL, in alternation, and compares what a step costs.

Both run in processes of their own with one thread; what counts is CPU seconds of an optimisation step (the median over
rounds and steps; the first step of each process, which warms up, is left out) and the peak resident memory. Sequences are
stretches of recorded agent trajectories, tokenised with Qwen2.5's tokenizer and folded into a small vocabulary.

Settings: `defaults` is TRL as it comes (checkpointing, reference model in the step) beside the trainer as it comes;
`fairest` is TRL without checkpointing, with precomputed reference log-probabilities and one example a batch with
accumulation, so that it neither pads nor recomputes. Ratios above 1 favour the trainer.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

VOCAB = 16384
MODEL = dict(hidden=512, layers=8, heads=8, kv_heads=2, feed_forward=1408)
LEARNING_RATE = 1e-4
TRL = Path(__file__).with_name("trl_steps.py")


def read_streams(data, needed):
    """Token streams of whole recorded trajectories, each at least `needed` tokens long."""
    from tokenizers import Tokenizer

    folder = data / "qwen2.5-tokenizer"
    tokenizer = Tokenizer.from_str(gzip.decompress((folder / "tokenizer.json.gz").read_bytes()).decode())
    streams = []
    for path in sorted((data / "openhands-swegym-samples").rglob("*.jsonl")):
        for line in path.read_text().splitlines():
            messages = json.loads(line)["messages"]
            text = "".join(
                f"<|im_start|>{message['role']}\n{message['content'] or ''}{json.dumps(message.get('tool_calls') or '')}<|im_end|>\n"
                for message in messages
            )
            # The first messages are the same in every trajectory: sharing them is no part of what is compared here.
            ids = [token % VOCAB for token in tokenizer.encode(text, add_special_tokens=False).ids][4096:]
            if len(ids) >= needed:
                streams.append(ids)
    return streams


def pair(prefix, chosen, rejected):
    side = lambda completion: {
        "ids": prefix + completion, "weights": [0.0] * len(prefix) + [1.0] * len(completion),
    }
    return {"chosen": side(chosen), "rejected": side(rejected)}


def make_cases(data, contexts):
    """Name, examples of a step, and rounds and steps of the comparison."""
    streams = read_streams(data, 12000)
    if len(streams) < 4:
        sys.exit("bench.py: the recorded trajectories are too few or too short")
    first, second, third, fourth = streams[:4]
    completion = 128
    cases = {}
    def separate(length, count):
        rows = []
        for index, (own, other) in enumerate([(first, third), (second, fourth)][:count]):
            end = length + completion
            rows.append(pair(own[:length], own[length:end], other[index * completion:(index + 1) * completion]))
        return rows
    cases["dpo-2-pairs"] = dict(rows=separate(1024, 2), rounds=3, steps=4)
    nested = [
        pair(first[:depth], first[depth:depth + completion], third[depth:depth + completion])
        for depth in (512, 1024, 1536, 2048)
    ]
    cases["dpo-4-pairs"] = dict(rows=nested, rounds=2, steps=3)
    half = [
        {"ids": stream[:1024], "weights": [float(index // 64 % 2) for index in range(1024)]} for stream in (first, second)
    ]
    cases["sft"] = dict(rows=half, rounds=3, steps=4)
    for length in contexts:
        cases[f"dpo-1-pair-context-{length}"] = dict(rows=separate(length, 1), rounds=1, steps=3)
    return cases


def make_model(folder):
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config
    from transformers.utils import logging as transformers_logging

    config = Qwen2Config(
        hidden_size=MODEL["hidden"], intermediate_size=MODEL["feed_forward"], num_hidden_layers=MODEL["layers"],
        num_attention_heads=MODEL["heads"], num_key_value_heads=MODEL["kv_heads"], vocab_size=VOCAB,
        max_position_embeddings=32768, rms_norm_eps=1e-6, tie_word_embeddings=False, rope_theta=10000.0,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def sides(row):
    return [row] if "ids" in row else [row["chosen"], row["rejected"]]


class Work:
    """Floating-point operations of matrix products and attention, forward; a backward pass costs twice as much."""

    def __init__(self):
        hidden, heads, kv = MODEL["hidden"], MODEL["heads"], MODEL["kv_heads"]
        size = hidden // heads
        self.per_row = 2 * MODEL["layers"] * (
            hidden * size * (heads + 2 * kv) + hidden * hidden + 3 * hidden * MODEL["feed_forward"]
        )
        # Scores and weighted sum of one query on one key, all heads and layers.
        self.per_pair = 4 * hidden * MODEL["layers"]
        self.per_target = 2 * hidden * VOCAB

    def forward(self, rows, seen, targets):
        return rows * self.per_row + seen * self.per_pair + targets * self.per_target

    def shared(self, rows):
        """One pass over the token trie: every distinct prefix is one row that sees its own length of keys."""
        prefixes, targets = set(), 0
        for row in rows:
            for side in sides(row):
                targets += sum(weight > 0 for weight in side["weights"][1:])
                key = 0
                for place, token in enumerate(side["ids"][:-1]):
                    key = hash((key, token))
                    prefixes.add((place + 1, key))
        return self.forward(len(prefixes), sum(length for length, _ in prefixes), targets)

    def separate(self, rows, padded):
        """One pass over the sequences one by one, or padded to the longest."""
        every = [side for row in rows for side in sides(row)]
        longest = max(len(side["ids"]) for side in every)
        total = 0
        for side in every:
            length = longest if padded else len(side["ids"])
            targets = sum(weight > 0 for weight in side["weights"][1:])
            total += self.forward(length, length * (length + 1) / 2, targets)
        return total

    def bound(self, rows, setting, recompute):
        """What the peer's step needs over what the trainer's step needs. Recomputation costs one forward pass, and so does a
        reference in the step; the head counts on loss rows for both."""
        ours = self.shared(rows) * (3 + (recompute == "layers"))
        reference = "chosen" in rows[0] and setting == "defaults"
        passes = 3 + (setting == "defaults") + reference
        return self.separate(rows, padded=setting == "defaults") * passes / ours


def run_ours(trainer, folder, work, case, recompute):
    out, request = work / "ours", work / "request.json"
    count = len(case["rows"])
    request.write_text(json.dumps({
        "model": str(folder), "layout": "treePacked", "recompute": recompute, "microbatchTokens": 1_000_000,
        "examples": case["rows"], "steps": [list(range(count))] * case["steps"], "learningRate": LEARNING_RATE,
        "maxGradientNorm": 1.0, "gradients": False,
    }))
    environment = dict(os.environ, LD_LIBRARY_PATH=os.environ["TRAINER_LIBRARY_PATH"])
    subprocess.run([trainer, "probe", "--request", request, "--out", out], env=environment, check=True)
    answer = json.loads((out / "answer.json").read_text())
    return answer["stepCpuSeconds"], answer["losses"], answer["peakRssBytes"]


def run_trl(folder, work, case, setting):
    request, answer = work / "trl-request.json", work / "trl-answer.json"
    request.write_text(json.dumps({
        "model": str(folder), "rows": case["rows"], "steps": case["steps"], "setting": setting,
        "learning_rate": LEARNING_RATE, "vocab": VOCAB, "out": str(work / "trl-output"),
    }))
    subprocess.run(
        [sys.executable, TRL, request, answer], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    found = json.loads(answer.read_text())
    return found["step_cpu_seconds"], found["losses"], found["peak_rss_bytes"]


def compare(arguments, folder, work, name, case, setting, recompute):
    ours, peer, memory, differences = [], [], [], []
    for _ in range(arguments.rounds or case["rounds"]):
        seconds, losses, rss = run_ours(arguments.trainer, folder, work, case, recompute)
        peer_seconds, peer_losses, peer_rss = run_trl(folder, work, case, setting)
        ours += seconds[1:]
        peer += peer_seconds[1:]
        memory.append((rss, peer_rss))
        differences += [abs(a - b) for a, b in zip(losses, peer_losses, strict=True)]
    own, other = statistics.median(ours), statistics.median(peer)
    rss, peer_rss = (statistics.median(column) for column in zip(*memory))
    return {
        "case": name, "setting": setting, "ours_cpu_s": round(own, 3), "peer": "trl-1.16.0", "peer_cpu_s": round(other, 3),
        "ratio": round(other / own, 2), "flop_bound": round(Work().bound(case["rows"], setting, recompute), 2),
        "rss_ratio": round(rss / peer_rss, 3), "ours_rss_mib": round(rss / 2**20), "peer_rss_mib": round(peer_rss / 2**20),
        "recompute": recompute, "steps": len(ours), "ours_range": [round(min(ours), 3), round(max(ours), 3)],
        "peer_range": [round(min(peer), 3), round(max(peer), 3)], "worst_loss_difference": max(differences),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trainer", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cases", help="comma-separated names; all by default")
    parser.add_argument("--settings", default="defaults,fairest")
    parser.add_argument("--recompute", default="nothing,layers", help="policies of the trainer under `defaults`")
    parser.add_argument("--contexts", default="1024,2048,4096,8192")
    parser.add_argument("--rounds", type=int, help="instead of each case's own number")
    parser.add_argument("--steps", type=int, help="of a round, the first of which is left out; instead of each case's own")
    arguments = parser.parse_args()
    cases = make_cases(arguments.data, [int(length) for length in arguments.contexts.split(",") if length])
    folder = arguments.work / "model"
    parameters = make_model(folder)
    print(f"bench: {parameters / 1e6:.1f} M parameters, float32, one thread each", file=sys.stderr)
    wanted = arguments.cases.split(",") if arguments.cases else list(cases)
    for name in wanted:
        cases[name]["steps"] = arguments.steps or cases[name]["steps"]
        for setting in arguments.settings.split(","):
            # TRL's defaults recompute; beside them both policies are of interest, beside the fairest only the fast one.
            policies = arguments.recompute.split(",") if setting == "defaults" else ["nothing"]
            for recompute in policies:
                line = compare(arguments, folder, arguments.work, name, cases[name], setting, recompute)
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
