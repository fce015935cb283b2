"""TRL's trainers with the data in its order and each step's loss before rounding, and rows of token ids as they want them."""

from datasets import Dataset
from tokenizers import Tokenizer, models
from torch.utils.data import SequentialSampler
from transformers import PreTrainedTokenizerFast
from trl import DPOTrainer, SFTTrainer


class Recorder:
    def __init__(self, *arguments, **options):
        self.losses = []
        super().__init__(*arguments, **options)

    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    def training_step(self, *arguments, **options):
        loss = super().training_step(*arguments, **options)
        self.losses.append(loss.item())
        return loss


class RecordedSft(Recorder, SFTTrainer):
    pass


class RecordedDpo(Recorder, DPOTrainer):
    def _prepare_dataset(self, dataset, *arguments, **options):
        return dataset


def tokenizer(size):
    """One word a token id; nothing is ever tokenised with it."""
    vocabulary = {f"t{index}": index for index in range(size)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="t0")), pad_token="t0", eos_token="t2", bos_token="t1"
    )


def sft_dataset(rows):
    return Dataset.from_list([
        {"input_ids": row["ids"], "labels": [i if w else -100 for i, w in zip(row["ids"], row["weights"])]} for row in rows
    ])


def dpo_dataset(rows):
    columns = []
    for row in rows:
        prompt = row["chosen"]["weights"].index(1.0)
        columns.append({
            "prompt_ids": row["chosen"]["ids"][:prompt], "chosen_ids": row["chosen"]["ids"][prompt:],
            "rejected_ids": row["rejected"]["ids"][prompt:],
        })
    return Dataset.from_list(columns)
