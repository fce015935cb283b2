"""Compares sealign-trainer with transformers and TRL, number by number.

Small random models of both families are written in Hugging Face layout. The trainer's hidden command `probe` and Python
compute on the same token ids; every difference is printed and held to its bound.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config
from transformers.utils import logging as transformers_logging

LOGITS_BOUND = 1e-5  # absolute
RELATIVE_BOUND = 1e-5  # losses, log-probabilities, gradients: max|a-b| / max|b| per tensor
CURVE_BOUND = 1e-4  # absolute, per step
EPOCHS = 5  # of 4 steps each: the rows come again, so that the loss has something to learn
STEPS_PER_EPOCH = 4
BETA = 0.1

MODELS = {
    "qwen2-gqa-tied": (Qwen2Config, dict(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)),
    "qwen2-mha-untied": (Qwen2Config, dict(num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=False)),
    "llama-gqa-untied": (LlamaConfig, dict(num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=False)),
    "llama-mqa-tied": (LlamaConfig, dict(num_attention_heads=4, num_key_value_heads=1, tie_word_embeddings=True)),
}


class Report:
    """Collects differences and prints each with its bound."""

    def __init__(self):
        self.checks = 0
        self.failures = 0
        self.worst = {}

    def check(self, name, difference, bound):
        self.checks += 1
        failed = not difference <= bound
        self.failures += failed
        kind = name.split(":")[1].strip()
        self.worst[kind] = max(self.worst.get(kind, 0.0), difference)
        if failed:
            print(f"FAILED {name}: {difference:.2e} exceeds {bound:.0e}")


def make_model(folder, name, seed):
    """A random model; norms and biases too, which transformers would leave at one and zero."""
    kind, options = MODELS[name]
    hidden = 16 * options["num_attention_heads"]
    config = kind(
        hidden_size=hidden, intermediate_size=2 * hidden + 16, num_hidden_layers=3, vocab_size=640,
        max_position_embeddings=2048, rms_norm_eps=1e-6, use_cache=False, attn_implementation="eager",
        rope_theta=10000.0, bos_token_id=1, eos_token_id=2, pad_token_id=0, **options,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("norm.weight"):
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif parameter_name.endswith("bias"):
                parameter.copy_(0.2 * torch.randn_like(parameter))
            else:
                parameter.mul_(4)
    model.eval()
    model.save_pretrained(folder)
    return model


def random_ids(generator, count):
    return [generator.randrange(3, 640) for _ in range(count)]


def trajectories(generator, count):
    """Multi-turn sequences: loss on every second stretch."""
    rows = []
    for _ in range(count):
        ids, weights = [], []
        for turn in range(generator.randrange(2, 5)):
            stretch = random_ids(generator, generator.randrange(6, 30))
            ids += stretch
            weights += [float(turn % 2)] * len(stretch)
        rows.append({"ids": ids, "weights": weights})
    return rows


def pairs(generator, count):
    """Decisions along common trajectories, so that the trie has something to share."""
    rows = []
    trunk = []
    for index in range(count):
        if index % 4 == 0:
            trunk = random_ids(generator, 60)
        prefix = trunk[: 15 * (index % 4 + 1)]
        sides = {}
        for side in ("chosen", "rejected"):
            completion = random_ids(generator, generator.randrange(4, 16))
            sides[side] = {"ids": prefix + completion, "weights": [0.0] * len(prefix) + [1.0] * len(completion)}
        rows.append(sides)
    return rows


def sequences(rows):
    for row in rows:
        if "ids" in row:
            yield row
        else:
            yield row["chosen"]
            yield row["rejected"]


def token_log_probs(model, row):
    """Log-probability of each token after the first."""
    ids = torch.tensor([row["ids"]])
    logits = model(input_ids=ids).logits[0, :-1]
    return torch.log_softmax(logits.float(), -1).gather(1, ids[0, 1:, None])[:, 0], logits


def sequence_log_prob(model, row):
    return (token_log_probs(model, row)[0] * torch.tensor(row["weights"][1:])).sum()


def reference_loss(model, reference, rows, options=None):
    """The loss of all rows as one step, by its formula: trajectories' mean over trained tokens plus pairs' mean."""
    options = options or {}
    trajectories = [row for row in rows if "ids" in row]
    total = 0.0
    if trajectories:
        log_prob = sum(sequence_log_prob(model, row) for row in trajectories)
        total = -options.get("trajectoryWeight", 1.0) * log_prob / sum(sum(row["weights"][1:]) for row in trajectories)
    losses = [pair_loss(model, reference, row, options) for row in rows if "ids" not in row]
    return total + torch.stack(losses).mean() if losses else total


def pair_loss(model, reference, row, options):
    ipo = options.get("preferenceLoss") == "ipo"
    ratios = {}
    for side in ("chosen", "rejected"):
        with torch.no_grad():
            base = sequence_log_prob(reference, row[side])
        ratios[side] = sequence_log_prob(model, row[side]) - base
        if ipo or options.get("lengthNormalized"):
            ratios[side] = ratios[side] / sum(row[side]["weights"][1:])
    margin = ratios["chosen"] - ratios["rejected"]
    if ipo:
        return (margin - 1 / (2 * BETA)) ** 2
    smoothing = options.get("labelSmoothing", 0.0)
    return -(1 - smoothing) * F.logsigmoid(BETA * margin) - smoothing * F.logsigmoid(-BETA * margin)


def probe(trainer, work, request):
    out = work / "probe"
    path = work / "request.json"
    path.write_text(json.dumps(request))
    environment = dict(os.environ, LD_LIBRARY_PATH=os.environ["TRAINER_LIBRARY_PATH"])
    subprocess.run([trainer, "probe", "--request", path, "--out", out], env=environment, check=True)
    return json.loads((out / "answer.json").read_text()), out


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def losses_to_compare(generator, every_option):
    """Name, rows and loss options of each comparison of one model."""
    yield "sft", trajectories(generator, 5), {}
    yield "dpo", pairs(generator, 6), {}
    if every_option:
        yield "ipo", pairs(generator, 4), {"preferenceLoss": "ipo"}
        yield "dpo smoothed", pairs(generator, 4), {"labelSmoothing": 0.2}
        yield "dpo length-normalised", pairs(generator, 4), {"lengthNormalized": True}
        yield "dpo with sft", pairs(generator, 4) + trajectories(generator, 3), {"trajectoryWeight": 0.3}


def compare_model(report, trainer, work, name, every_option):
    model = make_model(work / name, name, 1)
    reference = make_model(work / f"{name}-reference", name, 2)
    for kind, rows, options in losses_to_compare(random.Random(name), every_option):
        model.zero_grad()
        loss = reference_loss(model, reference, rows, options)
        loss.backward()
        expected_gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
        with torch.no_grad():
            expected_log_probs = torch.stack([sequence_log_prob(model, row) for row in sequences(rows)])
            expected_reference = torch.stack([sequence_log_prob(reference, row) for row in sequences(rows)])
            expected_logits = [token_log_probs(model, row)[1] for row in sequences(rows)]
        for layout, recompute, microbatch in (
            ("linear", "nothing", 100000), ("treePacked", "nothing", 100000), ("treePacked", "layers", 150),
        ):
            answer, out = probe(trainer, work, {
                "model": str(work / name), "reference": str(work / f"{name}-reference"), "layout": layout,
                "recompute": recompute, "microbatchTokens": microbatch, "examples": rows, "beta": BETA, "logits": True,
                **options,
            })
            case = f"{name} {kind} {layout} {recompute}"
            logits = load_file(out / "logits.safetensors")
            for index, expected in enumerate(expected_logits):
                report.check(f"{case}: logits", (logits[f"{index:04}"] - expected).abs().max().item(), LOGITS_BOUND)
            report.check(f"{case}: loss", abs(answer["loss"] - loss.item()) / abs(loss.item()), RELATIVE_BOUND)
            for key, expected in (("logProbs", expected_log_probs), ("referenceLogProbs", expected_reference)):
                report.check(f"{case}: log-probabilities", relative(torch.tensor(answer[key]), expected), RELATIVE_BOUND)
            gradients = load_file(out / "gradients.safetensors")
            missing = set(expected_gradients) ^ set(gradients)
            report.check(f"{case}: names of gradients", float(len(missing)), 0)
            for key in sorted(set(expected_gradients) & set(gradients)):
                report.check(f"{case}: gradients", relative(gradients[key], expected_gradients[key]), RELATIVE_BOUND)
    print(f"{name}: compared with transformers")


def trl_curve(kind, folder, rows, batch, work, **loss_options):
    """Loss of each step by TRL, with the rows in their order."""
    from recorded import RecordedDpo, RecordedSft, dpo_dataset, sft_dataset, tokenizer
    from trl import DPOConfig, SFTConfig

    common = dict(
        output_dir=str(work / "trl"), per_device_train_batch_size=batch, num_train_epochs=EPOCHS, learning_rate=1e-3,
        lr_scheduler_type="linear", warmup_steps=0, max_grad_norm=1.0, weight_decay=0.0, bf16=False, use_cpu=True,
        gradient_checkpointing=False, logging_steps=1000, report_to=[], save_strategy="no", max_length=None, seed=0,
        dataloader_drop_last=False, disable_tqdm=True, optim="adamw_torch",
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    words = tokenizer(640)
    if kind == "sft":
        config = SFTConfig(dataset_kwargs={"skip_prepare_dataset": True}, **common)
        trainer = RecordedSft(model, args=config, train_dataset=sft_dataset(rows), processing_class=words)
    else:
        reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        config = DPOConfig(beta=BETA, **loss_options, **common)
        trainer = RecordedDpo(
            model, ref_model=reference, args=config, train_dataset=dpo_dataset(rows), processing_class=words
        )
    trainer.train()
    return trainer.losses


# Options of a loss in TRL's words and in the trainer's. TRL 1.16 leaves the label smoothing of its sigmoid loss unused
# (`dpo_trainer.py`), so that one is compared step by step only, with the formula of its authors.
CURVES = {
    "sft": ({}, {}),
    "dpo": ({}, {}),
    "ipo": ({"loss_type": "ipo"}, {"preferenceLoss": "ipo"}),
}


def compare_curve(report, trainer, work, name, kind):
    folder = work / f"{name}-curve"
    make_model(folder, name, 3)
    generator = random.Random(f"curve {name} {kind}")
    batch = 4
    rows = (trajectories if kind == "sft" else pairs)(generator, STEPS_PER_EPOCH * batch)
    peer_options, options = CURVES[kind]
    expected = trl_curve(kind, folder, rows, batch, work, **peer_options)
    steps = [list(range(step * batch, (step + 1) * batch)) for step in range(STEPS_PER_EPOCH)] * EPOCHS
    for layout in ("linear", "treePacked"):
        answer, _ = probe(trainer, work, {
            "model": str(folder), "layout": layout, "recompute": "nothing", "microbatchTokens": 100000, "examples": rows,
            "beta": BETA, "steps": steps, "learningRate": 1e-3, "maxGradientNorm": 1.0, "gradients": False, **options,
        })
        found = answer["losses"]
        report.check(f"{name} {kind} {layout}: steps", float(abs(len(found) - len(expected))), 0)
        worst = max(abs(a - b) for a, b in zip(found, expected))
        report.check(f"{name} {kind} {layout}: loss curve", worst, CURVE_BOUND)
        print(f"{name}: {kind} against TRL, {layout}: {expected[0]:.5f} -> {expected[-1]:.5f}, worst difference {worst:.1e}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trainer", required=True)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)
    started = time.time()
    report = Report()
    for name in MODELS:
        compare_model(report, arguments.trainer, arguments.work, name, name in ("qwen2-gqa-tied", "llama-gqa-untied"))
    for name in ("qwen2-gqa-tied", "llama-gqa-untied"):
        for kind in CURVES:
            compare_curve(report, arguments.trainer, arguments.work, name, kind)
    for kind, difference in sorted(report.worst.items()):
        print(f"worst {kind}: {difference:.1e}")
    print(f"parity: {report.checks} checks, {report.failures} failed, {time.time() - started:.0f} s")
    sys.exit(1 if report.failures else 0)


if __name__ == "__main__":
    main()
