"""Put affine maps in the place of a model's blocks, and count what that saves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from linscore.decoders import Decoder, find_decoder, run
from linscore.errors import LinscoreError
from linscore.solve import AffineMap
from linscore.surgery.linear_block import replacement

PROBE = torch.arange(8)[None]  # any tokens do: what is asked does not depend on them


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


def linearize(model: nn.Module, maps: Mapping[int, AffineMap]) -> nn.Module:
    """A copy of a decoder in which affine maps stand in for some blocks.

    The copy has as many blocks as the model and the same configuration; it generates with a cache, pads, checkpoints
    and moves as the model does. Linear blocks return no attention weights.

    Args:
        model: stays as it is.
        maps: index of a block to the map that replaces it, an AffineMap or what `fit_block_map` returns.

    Raises:
        LinscoreError: for an index or a width that does not fit, or a model that accelerate has spread over devices.
    """
    _check(find_decoder(model), maps)
    linear = copy.deepcopy(model)
    decoder = find_decoder(linear)
    lengths = _output_lengths(decoder)
    for index, fitted in maps.items():
        block = decoder.blocks[index]
        decoder.blocks[index] = replacement(block, fitted, slot=index, entries=lengths[index])
    return linear


def block_costs(model: nn.Module) -> list[Cost]:
    """The cost of each block, linear ones included: their difference is what replacing saves."""
    decoder = find_decoder(model)
    flops = _measured_flops(decoder)
    parameters = [sum(p.numel() for p in block.parameters()) for block in decoder.blocks]
    return [Cost(*pair) for pair in zip(parameters, flops, strict=True)]


def _check(decoder: Decoder, maps: Mapping[int, AffineMap]) -> None:
    count = len(decoder.blocks)
    missing = sorted(index for index in maps if not 0 <= index < count)
    if missing:
        raise LinscoreError(f"{decoder.name} has no blocks {missing}: choose from 0 to {count - 1}")
    for index, fitted in maps.items():
        if fitted.b.shape != (decoder.width, decoder.width):
            raise LinscoreError(
                f"the map for block {index} has shape {list(fitted.b.shape)}, but {decoder.name} has width "
                f"{decoder.width}: take the moments from this model"
            )
    if any(hasattr(block, "_hf_hook") for block in decoder.blocks):
        raise LinscoreError(f"{decoder.name} is spread over devices by accelerate: load it without device_map")


def _output_lengths(decoder: Decoder) -> list[int | None]:
    """How long a tuple each block returns, None for a tensor, by trying."""
    lengths: list[int | None] = [None] * len(decoder.blocks)

    def keep(index: int, _block: nn.Module, _args: Any, output: Any) -> None:
        lengths[index] = len(output) if isinstance(output, tuple) else None

    with ExitStack() as hooks:
        for index, block in enumerate(decoder.blocks):
            hooks.callback(block.register_forward_hook(partial(keep, index)).remove)
        run(decoder, PROBE)
    return lengths


def _measured_flops(decoder: Decoder) -> list[int]:
    """FLOP per token of each block, by trying."""
    counter, counts = FlopCounterMode(display=False, custom_mapping=UNCOUNTED), [0] * len(decoder.blocks)

    def start(index: int, _block: nn.Module, _args: Any) -> None:
        counts[index] -= counter.get_total_flops()

    def stop(index: int, _block: nn.Module, _args: Any, _output: Any) -> None:
        counts[index] += counter.get_total_flops()

    with ExitStack() as hooks, counter:
        for index, block in enumerate(decoder.blocks):
            hooks.callback(block.register_forward_pre_hook(partial(start, index)).remove)
            hooks.callback(block.register_forward_hook(partial(stop, index)).remove)
        run(decoder, PROBE)
    return [count // PROBE.numel() for count in counts]
