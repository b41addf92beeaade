"""What a cut model must compute: the original with the same blocks doing nothing, with and without a cache."""

from contextlib import contextmanager
from functools import cache

import torch
from tiny_models import VOCABULARY, tiny
from torch import Tensor, nn
from transformers import PreTrainedModel

from linscore import drop, find_decoder

# What the tiny configurations do not have by default: block types that differ from one block to the next.
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
MIXTURES = {
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "layer_types": MIXED},
    "gemma3": {"layer_types": MIXED},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
}


@cache
def model_of(family: str) -> PreTrainedModel:
    return tiny(family, **MIXTURES.get(family, {}))


@cache
def cut_of(family: str, *gone: int) -> PreTrainedModel:
    """For tests that leave it as it is."""
    return drop(model_of(family), list(gone))


def tokens(seed: int = 0, length: int = 11) -> Tensor:
    return torch.randint(3, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: nn.Module, input_ids: Tensor) -> Tensor:
    return model(input_ids, use_cache=False).logits


@contextmanager
def doing_nothing(model: nn.Module, gone: list[int]):
    """The blocks run, so that their outputs have the family's form, and then hand on what they were given."""
    blocks = [find_decoder(model).blocks[index] for index in gone]

    def idle(forward):
        def hand_on(*args, **kwargs):
            x = args[0] if args else kwargs["hidden_states"]
            kept = x.clone()  # a block may add in place
            output = forward(*args, **kwargs)
            return kept if isinstance(output, Tensor) else (kept, *output[1:])

        return hand_on

    for block in blocks:
        block.forward = idle(block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


@torch.no_grad()
def inputs_and_logits(model: nn.Module, input_ids: Tensor) -> tuple[list[Tensor], Tensor]:
    """What enters each block, and the logits."""
    entered: list[Tensor] = []

    def keep(_block, args, kwargs):
        entered.append((args[0] if args else kwargs["hidden_states"]).clone())

    hooks = [b.register_forward_pre_hook(keep, with_kwargs=True) for b in find_decoder(model).blocks]
    found = logits(model, input_ids)
    for hook in hooks:
        hook.remove()
    return entered, found


def greedy(model: PreTrainedModel, input_ids: Tensor, *, use_cache: bool) -> list[list[int]]:
    mask = torch.ones_like(input_ids)
    return model.generate(
        input_ids, attention_mask=mask, max_new_tokens=6, do_sample=False, use_cache=use_cache
    ).tolist()
