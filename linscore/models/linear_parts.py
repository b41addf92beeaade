"""Decoder blocks whose attention or MLP is an affine map of the state that it read, or gone.

Saved models bring this file along, for `linear_model`: it imports nothing but torch and, by a dot, `linear_block`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .linear_block import DamagedError, LinearBlock, LinearMap, blank, checked, count_tokens, empty_map, in_form

PARTS = ("attention", "mlp")
NUMBERS = ("layer_idx", "layer_id")  # what attentions call their slot in a cache


class Idle(nn.Module):
    """Gives what it is called with, in the place of a module that only served a part of its block.

    Args:
        entries: how long a tuple that module returned; None if it returned a tensor.
    """

    def __init__(self, entries: int | None = None) -> None:
        super().__init__()
        self.entries = checked(entries)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The state among its arguments."""
        return in_form(called_with(args, kwargs), self.entries)


class StandIn(nn.Module):
    """Gives what an attention or MLP adds to the residual stream, in the place of the module that gave it.

    Args:
        fitted: δ of the state that the part read; None where the part is gone, and adds nothing.
        entries: how long a tuple the module returned; None if it returned a tensor.
        entering: the state is the one entering the block, which the block hands over; otherwise it is what the
            stand-in is called with, since no norm before it is left.
        within: the module added the state itself (BLOOM).

    Attributes:
        state: what the block hands over, while it runs.
    """

    state: Tensor | None

    def __init__(
        self, fitted: LinearMap | None, *, entries: int | None = None, entering: bool = False, within: bool = False
    ) -> None:
        super().__init__()
        self.fitted, self.state = fitted, None
        self.entries, self.entering, self.within = checked(entries), entering, within

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """δ, or x + δ, in the shape of what it is called with."""
        called = called_with(args, kwargs)
        x = called if self.state is None else self.state
        if self.fitted is None:
            delta = torch.zeros_like(called)  # a tensor of its own: Falcon adds to it in place
        else:
            delta = self.fitted.delta(x).to(called.dtype).reshape(called.shape)
        return in_form(x.reshape(called.shape) + delta if self.within else delta, self.entries)

    def describe(self) -> dict[str, Any]:
        """What a configuration says of it, enough to build an empty one; without `factors` the part is gone."""
        form = {"factors": None, "rank": None} if self.fitted is None else self.fitted.describe()
        return {**form, "entries": self.entries, "entering": self.entering, "within": self.within}


class PartlyLinear:
    """What a family's block needs to hold stand-ins for its attention or MLP; comes before the family.

    Attributes:
        parts: "attention" and "mlp", those that were replaced, to the name of the child that stands in.
        counts: the slot of the cache that this block lets count tokens; None where others do, or there is no need.
    """

    family: ClassVar[type[nn.Module]]
    parts: dict[str, str]
    counts: int | None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the family's, with the entering state handed to the stand-ins that read it."""
        x = called_with(args, kwargs)
        if self.counts is not None:
            count_tokens(self.counts, x, (*args, *kwargs.values()))
        readers = [one for one in self.stand_ins().values() if one.entering]
        for reader in readers:
            reader.state = x
        try:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        finally:
            for reader in readers:
                reader.state = None

    def stand_ins(self) -> dict[str, StandIn]:
        """The stand-in of each part that was replaced."""
        return {part: getattr(self, at) for part, at in self.parts.items()}

    def describe(self) -> dict[str, Any]:
        """What a configuration says of this block: its stand-ins, where they are, and what is idle."""
        children: dict[str, Any] = self._modules  # type: ignore[attr-defined]
        stand_ins = {part: {**one.describe(), "at": self.parts[part]} for part, one in self.stand_ins().items()}
        return stand_ins | {"idle": {name: one.entries for name, one in children.items() if isinstance(one, Idle)}}

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        return (blank, (partly_linear_class, self.family), *reduced[2:])


@cache
def partly_linear_class(family: type) -> type[Any]:
    """The class of blocks of `family` that hold stand-ins."""
    return type(f"PartlyLinear{family.__name__}", (PartlyLinear, family), {"family": family, "__module__": __name__})


def make_partly_linear(block: Any, entry: Mapping[str, Any], width: int) -> None:
    """Let a block hold what `entry` describes: maps are zero, and wait for their values.

    Raises:
        DamagedError: where the block has no such modules.
    """
    places = {part: entry[part]["at"] for part in PARTS if part in entry}
    missing = [name for name in (*places.values(), *entry["idle"]) if name not in block._modules]
    if missing or not places:
        raise DamagedError(f"the configuration replaces {missing or 'no part'} of a {type(block).__name__}")
    maps = {part: _empty(block, entry[part], width) for part in places}
    for name, entries in entry["idle"].items():
        block._modules[name] = Idle(entries).train(block.training)
    for part, at in places.items():
        form = {key: entry[part][key] for key in ("entries", "entering", "within")}
        block._modules[at] = StandIn(maps[part], **form).train(block.training)
    family: Any = getattr(block, "family", type(block))
    block.__class__ = partly_linear_class(family)
    block.parts, block.counts = {**getattr(block, "parts", {}), **places}, None


def number_slots(blocks: nn.Module, kinds: Sequence[str] | None) -> None:
    """Let the attentions of a decoder use the first slots of their kind in a cache: what is gone has none.

    Models read off single slots, the first of all and the first of each kind, how many tokens went before. Where no
    attention is left for the first, a block whose attention is gone counts there.

    Args:
        blocks: the decoder's.
        kinds: of the slots, one for each block, as the configuration's `layer_types`; None where all are alike.
    """
    listed: list[Any] = list(blocks.children())
    without = [block for block in listed if without_attention(block)]
    kinds = ["all"] * len(listed) if kinds is None else kinds
    free = [index for index, block in enumerate(listed) if not isinstance(block, LinearBlock)]
    for index in [index for index in free if listed[index] not in without]:
        slot = next(slot for slot in free if kinds[slot] == kinds[index])
        free.remove(slot)
        for module in list(listed[index].modules())[1:]:  # not the block: its number says where its mask is
            vars(module).update({name: slot for name in NUMBERS if isinstance(vars(module).get(name), int)})
    for block in without:
        block.counts = 0 if block is without[0] and 0 in free else None


def without_attention(block: nn.Module) -> bool:
    """Whether a block's attention was replaced, and its MLP or the map of that is left."""
    return isinstance(block, PartlyLinear) and "attention" in block.parts


def keep_whole(model: Any, blocks: nn.Module) -> None:
    """Let accelerate put each block with maps on one device, as the family's own."""
    changed = {type(block).__name__ for block in blocks.children() if isinstance(block, LinearBlock | PartlyLinear)}
    model._no_split_modules = {*(model._no_split_modules or ()), *changed}


def called_with(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The state among the arguments of a module: by name, or the first tensor."""
    given = (kwargs.get("hidden_states"), *args, *kwargs.values())
    return next(value for value in given if isinstance(value, Tensor))


def _empty(block: nn.Module, entry: Mapping[str, Any], width: int) -> LinearMap | None:
    if entry["factors"] is None:
        return None
    like = next(parameter for parameter in block.parameters() if parameter.dtype.is_floating_point)
    device = None if like.is_meta else like.device
    return LinearMap(*empty_map(block, width, dict(entry)), dtype=like.dtype, device=device)
