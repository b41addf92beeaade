"""A decoder that reads a text in pieces, with its cache to tell what went before."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from linscore.decoder.call import evaluating, probe_tokens, uncompiled
from linscore.decoder.find import Decoder
from linscore.decoder.stand_ins import kinds
from linscore.decoder.states import first_tensor

__all__ = ["block_kv_bytes", "cache_name", "cached_states", "kv_bytes_per_token"]

_NAMES = ("cache", "past_key_values", "cache_params")  # what models call the cache that they take and return


def cache_name(model: Any) -> str | None:
    """What a model calls the cache that it takes; None where it takes none."""
    known = inspect.signature(model.forward).parameters
    return next((name for name in _NAMES if name in known), None)


def cached_states(decoder: Decoder, *pieces: Tensor) -> tuple[list[Tensor], Any]:
    """The last state of each piece `[batch, seq]` of a text, read one after the other, and the cache after them.

    The cache is None where the decoder keeps none.
    """
    backbone: Any = decoder.backbone
    known = inspect.signature(backbone.forward).parameters
    name = cache_name(backbone)
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

    A sliding window, which ends that growth, is taken for as long as the text; states of another kind are not counted.
    """
    _, cache = cached_states(decoder, probe_tokens(decoder))
    return sum(map(_bytes_per_token, getattr(cache, "layers", ())))


def block_kv_bytes(decoder: Decoder, *, stood_in: bool = False) -> dict[int, int]:
    """By block, the bytes of keys and values that it keeps for each token; empty without a cache of a slot a block.

    Counted as by `kv_bytes_per_token`; where blocks are `stood_in` for, each is taken to keep what its kind does.
    """
    blocks = decoder.blocks
    _, cache = cached_states(decoder, probe_tokens(decoder))
    slots = getattr(cache, "layers", ())
    if len(slots) != len(blocks):
        return {}
    held = [_bytes_per_token(slot) for slot in slots]
    return {index: held[first] for index, first in enumerate(kinds(blocks) if stood_in else range(len(blocks)))}


def _bytes_per_token(slot: Any) -> int:
    """Of the tokens that are kept there, `[B, heads, tokens, features]` of keys and of values."""
    kept = (getattr(slot, name, None) for name in ("keys", "values"))
    return sum(one.nbytes // one.shape[-2] for one in kept if isinstance(one, Tensor) and one.numel())
