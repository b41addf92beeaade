"""A decoder that reads a text in pieces, with its cache to tell what went before."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from linscore.decoder.call import evaluating, probe_tokens, uncompiled
from linscore.decoder.find import Decoder
from linscore.decoder.states import first_tensor

__all__ = ["cached_states", "kv_bytes_per_token"]

_NAMES = ("cache", "past_key_values", "cache_params")  # what models call the cache that they take and return


def cached_states(decoder: Decoder, *pieces: Tensor) -> tuple[list[Tensor], Any]:
    """The last state of each piece `[batch, seq]` of a text, read one after the other, and the cache after them.

    The cache is None where the decoder keeps none.
    """
    backbone: Any = decoder.backbone
    known = inspect.signature(backbone.forward).parameters
    name = next((name for name in _NAMES if name in known), None)
    cache, states = None, []
    if name is None or "use_cache" not in known:
        return [], None
    with torch.no_grad(), evaluating(backbone), uncompiled():
        for piece in pieces:
            piece = piece.to(next(backbone.parameters()).device)
            tokens = {"input_ids": piece} if "input_ids" in known else {}
            output = backbone(*(() if tokens else (piece,)), use_cache=True, **tokens, **{name: cache})
            cache = getattr(output, name, None)
            states.append(first_tensor(output[0]))
    return states, cache


def kv_bytes_per_token(decoder: Decoder) -> int:
    """Bytes of keys and values that a text takes in the cache for each of its tokens, counted on a few tokens.

    A sliding window, which ends that growth, is not met by so few; states of another kind are not counted.
    """
    tokens = probe_tokens(decoder)
    _, cache = cached_states(decoder, tokens)
    kept = (getattr(layer, name, None) for layer in getattr(cache, "layers", ()) for name in ("keys", "values"))
    return sum(tensor.nbytes for tensor in kept if isinstance(tensor, Tensor)) // tokens.numel()
