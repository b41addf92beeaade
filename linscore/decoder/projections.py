"""The linear layers whose output is, as it is, what an attention or an MLP adds to the residual stream."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from linscore.decoder.call import probe_tokens
from linscore.decoder.find import Decoder
from linscore.decoder.mlp_output import is_plain
from linscore.decoder.run import states_on
from linscore.decoder.states import SubBlocks
from linscore.spans import PARTS, Part


def find_projections(decoder: Decoder, sub_blocks: SubBlocks) -> dict[tuple[int, Part], str]:
    """By block and part, the path inside the block of the layer that gives the contribution, found by trying.

    Parts have none whose projection a norm or a scale follows, that are a mixture of experts, or whose weight is not a
    plain one in memory.
    """
    gave: dict[tuple[int, str], Tensor] = {}

    def keep(key: tuple[int, str], _module: nn.Module, _args: Any, output: Any) -> None:
        gave[key] = output.clone()  # Falcon adds its attention to it in place

    with ExitStack() as hooks:
        for index, block in enumerate(decoder.blocks):
            for path, module in block.named_modules():
                if isinstance(module, (nn.Linear, Conv1D)) and is_plain(module.weight):
                    hooks.callback(module.register_forward_hook(partial(keep, (index, path))).remove)
        states = states_on(decoder, probe_tokens(decoder), sub_blocks)
    found: dict[tuple[int, Part], str] = {}
    for (index, path), output in gave.items():
        for part in PARTS:
            added = getattr(states[index], part)
            if output.numel() == added.numel() and torch.equal(output.reshape(added.shape), added):
                found[index, part] = path
    return found
