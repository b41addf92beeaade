"""From a state to logits: what a model does between its last block and its head, found by trying."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from linscore.decoder.call import evaluating, probe_tokens, uncompiled
from linscore.decoder.find import Decoder
from linscore.decoder.states import first_tensor
from linscore.errors import LinscoreError


class Head(NamedTuple):
    """The modules between the last block and the head, in their order, and the head."""

    between: list[nn.Module]
    head: nn.Module

    def logits(self, states: Tensor, *, with_norm: bool = True) -> Tensor:
        """Logits `[..., vocabulary]` float32 of states `[..., d]`; without what is between, as if there were none."""
        x = states.to(next(self.head.parameters()).dtype)
        for module in self.between if with_norm else ():
            x = first_tensor(module(x))
        return self.head(x).float()


class _Call(NamedTuple):
    module: nn.Module
    read: Tensor
    written: Tensor


def find_head(decoder: Decoder) -> Head:
    """The path from the last block to the logits, such that it gives the model's own logits on a few tokens.

    Raises:
        LinscoreError: for a model without a head, or whose logits come about in another way.
    """
    model: Any = decoder.model
    find = getattr(model, "get_output_embeddings", None)
    head = None if find is None else find()
    if head is None:
        raise LinscoreError(f"{decoder.name} has no language-model head: a logit lens needs one")
    calls, last = _calls(decoder)
    between: list[nn.Module] = []
    state = last
    while not any(call.module is head and call.read is state for call in calls):
        follow = next((call for call in calls if call.read is state and call.module is not head), None)
        if follow is None or len(between) > 4:
            break
        between.append(follow.module)
        state = follow.written
    found = Head(between, head)
    tokens = probe_tokens(decoder).to(last.device)
    with torch.no_grad(), evaluating(model), uncompiled():
        wanted, ours = model(input_ids=tokens).logits.float(), found.logits(last)
    if wanted.shape != ours.shape or not torch.allclose(ours.log_softmax(-1), wanted.log_softmax(-1), atol=1e-3):
        raise LinscoreError(
            f"{decoder.name}: how its last state becomes logits was not found (soft caps, scaled logits)"
        )
    return found


def _calls(decoder: Decoder) -> tuple[list[_Call], Tensor]:
    """What modules outside the blocks read and write on a few tokens, outermost first; what leaves the last block."""
    model: Any = decoder.model
    inside = {id(module) for module in decoder.blocks.modules()}
    calls: list[_Call] = []
    last: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        written = first_tensor(output) if isinstance(output, Tensor | tuple) else None
        if args and isinstance(args[0], Tensor) and isinstance(written, Tensor):
            calls.insert(0, _Call(module, args[0], written))

    def leave(store: list[Tensor], _block: nn.Module, _args: Any, output: Any) -> None:
        store.append(first_tensor(output))

    with ExitStack() as hooks, torch.no_grad(), evaluating(model), uncompiled():
        for module in model.modules():
            if id(module) not in inside:
                hooks.callback(module.register_forward_hook(keep).remove)
        hooks.callback(decoder.blocks[-1].register_forward_hook(partial(leave, last)).remove)
        model(input_ids=probe_tokens(decoder).to(model.device))
    return calls, last[-1]
