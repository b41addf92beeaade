"""Which modules of a block give what its attention and MLP add, and which serve nothing else: found by trying."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from linscore.decoder.call import probe_tokens
from linscore.decoder.find import Decoder
from linscore.decoder.run import run
from linscore.decoder.states import SubBlocks, entering_state, first_tensor
from linscore.decoder.sub_blocks import disturbed
from linscore.errors import LinscoreError
from linscore.models.linear_parts import PARTS, StandIn

__all__ = ["Call", "Place", "calls_of", "find_idle", "find_places", "giving"]


class Place(NamedTuple):
    """Where a part gives what it adds, δ.

    Attributes:
        path: of the module whose output is δ; or x + δ, if it is `at` itself and `within`.
        at: the child of the block that `path` is in, or is.
        within: this child gives x + δ.
        entries: how long a tuple this child returns; None if it returns a tensor.
    """

    path: str
    at: str
    within: bool
    entries: int | None

    def added(self, output: Any, x: Tensor) -> Tensor:
        """δ `[batch, seq, d]` from what the module at `path` gives."""
        out = first_tensor(output).reshape(x.shape)
        return out - x if self.within and self.path == self.at else out.clone()

    def overwritten(self, output: Any, x: Tensor, delta: Tensor) -> Any:
        """What the module at `path` would give if it added this δ."""
        out = (x + delta if self.within and self.path == self.at else delta).reshape(first_tensor(output).shape)
        return (out, *output[1:]) if isinstance(output, tuple) else out


class Call(NamedTuple):
    """What a block is called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def x(self) -> Tensor:
        """The entering state `[batch, seq, d]`."""
        return entering_state(self.args, self.kwargs)

    def of(self, block: nn.Module) -> Tensor:
        """The state that a block gives; it gets copies, since some add to what they are given in place."""
        with torch.no_grad():
            return first_tensor(block(*map(_copied, self.args), **{key: _copied(a) for key, a in self.kwargs.items()}))


def calls_of(decoder: Decoder, blocks: Collection[int]) -> dict[int, Call]:
    """What these blocks are called with on a few tokens."""
    calls: dict[int, Call] = {}

    def keep(index: int, _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[index] = Call(tuple(map(_copied, args)), {key: _copied(value) for key, value in kwargs.items()})

    with ExitStack() as hooks:
        for index in blocks:
            hook = decoder.blocks[index].register_forward_pre_hook(partial(keep, index), with_kwargs=True)
            hooks.callback(hook.remove)
        run(decoder, probe_tokens(decoder))
    return calls


def find_places(block: nn.Module, call: Call, sub_blocks: SubBlocks) -> dict[str, Place]:
    """The place of attention and MLP.

    Raises:
        LinscoreError: where more is done with what a part adds than to add it.
    """
    paths = {part: getattr(sub_blocks, part) for part in PARTS}
    for part, path in paths.items():
        at = path.split(".")[0]
        paths[part] = at if isinstance(block.get_submodule(at), StandIn) else path
    seen = outputs_of(block, call, {*paths.values(), *(path.split(".")[0] for path in paths.values())})
    attention = _place(block, "attention", paths["attention"], seen, call.x)
    added = attention.added(seen[attention.path], call.x)
    mlp = _place(block, "mlp", paths["mlp"], seen, call.x if sub_blocks.parallel else call.x + added)
    return {"attention": attention, "mlp": mlp}


def _place(block: nn.Module, part: str, path: str, seen: Mapping[str, Any], x: Tensor) -> Place:
    at = path.split(".")[0]
    child = block.get_submodule(at)
    if isinstance(child, StandIn):
        return Place(path, at, child.within, child.entries)
    out, delta = first_tensor(seen[at]).reshape(x.shape), first_tensor(seen[path]).reshape(x.shape)
    within = not torch.equal(torch.nan_to_num(out), torch.nan_to_num(delta))
    if within and not alike(out, x + delta):
        raise LinscoreError(f"{type(block).__name__} does more with what its {part} gives than to add it")
    return Place(path, at, within, entries_of(seen[at]))


def find_idle(block: nn.Module, call: Call, places: Collection[Place]) -> dict[str, int | None]:
    """The children whose output changes nothing once these places give what they gave, and their `entries`."""
    names = [name for name, _ in block.named_children()]
    seen = outputs_of(block, call, {*names, *(place.path for place in places)})
    with giving(block, {place.path: partial(_again, seen[place.path]) for place in places}):
        expected = torch.nan_to_num(call.of(block))
        idle = {}
        for name in (name for name in names if name in seen and name not in {place.at for place in places}):
            with disturbed(block.get_submodule(name), call.x):
                if torch.equal(torch.nan_to_num(call.of(block)), expected):
                    idle[name] = entries_of(seen[name])
    return idle


def outputs_of(block: nn.Module, call: Call, paths: Collection[str]) -> dict[str, Any]:
    """What these modules of a block give, those that run."""
    seen: dict[str, Any] = {}

    def keep(path: str, output: Any) -> Any:
        seen[path] = _again(output, output)
        return output

    with giving(block, {path: partial(keep, path) for path in paths}):
        call.of(block)
    return seen


@contextmanager
def giving(block: nn.Module, outputs: Mapping[str, Callable[[Any], Any]]) -> Iterator[None]:
    """For as long as the context lasts, modules give what is made of their output."""
    with ExitStack() as hooks:
        for path, made in outputs.items():
            hook = block.get_submodule(path).register_forward_hook(lambda _m, _args, output, made=made: made(output))
            hooks.callback(hook.remove)
        yield


def entries_of(output: Any) -> int | None:
    """How long a tuple is; None for a tensor."""
    return len(output) if isinstance(output, tuple) else None


def alike(found: Tensor, expected: Tensor) -> bool:
    """Whether states are the same but for rounding."""
    size = float(torch.nan_to_num(expected, 0.0, 0.0, 0.0).abs().max())
    tolerance = max(1e-4, 4 * torch.finfo(expected.dtype).eps) * size
    return torch.allclose(found, expected, rtol=0, atol=tolerance, equal_nan=True)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _again(output: Any, _output: Any) -> Any:
    """The same in memory of its own: Falcon adds its attention to the MLP's output in place."""
    return tuple(map(_copied, output)) if isinstance(output, tuple) else _copied(output)
