"""A block run once more in backward, as gradient checkpointing does it, so that its output need not be held."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from linscore.decoder.states import entering_state, first_tensor

__all__ = ["Rerun", "can_rerun"]


class Rerun:
    """A call of `block` that is about to be made: its arguments, and autocast and random numbers of this moment."""

    def __init__(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.block, self.named = block, "hidden_states" in kwargs
        self.args = args if self.named else args[1:]
        self.kwargs = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        device = entering_state(args, kwargs).device.type
        self.autocast: dict[str, Any] = {
            "device_type": device,
            "dtype": torch.get_autocast_dtype(device),
            "enabled": torch.is_autocast_enabled(device),
            "cache_enabled": torch.is_autocast_cache_enabled(),
        }
        self.random = _random_states(block)

    def is_exact(self) -> bool:
        """Asked right after the call: whether it drew no random numbers, and would give the same again."""
        return all(map(torch.equal, self.random, _random_states(self.block)))

    def __call__(self, state: Tensor) -> Tensor:
        """What left the block, `[B, T, d]` and without a graph, from the `state` that entered it, `[B, T, d]`."""
        kwargs = {**self.kwargs, "hidden_states": state} if self.named else self.kwargs
        args = self.args if self.named else (state, *self.args)
        with torch.no_grad(), torch.autocast(**self.autocast):
            # Not the call: the hooks on it are for the pass that is trained.
            return first_tensor(self.block.forward(*args, **kwargs))


def can_rerun(block: nn.Module, hooks: Collection[int]) -> bool:
    """Whether `block` trades time for memory anyway, and its forward is all there is to it, in backward as now.

    `hooks` are ids of hooks that change nothing; others might. Other processes (FSDP, ZeRO) may hold its weights by
    then, and optimizers that work through hooks on the weights may have moved them.
    """
    if not (block.training and getattr(block, "gradient_checkpointing", False)):
        return False
    hooked = {*block._forward_pre_hooks, *block._forward_hooks} - set(hooks)
    spread = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not hooked and not spread and all(map(_stays, block.parameters()))


def _stays(weight: Tensor) -> bool:
    updated = weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None)
    return weight.device.type in ("cpu", "cuda") and not updated


def _random_states(block: nn.Module) -> list[Tensor]:
    devices = {weight.device for weight in block.parameters() if weight.is_cuda}
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in sorted(devices, key=str))]
