"""Decoder blocks that are affine maps of the residual stream, y = x + (x − μ_x) B + μ_δ.

Saved models bring this file along, for `linear_model` beside it: it imports nothing but torch and transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

# Everything else a replacement takes over from the block: what its model reads off it, its mode and its hooks.
_OWN = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
_OWN |= {"slot", "entries", "factors", "parts", "counts"}

MOST_ENTRIES = 16  # of the tuple that a block returns: some three in transformers


class DamagedError(ValueError):
    """A saved model that does not hold what its configuration says."""


class LinearMap(nn.Module):
    """δ = (x − μ_x) B + μ_δ of states x, as a module.

    B is `weight` `[d, d]`, `down @ up` (`[d, r]`, `[r, d]`) or the diagonal matrix of `scale` `[d]`, in the model's
    dtype; μ_x is `center` and μ_δ is `bias`, `[d]`, and never narrower than float32.

    x − μ_x is formed first, in float32: in xB + (μ_δ − μ_x B) the means of outlier features, 30 to 100 σ, would cancel
    in 16 bits, and a rounded B would move the mean of δ.

    Args:
        factors: what makes up B, by the names above, in the order x meets them; nothing for B = 0.
        mean_x: μ_x `[d]`.
        mean_delta: μ_δ `[d]`.
        dtype: of B; float32 by default.
        device: of everything.
    """

    bias: nn.Parameter
    center: Tensor

    def __init__(
        self,
        factors: Mapping[str, Tensor],
        mean_x: Tensor,
        mean_delta: Tensor,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        nn.Module.__init__(self)  # not super(): in a family's class that would build the block that is replaced
        self.factors = tuple(factors)
        for name, value in factors.items():
            self.register_parameter(name, nn.Parameter(value.to(device, dtype, copy=True)))
        means = dtype if dtype is torch.float64 else torch.float32
        self.bias = nn.Parameter(mean_delta.to(device, means, copy=True))
        self.register_buffer("center", mean_x.to(device, means, copy=True))

    def delta(self, x: Tensor) -> Tensor:
        """(x − μ_x) B + μ_δ `[..., d]`, in the dtype of μ_δ."""
        moved = x - self.center if self.factors else torch.zeros_like(self.center).expand_as(x)
        for name in self.factors:
            factor = self.get_parameter(name)
            moved = moved.to(factor.dtype)
            moved = moved @ factor if factor.ndim == 2 else moved * factor
        return moved + self.bias

    @torch.no_grad()
    def take(self, factors: Mapping[str, Tensor], mean_x: Tensor, mean_delta: Tensor) -> None:
        """Take the values of a map of this form."""
        values = {**factors, "center": mean_x, "bias": mean_delta}
        for name, value in values.items():
            getattr(self, name).copy_(value)

    def describe(self) -> dict[str, Any]:
        """What a configuration says of this map, enough to build an empty one."""
        rank = self.get_parameter("down").shape[1] if "down" in self.factors else None
        return {"factors": list(self.factors), "rank": rank}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LinearMap:
        """Move or cast; the means move along, but are never cast to 16 bits."""
        means = (self.bias, self.bias.grad, self.center)

        def apply(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            narrow = result.dtype.itemsize < torch.float32.itemsize
            return tensor.to(result.device, torch.float32) if narrow and any(tensor is m for m in means) else result

        super()._apply(apply, recurse)
        return self


class LinearBlock(LinearMap):
    """The affine map of a block, as a block.

    In a model it is an instance of its family's own block class, since that is how transformers finds the blocks whose
    states it records, checkpoints and shards; it takes what that block takes and returns what that block returns.

    Args:
        factors, mean_x, mean_delta, dtype, device: of the map.
        slot: where the replaced block's attention kept its keys in a cache; None without a cache.
        entries: how long a tuple the replaced block returned; None if it returned a tensor.
    """

    family: ClassVar[type[nn.Module]] = nn.Module  # the class of the block that is replaced

    def __init__(
        self,
        factors: Mapping[str, Tensor],
        mean_x: Tensor,
        mean_delta: Tensor,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        slot: int | None = None,
        entries: int | None = None,
    ) -> None:
        LinearMap.__init__(self, factors, mean_x, mean_delta, dtype=dtype, device=device)
        self.slot, self.entries = slot, checked(entries)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Map the states `[..., d]`; of the family's other arguments only the cache matters."""
        if self.slot is not None:
            count_tokens(self.slot, hidden_states, (*args, *kwargs.values()))
        return in_form((hidden_states + self.delta(hidden_states)).to(hidden_states.dtype), self.entries)

    def describe(self) -> dict[str, Any]:
        """What a configuration says of this block, enough to build an empty one: its form, rank and `entries`."""
        return {**super().describe(), "entries": self.entries}

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        return (blank, (linear_class, self.family), *reduced[2:])


