"""What each block of a decoder costs: parameters, and FLOP per token."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from linscore.decoder.cached import kv_bytes_per_token
from linscore.decoder.call import probe_tokens
from linscore.decoder.find import Decoder
from linscore.decoder.run import run


def _grouped_flops(states: torch.Size, experts: torch.Size, *_args: Any, **_kwargs: Any) -> int:
    """FLOP of states `[n, k]`, sorted by expert, times experts' weights `[e, k, m]`."""
    return 2 * states.numel() * experts[-1]


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_args: Any, **_kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


# What torch's counter (2.13) passes over in silence: mixtures of experts, and attention on a CPU.
UNCOUNTED = {
    torch.ops.aten._grouped_mm: _grouped_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
}


@dataclass(frozen=True)
class Cost:
    """What a block holds and does."""

    parameters: int
    flops_per_token: int  # of matrix products, convolutions and attention, measured on a text of 8 tokens


def sizes(before: Decoder, after: Decoder) -> dict[str, Any]:
    """Blocks, parameters (tied ones once), FLOP a token in blocks and bytes a token in the cache, of both models."""
    found = {}
    for suffix, decoder in (("_before", before), ("", after)):
        costs = block_costs(decoder)
        found[f"depth{suffix}"] = len(costs)
        found[f"parameters{suffix}"] = sum(parameter.numel() for parameter in decoder.model.parameters())
        found[f"flops_per_token{suffix}"] = sum(cost.flops_per_token for cost in costs)
        found[f"kv_bytes_per_token{suffix}"] = kv_bytes_per_token(decoder)
    return found


def block_costs(decoder: Decoder) -> list[Cost]:
    """The cost of each block, linear ones included: their difference is what replacing saves."""
    flops = _measured_flops(decoder)
    parameters = [sum(p.numel() for p in block.parameters()) for block in decoder.blocks]
    return [Cost(*pair) for pair in zip(parameters, flops, strict=True)]


def _measured_flops(decoder: Decoder) -> list[int]:
    """FLOP per token of each block, by trying."""
    counter, counts = FlopCounterMode(display=False, custom_mapping=UNCOUNTED), [0] * len(decoder.blocks)
    tokens = probe_tokens(decoder)

    def start(index: int, _block: nn.Module, _args: Any) -> None:
        counts[index] -= counter.get_total_flops()

    def stop(index: int, _block: nn.Module, _args: Any, _output: Any) -> None:
        counts[index] += counter.get_total_flops()

    with ExitStack() as hooks, counter:
        for index, block in enumerate(decoder.blocks):
            hooks.callback(block.register_forward_pre_hook(partial(start, index)).remove)
            hooks.callback(block.register_forward_hook(partial(stop, index)).remove)
        run(decoder, tokens)
    return [count // tokens.numel() for count in counts]
