"""Some optimisation steps of TRL on given token ids: CPU seconds and loss of each, and the process's peak memory.

Usage: trl_steps.py REQUEST ANSWER     (JSON files, see bench.py)
"""

import json
import resource
import sys
import time
import warnings
from pathlib import Path

import torch
from recorded import RecordedDpo, RecordedSft, dpo_dataset, sft_dataset, tokenizer
from transformers import AutoModelForCausalLM, TrainerCallback
from transformers.utils import logging as transformers_logging
from trl import DPOConfig, SFTConfig


class Clock(TrainerCallback):
    """CPU seconds between the ends of steps: the step with everything that TRL does around it."""

    def __init__(self):
        self.seconds = []

    def on_train_begin(self, *arguments, **options):
        self.last = time.process_time()

    def on_step_end(self, *arguments, **options):
        now = time.process_time()
        self.seconds.append(now - self.last)
        self.last = now


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def make(request, options):
    words = tokenizer(request["vocab"])
    rows = request["rows"] * request["steps"]
    if "ids" in rows[0]:
        config = SFTConfig(dataset_kwargs={"skip_prepare_dataset": True}, **options)
        return RecordedSft(load(request["model"]), args=config, train_dataset=sft_dataset(rows), processing_class=words)
    fairest = request["setting"] == "fairest"
    config = DPOConfig(beta=0.1, precompute_ref_log_probs=fairest, **options)
    reference = None if fairest else load(request["model"])
    return RecordedDpo(
        load(request["model"]), ref_model=reference, args=config, train_dataset=dpo_dataset(rows), processing_class=words
    )


def main():
    request = json.loads(Path(sys.argv[1]).read_text())
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    count = len(request["rows"])
    options = dict(
        output_dir=request["out"], per_device_train_batch_size=count, num_train_epochs=1,
        learning_rate=request["learning_rate"], lr_scheduler_type="linear", warmup_steps=0, max_grad_norm=1.0,
        weight_decay=0.0, bf16=False, use_cpu=True, logging_steps=1000, report_to=[], save_strategy="no", max_length=None,
        seed=0, disable_tqdm=True,
    )
    if request["setting"] == "fairest":
        options |= dict(per_device_train_batch_size=1, gradient_accumulation_steps=count, gradient_checkpointing=False)
    trainer = make(request, options)
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    # With accumulation every batch's loss is its share of the step's.
    losses = trainer.losses
    size = len(losses) // len(clock.seconds)
    steps = [sum(losses[start:start + size]) for start in range(0, len(losses), size)]
    Path(sys.argv[2]).write_text(json.dumps({
        "step_cpu_seconds": clock.seconds, "losses": steps,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }))


if __name__ == "__main__":
    main()
