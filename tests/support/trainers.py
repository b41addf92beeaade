"""A small text and small settings for transformers' Trainer."""

import itertools

import torch
from tiny_models import VOCABULARY
from torch.utils.data import Dataset
from transformers import TrainingArguments

LENGTH, RATE = 20, 0.05


class Texts(Dataset):
    """Sequences of unlike length, padded to one."""

    def __init__(self, count=16, *, whole=False):
        self.ids = torch.randint(3, VOCABULARY, (count, LENGTH), generator=torch.Generator().manual_seed(0))
        self.mask = torch.ones_like(self.ids)
        for row, length in enumerate([] if whole else itertools.islice(itertools.cycle([20, 7, 13, 18, 4]), count)):
            self.mask[row, length:] = 0

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        ids, mask = self.ids[index], self.mask[index]
        return {"input_ids": ids, "attention_mask": mask, "labels": ids.where(mask.bool(), -100)}


def arguments(folder, kind=TrainingArguments, **options):
    defaults = {
        "max_steps": 2,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "dataloader_pin_memory": False,
        "per_device_train_batch_size": 8,
    }
    return kind(str(folder), **{**defaults, **options})