def replacement(
    block: nn.Module,
    factors: Mapping[str, Tensor],
    mean_x: Tensor,
    mean_delta: Tensor,
    *,
    slot: int,
    entries: int | None,
) -> LinearBlock:
    """A linear block that takes the place of `block`, with its attributes, mode and hooks, on its device.

    `block` is not to be used beside it: they share hooks. The other arguments are those of `LinearBlock`.
    """
    family: Any = getattr(block, "family", type(block))
    like = next((p for p in block.parameters() if p.dtype.is_floating_point), torch.empty(0))
    # A server may build parameters without memory and fill them later, but never buffers: μ_x stays where it was made.
    device = None if like.is_meta else like.device
    linear = linear_class(family)(
        factors, mean_x, mean_delta, dtype=like.dtype, device=device, slot=slot, entries=entries
    )
    own = {*_OWN, *linear._parameters, *linear._buffers}
    vars(linear).update({name: value for name, value in vars(block).items() if name not in own})
    return linear


@cache
def linear_class(family: type) -> type[LinearBlock]:
    """The class of linear blocks that are also instances of `family`."""
    return type(f"Linear{family.__name__}", (LinearBlock, family), {"family": family, "__module__": __name__})


def blank(make: Callable[[type], type], family: type) -> Any:
    """An instance without content, for copies and pickles: classes that are made when needed have no address."""
    kind: Any = make(family)
    return kind.__new__(kind)


def empty_map(block: nn.Module, width: int, entry: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Zeros for a `LinearBlock` as `entry` describes it, in the place of `block`, whose parameters know its width."""
    factors, r = entry["factors"], 0 if entry["rank"] is None else entry["rank"]
    shapes = {"weight": (width, width), "down": (width, r), "up": (r, width), "scale": (width,)}
    fits = any(width in parameter.shape for parameter in block.parameters()) and 0 <= r <= width
    if factors not in ([], ["weight"], ["down", "up"], ["scale"]) or not fits:
        raise DamagedError(f"the configuration has a linear block of unknown form: {entry}, width {width}")
    return {name: torch.zeros(shapes[name]) for name in factors}, torch.zeros(width), torch.zeros(width)


def checked(entries: Any) -> int | None:
    """The length of a tuple as a configuration says it, which anyone can write.

    Raises:
        DamagedError: for what no block of a family returns.
    """
    if entries is not None and not (type(entries) is int and 1 <= entries <= MOST_ENTRIES):
        raise DamagedError(f"the configuration has a block that returns {entries!r} values")
    return entries


def in_form(y: Tensor, entries: int | None) -> Any:
    """A tensor as what it stands for gave it: alone, or the first of a tuple of so many entries."""
    return y if entries is None else (y, *[None] * (entries - 1))


def count_tokens(slot: int, x: Tensor, arguments: Iterable[Any]) -> None:
    """Let a slot of the cache among a block's arguments count the tokens of x `[batch, seq, d]`.

    Models read off single slots, the first of each kind of attention, how many tokens went before. A slot that stays
    empty there gives silently wrong positions and masks; keys of width 1 keep every slot right, whatever is replaced.
    """
    for held in (value for value in arguments if isinstance(value, Cache)):
        layer = held.layers[slot] if slot < len(held.layers) else None
        if layer is not None and not isinstance(layer, CacheLayerMixin):
            continue  # a state-space model's slot, or that of a block without attention: nothing is read off it
        keys = getattr(layer, "keys", None)
        heads, width = (keys.shape[1], keys.shape[3]) if keys is not None and keys.ndim == 4 else (1, 1)
        zeros = x.new_zeros(x.shape[0], heads, x.shape[1], width)
        held.update(zeros, zeros, slot)
