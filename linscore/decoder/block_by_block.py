"""A decoder run one block at a time: every batch through block 0, then every batch through block 1, and so on.

One block's weights are in memory, and the states that entered it: that is all a decoder larger than memory needs. For
each block and batch the model's own code runs up to the block, with stand-ins for those before it; the last of them
gives the state that is kept (decisions: One block at a time).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from linscore.decoder.call import probe_tokens
from linscore.decoder.find import Decoder, token_embedding
from linscore.decoder.padding import is_tried
from linscore.decoder.run import check_causal, parts, run, watch
from linscore.decoder.stand_ins import StandIns
from linscore.decoder.states import BlockStates, SubBlocks, first_tensor
from linscore.errors import LinscoreError, reason

PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)  # what a block may be given beside tensors
INSTEAD = ": give `placement=map`"


class Weights(Protocol):
    """Where the weights of blocks are while the blocks do not run."""

    def loaded(self, index: int, ahead: int | None = None) -> AbstractContextManager[None]:
        """A context in which block `index` has its weights; those of block `ahead` may be fetched meanwhile."""


class InMemory:
    """Weights that are there all the time."""

    def loaded(self, index: int, ahead: int | None = None) -> AbstractContextManager[None]:  # noqa: ARG002
        """Nothing to do."""
        return nullcontext()


class _Done(Exception):  # noqa: N818 - it ends a run as meant
    """Ends a run of the model once the block that is meant has run."""


class BlockByBlock:
    """Runs the blocks of a decoder one at a time.

    Args:
        decoder: from `find_decoder`; its blocks need no weights.
        weights: gives them their weights.

    Raises:
        LinscoreError: where tokens see later tokens, or blocks need more than what the block before them gave.
    """

    def __init__(self, decoder: Decoder, weights: Weights) -> None:
        self.decoder, self._weights = decoder, weights
        self._stand_ins = StandIns(decoder.blocks)
        self._learn_forms()
        with self.shallow() as shallow:
            check_causal(shallow)
        for index in range(1, len(decoder.blocks)):
            self._check_inputs(index)

    @contextmanager
    def shallow(self) -> Iterator[Decoder]:
        """The decoder with one block of each kind, loaded: for what is tried on a few tokens, the same in all alike."""
        here = sorted(set(self._stand_ins.kinds))
        out = [index for index in range(len(self.decoder.blocks)) if index not in here]
        with ExitStack() as stack:
            for index in here:
                stack.enter_context(self._weights.loaded(index))
            stack.enter_context(self._stand_ins.of(out))
            yield replace(self.decoder, blocks=nn.ModuleList(self.decoder.blocks[index] for index in here))

    def parts(
        self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
    ) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """A batch as it can be run, as `linscore.decoder.run.parts` has it; what is tried for that is tried here."""
        tried = attention_mask is None or is_tried(self.decoder, attention_mask != 0)
        with nullcontext(self.decoder) if tried else self.shallow() as decoder:
            return list(parts(decoder, input_ids, attention_mask, position_ids))

    @contextmanager
    def at(self, index: int) -> Iterator[None]:
        """Block `index` has its weights, and those before it do not work, until the context is left: see `run_block`.

        The next block's weights are fetched meanwhile.
        """
        ahead = index + 1 if index + 1 < len(self.decoder.blocks) else None
        with self._weights.loaded(index, ahead), self._stand_ins.of(range(index)):
            yield

    def run_block(
        self,
        index: int,
        state: Tensor | None,
        inputs: tuple[Tensor, Tensor | None, Tensor | None],
        callback: Callable[[int, BlockStates], None] | None = None,
        sub_blocks: SubBlocks | None = None,
    ) -> Tensor:
        """Within `at(index)`: run that block on a batch and give what leaves it `[B, T, d]`.

        Args:
            index: of the block.
            state: what left the block before it on this batch, `[B, T, d]`; None for block 0.
            inputs: token ids, mask and positions, as `run` takes them.
            callback: called as by `watch`.
            sub_blocks: as in `watch`.

        Raises:
            LinscoreError: where the block does not run, and as `run`.
        """
        left: list[Tensor] = []

        def stop(_block: nn.Module, _args: Any, output: Any) -> None:
            left.append(first_tensor(output))
            raise _Done

        if state is not None:
            self._stand_ins.given[index - 1] = state
        watched = [] if callback is None else [index]
        with ExitStack() as hooks:
            hooks.enter_context(watch(self.decoder, callback or _nothing, watched, sub_blocks))
            hooks.callback(self.decoder.blocks[index].register_forward_hook(stop).remove)
            with suppress(_Done):
                run(self.decoder, *inputs)
        if not left:
            raise LinscoreError(f"{self.decoder.name}: block {index} does not run on text alone")
        return left[0]

    @contextmanager
    def after(
        self, count: int, state: Tensor | None, does: Mapping[int, Callable[[Tensor], Tensor]] | None = None
    ) -> Iterator[None]:
        """The first `count` blocks do not work, and the last of them gives `state`: the rest can be run on its tokens.

        Later blocks that `does` has are replaced by what it does to a state `[B, T, d]`.
        """
        does = does or {}
        with self._stand_ins.of({*range(count), *does}, does=does):
            if state is not None:
                self._stand_ins.given[count - 1] = state
            yield

    def _learn_forms(self) -> None:
        """Run one block of each kind, for the form in which it gives its state."""
        for index in sorted(set(self._stand_ins.kinds)):
            block = self.decoder.blocks[index]
            saw = block.register_forward_hook(lambda _block, _args, output, i=index: self._stand_ins.saw(i, output))
            with self._weights.loaded(index), self._stand_ins.of(range(index)), ExitStack() as hooks:
                hooks.callback(saw.remove)
                try:
                    self.run_block(index, None, (probe_tokens(self.decoder), None, None))
                except (LinscoreError, MemoryError, torch.OutOfMemoryError):
                    raise
                except Exception as error:  # whatever a family raises that lacks what an earlier block leaves behind
                    raise self._needs_more(f"block {index} does not run alone ({reason(error)})") from error

    def _check_inputs(self, index: int) -> None:
        """Raise LinscoreError where what a block is given hangs on more than what the block before it gave."""
        first, again = (self._inputs(index, disturbed) for disturbed in (False, True))
        odd = next((value for value in first if not isinstance(value, (Tensor, *PLAIN))), None)
        if odd is not None:
            raise self._needs_more(f"block {index} is given a {type(odd).__name__} beside its state")
        if len(first) != len(again) or not all(map(_same, first, again)):
            raise self._needs_more(f"what block {index} is given hangs on more than the block before it")

    def _inputs(self, index: int, disturbed: bool) -> list[Any]:
        """What block `index` is given on a few tokens, where those before give something, or something else."""
        block, tokens = self.decoder.blocks[index], probe_tokens(self.decoder)
        state = torch.linspace(-1, 1, self.decoder.width).expand(*tokens.shape, -1)
        state = state.to(token_embedding(self.decoder.backbone).weight)  # type: ignore[union-attr]
        found: list[Any] = []

        def keep(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.extend(_leaves([*args, *kwargs.values()]))
            raise _Done

        with self._stand_ins.of(range(index), hand_on=disturbed), ExitStack() as hooks:
            if disturbed:
                self._stand_ins.given.update(dict.fromkeys(range(index - 1), 2 * state + 1))
            self._stand_ins.given[index - 1] = state
            hooks.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)
            with suppress(_Done):
                run(self.decoder, tokens)
        return found

    def _needs_more(self, what: str) -> LinscoreError:
        return LinscoreError(f"{self.decoder.name}: {what}, so it cannot run one block at a time{INSTEAD}")


def _nothing(_index: int, _states: BlockStates) -> None:
    """Watches nothing."""


def _leaves(values: Any) -> Iterator[Any]:
    """Single values in lists and tuples."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _leaves(value)
        else:
            yield value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return bool(one == other)
