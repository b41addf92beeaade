"""Blocks put out of work, so that the rest of a model runs without their weights.

The model's own code still runs around them: what it makes for its blocks beside the state (masks by layer type,
positions) and what it does between two of them is as it always is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from linscore.decoder.states import entering_state, first_tensor


class StandIns:
    """Stands in for some blocks of a list: each gives what it is called with, or a state that is kept here.

    Attributes:
        kinds: for each block, the first that is built like it.
        given: by index, what the stand-in of a block gives in place of what it is called with.
    """

    def __init__(self, blocks: nn.ModuleList) -> None:
        self._blocks = blocks
        self._besides: dict[int, tuple[Any, ...] | None] = {}  # by kind; None: a block gives a tensor alone
        self.kinds = kinds(blocks)
        self.given: dict[int, Tensor] = {}
        self._does: Mapping[int, Callable[[Tensor], Tensor]] = {}
        self._hand_on = False

    def saw(self, index: int, output: Any) -> None:
        """Note in which form block `index`, which has run on a few tokens, gives its state: stand-ins give it likewise.

        Raises:
            LinscoreError: for a block that gives no state.
        """
        first_tensor(output)
        self._besides[self.kinds[index]] = tuple(output[1:]) if isinstance(output, (tuple, list)) else None

    @contextmanager
    def of(
        self,
        indices: Collection[int],
        *,
        hand_on: bool = False,
        does: Mapping[int, Callable[[Tensor], Tensor]] | None = None,
    ) -> Iterator[None]:
        """For as long as the context lasts, these blocks do nothing, and need no weights.

        Args:
            indices: of the blocks.
            hand_on: they give, beside a state, the tensors that blocks gave on the few tokens on which they ran.
            does: what some of them make of the state `[B, T, d]` that they are called with, in place of nothing.
        """
        self._hand_on, self._does = hand_on, does or {}
        with ExitStack() as undo:
            undo.callback(self.given.clear)
            for index in indices:
                block = self._blocks[index]
                undo.callback(restore_forward, block, vars(block).get("forward"))
                block.forward = partial(self._stand_in, index)
            yield

    def _stand_in(self, index: int, *args: Any, **kwargs: Any) -> Any:
        state = self.given.get(index)
        if state is None:
            state = entering_state(args, kwargs)
            state = self._does[index](state) if index in self._does else state
        besides = self._besides[self.kinds[index]]
        if besides is None:
            return state
        return (state, *(besides if self._hand_on else [None if isinstance(b, Tensor) else b for b in besides]))


def restore_forward(block: nn.Module, forward: Any) -> None:
    """Give a module back the `forward` that it had as an attribute of its own; None: that of its class."""
    if forward is None:
        del block.forward
    else:
        block.forward = forward


def kinds(blocks: nn.ModuleList) -> list[int]:
    """For each block, the first block that has the same modules, and parameters of the same shapes."""
    first: dict[tuple[Any, ...], int] = {}
    return [first.setdefault(_built(block), index) for index, block in enumerate(blocks)]


def _built(block: nn.Module) -> tuple[Any, ...]:
    modules = tuple((path, type(module)) for path, module in block.named_modules())
    return modules, tuple((path, tensor.shape) for path, tensor in block.named_parameters())
