"""What a cut costs, measured: the loss on a text with stand-ins in the place of units, by hooks on the whole model.

The states that leave each block are kept for the cut as it is, so that a trial runs only what comes after its change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from linscore.decoder.block_by_block import BlockByBlock, InMemory
from linscore.decoder.call import evaluating, uncompiled
from linscore.decoder.find import Decoder
from linscore.decoder.in_use import in_use
from linscore.decoder.kept_states import KeptStates
from linscore.decoder.states import SubBlocks, first_tensor
from linscore.decoder.sub_stand_ins import SubStandIns
from linscore.errors import LinscoreError
from linscore.evaluation.perplexity import batch_loss
from linscore.machine.memory import Fitting
from linscore.models.linear_block import LinearMap
from linscore.spans import Unit
from linscore.statistics.affine import AffineMap
from linscore.text.batch import Batch, Tokens, read_batch

StandIn = LinearMap | None  # None: nothing is added
Cut = Mapping[Unit, StandIn]


def stand_in(fitted: AffineMap | None, like: Tensor) -> StandIn:
    """A map as it will be computed in the saved model; `like` has its dtype and device."""
    if fitted is None:
        return None
    return LinearMap(fitted.factors_by_name(), fitted.mean_x, fitted.mean_delta, dtype=like.dtype, device=like.device)


class Replaced:
    """A decoder of which some units are replaced for a while, run from a block on.

    Args:
        decoder: with its language-model head.
        sub_blocks: from `find_sub_blocks`; None where only whole blocks are replaced.

    Raises:
        LinscoreError: where blocks need more than what the block before them gave, as `BlockByBlock`.
    """

    def __init__(self, decoder: Decoder, sub_blocks: SubBlocks | None) -> None:
        self.decoder = decoder
        self.one = BlockByBlock(decoder, InMemory())
        self._subs = None if sub_blocks is None else SubStandIns(decoder, sub_blocks)

    @contextmanager
    def by(self, cut: Cut, first: int = 0, state: Tensor | None = None) -> Iterator[None]:
        """The units of `cut` are replaced; block `first` is the first that runs, from the `state` that enters it."""
        whole: dict[int, Callable[[Tensor], Tensor]] = {}
        for unit, made in cut.items():
            if not unit.part:
                whole |= dict.fromkeys(unit.span.blocks, _enters) | {unit.span.first: partial(_leaves, made)}
        parts: dict[Any, Any] = {
            (unit.span.first, unit.part): None if made is None else made.delta
            for unit, made in cut.items()
            if unit.part and unit.span.first >= first
        }
        with ExitStack() as stack:
            stack.enter_context(self.one.after(first, state, whole))
            if self._subs is not None and parts:
                stack.enter_context(self._subs.of(parts))
            yield


def _enters(state: Tensor) -> Tensor:
    return state


def _leaves(made: StandIn, state: Tensor) -> Tensor:
    """What leaves a stand-in, computed as in a `LinearMap`."""
    return state if made is None else (state + made.delta(state)).to(state.dtype)


class Trials:
    """Measures cuts of a decoder on a text.

    Args:
        replaced: the decoder.
        batches: of the text, with labels of −100 for what is not to be predicted, as `window_batches` gives them.

    Attributes:
        cut: the units that are replaced by now.
        loss: nats per token with them.
        trials: how many cuts were measured.
        passes: how much of the model they ran, in whole runs over the text.

    Raises:
        LinscoreError: where the text has no token to predict, or the loss is not finite.
    """

    def __init__(self, replaced: Replaced, batches: Iterable[Batch]) -> None:
        self._replaced, self._batches = replaced, [read_batch(batch) for batch in batches]
        self.tokens = sum(int(batch.predicted.sum()) for batch in self._batches)
        if self.tokens == 0:
            raise LinscoreError("the text to measure on holds no token to predict: give a longer one")
        device = next(replaced.decoder.model.parameters()).device
        self.depth = len(replaced.decoder.blocks)
        self._left = [KeptStates(device) for _ in range(self.depth)]  # what leaves each block
        self._fitting = Fitting()
        self.cut: Cut = {}
        self.trials, self.passes = 0, 0.0
        self.loss = self.take({})
        if not math.isfinite(self.loss):
            raise LinscoreError(f"{replaced.decoder.name} predicts NaN or infinity on this text: check its weights")

    def measure(self, cut: Cut) -> float:
        """The loss with another cut, which stays untaken; infinite where it is not finite."""
        self.trials += 1
        return self._measure(cut, self._first(cut), None)

    def take(self, cut: Cut) -> float:
        """Make a cut the one that later ones are measured from; its loss."""
        first = self._first(cut) if self.cut or cut else 0
        self.loss = self._measure(cut, first, self._left)
        self.cut = dict(cut)
        return self.loss

    def _first(self, cut: Cut) -> int:
        """The first block in which two cuts differ, from which a run has to begin."""
        differ = [
            unit.span.first for unit in {*cut, *self.cut} if cut.get(unit, _MISSING) is not self.cut.get(unit, _MISSING)
        ]
        return min(differ, default=self.depth)

    def _measure(self, cut: Cut, first: int, kept: list[KeptStates] | None) -> float:
        decoder, total = self._replaced.decoder, 0.0
        self.passes += (self.depth - first) / self.depth
        with in_use(decoder), torch.no_grad(), evaluating(decoder.model), uncompiled():
            for number, batch in enumerate(self._batches):

                def run(start: int, stop: int, number: int = number, batch: Tokens = batch) -> float:
                    return self._rows_loss(batch, number, start, stop, cut, first, kept)

                total += sum(self._fitting.run(len(batch.input_ids), run))
        return total / self.tokens if math.isfinite(total) else math.inf

    def _rows_loss(
        self, batch: Tokens, number: int, start: int, stop: int, cut: Cut, first: int, kept: list[KeptStates] | None
    ) -> float:
        """Nats of some rows of a batch, summed; as many as there is memory for."""
        decoder: Any = self._replaced.decoder
        state = self._left[first - 1][number][start:stop] if first else None

        def keep(index: int, found: Tensor) -> None:
            assert kept is not None
            kept[index].put_rows(number, found, start, len(batch.input_ids))

        keeps = _keeping(decoder, keep, first) if kept is not None else nullcontext()
        with self._replaced.by(cut, first, state), keeps:
            return batch_loss(decoder.model, _as_batch(batch.rows(start, stop)))[0]


_MISSING: Any = object()


def _as_batch(batch: Tokens) -> dict[str, Tensor]:
    return {name: part for name, part in batch._asdict().items() if part is not None and name != "mask"}


@contextmanager
def _keeping(decoder: Decoder, keep: Callable[[int, Tensor], None], first: int) -> Iterator[None]:
    """`keep` is given what leaves the blocks from `first` on."""

    def left(index: int, _block: nn.Module, _args: Any, output: Any) -> None:
        keep(index, first_tensor(output))

    with ExitStack() as hooks:
        for index in range(first, len(decoder.blocks)):
            hooks.callback(decoder.blocks[index].register_forward_hook(partial(left, index)).remove)
        yield
