"""Logits from one token after the other, with nothing but the cache to tell what went before."""

import inspect

import torch
from torch import Tensor, nn
from transformers import Cache

# In transformers before 5.24 the state-space models' had a name of its own; one release knows only some of them.
NAMES = ("cache", "cache_params", "past_key_values")


def cache_name(model: nn.Module) -> str:
    """What this model, in this release of transformers, calls the cache that it takes and returns."""
    taken = inspect.signature(model.forward).parameters
    return next(name for name in NAMES if name in taken)


@torch.no_grad()
def logits_by_cache(model: nn.Module, input_ids: Tensor, first: int = 3, cache: Cache | None = None) -> Tensor:
    """Logits of a prefill of `first` tokens and of one token at a time after it; `cache` is an empty one to fill."""
    name = cache_name(model)
    output = model(input_ids[:, :first], use_cache=True, **{name: cache})
    found = [output.logits]
    for at in range(first, input_ids.shape[1]):
        output = model(input_ids[:, at : at + 1], use_cache=True, **{name: output[name]})
        found.append(output.logits)
    return torch.cat(found, 1)
