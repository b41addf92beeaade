"""How a decoder is run on batches whose states are collected: here all of it at once, in `streamed` block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple, Protocol

from torch import Tensor

from linscore.decoder.find import Decoder, weight_sample
from linscore.decoder.run import parts, run, watch
from linscore.decoder.states import BlockStates, SubBlocks
from linscore.machine.memory import Fitting
from linscore.scoring.first_loss import FirstLoss, first_loss, first_rows
from linscore.scoring.span_states import SpanStates
from linscore.statistics.moments import Moments
from linscore.text.batch import Batch, Tokens

AsRun = Iterable[tuple[Tensor, Tensor, Tensor | None]]  # as `linscore.decoder.run.parts` has it

Ran = Callable[[int, int, int], None]  # batch of this number has run through one more block, or all: b of so many


def quiet_ran(_number: int, _blocks: int, _of: int) -> None:
    """Tells nobody."""


class Watcher(NamedTuple):
    """What is read of a run.

    Attributes:
        take: called with the number of the batch, the first of its rows that is run, the index of a block and the
            states around it. Rows that could not be run to their end may come again: each is taken once.
        settle: called once what was taken can be waited for; all of it, or all but that of one batch.
        blocks: those that are watched.
        sub_blocks: whose contributions are watched too.
        spans: what they need is held as they say.
        added: the moments that were added to since the last call, by name.
        ran: called as a batch gets on, see `Ran`.
        between: called, with the next block and what the run can be gone on from there, where it is worth saving.
        begun: what `between` was called with, of a run that is gone on with.
    """

    take: Callable[[int, int, int, BlockStates], None]
    settle: Callable[[int | None], None]
    blocks: set[int]
    sub_blocks: SubBlocks | None
    spans: SpanStates
    added: Callable[[], dict[str, Moments]]
    ran: Ran = quiet_ran
    between: Callable[[int, dict[str, Tensor]], None] | None = None
    begun: tuple[int, Mapping[str, Tensor]] | None = None


class Way(Protocol):
    """How batches are run.

    Attributes:
        tells: whether a group takes so long that `ran` is worth telling, not only its end.
    """

    tells: bool

    @property
    def weight_sample(self) -> list[float] | None:
        """As `linscore.decoder.find.weight_sample` has it, once all was run."""

    def trying(self) -> AbstractContextManager[Decoder]:
        """A decoder, with the weights of its blocks, for what is tried on a few tokens."""

    def groups(self, batches: Iterable[Batch], first: int = 0) -> Iterator[list[Batch]]:
        """The batches in groups, each run as one; `first`: so many in the first one, as a run before had it."""

    def go_on(self, weight_sample: list[float] | None) -> None:
        """A run that had these weights is gone on with."""

    def put_by(self, name: str, moments: Moments) -> None:
        """These moments have come from a file."""

    def parts(self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> AsRun:
        """A batch as it can be run."""

    def run(self, batches: Mapping[int, Tokens], watcher: Watcher) -> None:
        """Run batches of one group, by their numbers."""

    def first_loss(self, batch: Tokens) -> FirstLoss | None:
        """The loss on the first batch, once its group was run."""

    def to_solve(self, moments: Mapping[str, Moments]) -> Mapping[str, Moments]:
        """The moments, each where it is to be solved."""


class Whole:
    """Every batch through all blocks."""

    tells = False

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._fitting = decoder, Fitting()

    @property
    def weight_sample(self) -> list[float] | None:
        """A few of its weights."""
        return weight_sample(self._decoder)

    def trying(self) -> AbstractContextManager[Decoder]:
        """The decoder itself."""
        return nullcontext(self._decoder)

    def go_on(self, weight_sample: list[float] | None) -> None:
        """Nothing is needed of it: the weights are here."""

    def put_by(self, name: str, moments: Moments) -> None:
        """They stay where they are."""

    def groups(self, batches: Iterable[Batch], first: int = 0) -> Iterator[list[Batch]]:  # noqa: ARG002
        """Each batch by itself."""
        return ([batch] for batch in batches)

    def parts(self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> AsRun:
        """A batch as it can be run."""
        return parts(self._decoder, input_ids, attention_mask, position_ids)

    def run(self, batches: Mapping[int, Tokens], watcher: Watcher) -> None:
        """Run batches, one after the other; what was taken of each is settled after its last block.

        Where there is no memory for all its rows, they are run in parts.
        """
        for number, tokens in batches.items():
            some = partial(self._run, number, tokens, watcher)
            list(self._fitting.run(len(tokens.input_ids), some, partial(watcher.settle, None)))
            watcher.ran(number, 1, 1)

    def _run(self, number: int, tokens: Tokens, watcher: Watcher, first: int, stop: int) -> None:
        some = tokens.rows(first, stop)
        take = partial(watcher.take, number, first)
        with watcher.spans.collecting(), watch(self._decoder, take, watcher.blocks, watcher.sub_blocks):
            run(self._decoder, some.input_ids, some.mask, some.position_ids)

    def first_loss(self, batch: Tokens) -> FirstLoss | None:
        """The loss on the first batch."""
        return first_loss(self._decoder, first_rows(batch))

    def to_solve(self, moments: Mapping[str, Moments]) -> Mapping[str, Moments]:
        """The moments where they are: on the device of their block."""
        return moments
