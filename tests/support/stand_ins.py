"""Blocks whose output is replaced, and a cache that alone says what went before."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tiny_models import FAMILIES
from torch import nn
from transformers import PreTrainedModel

from linscore import find_decoder

STATE_SPACE = [family for family in FAMILIES if family.startswith("mamba")]
ATTENTION = [family for family in FAMILIES if family not in STATE_SPACE]


@contextmanager
def hooked(model: nn.Module, index: int, stand_in) -> Iterator[None]:
    """The block runs, and what it returns is replaced: an oracle that knows nothing of linear blocks."""

    def replace(_block, args, kwargs, output):
        y = stand_in(args[0] if args else kwargs["hidden_states"])
        return (y, *output[1:]) if isinstance(output, tuple) else y

    handle = find_decoder(model).blocks[index].register_forward_hook(replace, with_kwargs=True)
    yield
    handle.remove()


@torch.no_grad()
def stepwise_logits(model: PreTrainedModel, input_ids: torch.Tensor, prompt: int, **inputs) -> torch.Tensor:
    """Logits of a prompt, then of one token after the other, with nothing but the cache to tell what went before."""
    output = model(input_ids[:, :prompt], use_cache=True, **inputs)
    pieces, name = [output.logits], "cache_params" if "cache_params" in output else "past_key_values"
    for position in range(prompt, input_ids.shape[1]):
        step = {name: output[name]}
        output = model(input_ids[:, position : position + 1], use_cache=True, **step)
        pieces.append(output.logits)
    return torch.cat(pieces, 1)
