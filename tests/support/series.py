"""Checkpoints of a tiny decoder on its way from its first weights."""

import torch
from tiny_models import tiny
from transformers import AutoTokenizer

from linscore.embedded.shipped import EMBEDDED_MODEL

SEQ_LEN = 16


def tokenizer(*more):
    found = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    found.add_tokens(list(more))
    return found


def saved(folder, seed=0, more=(), **changes):
    """A checkpoint: the tiny decoder, some way off its first weights."""
    model = tiny("llama", vocab_size=2048, **changes)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(0.05 * seed * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer(*more).save_pretrained(folder)
    return str(folder)


def content(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
