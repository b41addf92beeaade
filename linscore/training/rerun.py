"""A block run once more in backward, as gradient checkpointing does it, so that its output need not be kept."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from linscore.sub_blocks import first_tensor

__all__ = ["Rerun", "can_rerun"]


class Rerun:
    """A call of `block` that is about to be made: its arguments, the random state and autocast of this moment.

    The weights must be as they are now when it is made again.
    """

    def __init__(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.block, self.named = block, "hidden_states" in kwargs
        self.args = args if self.named else args[1:]
        self.kwargs = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        state: Tensor = first_tensor(kwargs.get("hidden_states", args))
        self.autocast = _autocast(state.device.type)
        self.random = torch.get_rng_state()
        self.devices, self.device_random = get_device_states(state)

    def __call__(self, state: Tensor) -> Tensor:
        """What left the block, `[B, T, d]` and without a graph, from the `state` that entered it, `[B, T, d]`."""
        kwargs = {**self.kwargs, "hidden_states": state} if self.named else self.kwargs
        args = self.args if self.named else (state, *self.args)
        with torch.random.fork_rng(self.devices, device_type=state.device.type), torch.no_grad(), self.autocast:
            torch.set_rng_state(self.random)
            set_device_states(self.devices, self.device_random, device_type=state.device.type)
            # Not the call: the hooks on it, ours among them, are for the pass that is trained.
            return first_tensor(self.block.forward(*args, **kwargs))


def can_rerun(block: nn.Module) -> bool:
    """Whether `block` trades time for memory anyway, and no other process may hold weights of it in backward."""
    spread = torch.distributed.is_available() and torch.distributed.is_initialized()
    return block.training and bool(getattr(block, "gradient_checkpointing", False)) and not spread


def _autocast(device: str) -> AbstractContextManager[Any]:
    return torch.autocast(
        device,
        dtype=torch.get_autocast_dtype(device),
        enabled=torch.is_autocast_enabled(device),
        cache_enabled=torch.is_autocast_cache_enabled(),
    )
