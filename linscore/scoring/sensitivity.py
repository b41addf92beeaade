"""Second moments of the loss's gradients at the states after blocks and attentions, on the first tokens of a text.

A pass of its own before the blocks are scored, forwards and backwards, so that what cannot have gradients is refused at
once. Its moments are "gradient.3" and, where the MLP reads what the attention has added, "gradient.3.attention".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from linscore.decoder.gradients import loss_gradients
from linscore.decoder.padding import of_one_length
from linscore.errors import LinscoreError
from linscore.machine.memory import Fitting
from linscore.scoring.collect import Collector
from linscore.scoring.names import MomentsName
from linscore.scoring.parts import Reader
from linscore.spans import Part
from linscore.statistics.moments import Moments
from linscore.text.batch import Batch, read_batch

__all__ = ["Gradients", "take_gradients"]

AT_ONCE = 4096  # tokens, whose logits and activations of one block are held


def take_gradients(collector: Collector, batches: Iterable[Batch]) -> tuple[Gradients, Iterable[Batch]]:
    """The gradients on the first batches, where a sensitivity is asked for, and all batches from the first one on.

    Raises:
        LinscoreError: as `Gradients.collect`.
    """
    gradients, tokens = Gradients(collector), collector.options.sensitivity
    if tokens is None:
        return gradients, batches
    if collector.options.encoder:
        raise LinscoreError("`sensitivity` is of the loss of the next token, which an `encoder` has not: leave it out")
    given, held, count = iter(batches), list[Batch](), 0
    while count < tokens and (batch := next(given, None)) is not None:
        held.append(batch)
        count += int(read_batch(batch).real.sum())
    if held:
        gradients.collect(held, tokens)
    return gradients, chain(held, given)


class Gradients:
    """Collects the moments of gradients for the blocks and spans of a collector.

    Attributes:
        moments: by their names.
        tokens: how many have a next one, and count.
    """

    def __init__(self, collector: Collector) -> None:
        self.moments: dict[str, Moments] = {}
        self.tokens = 0
        self._collector, self._fitting = collector, Fitting()
        self._reader = Reader(collector.options)
        self._blocks = sorted({*collector.indices, *(span.last for span in collector.spans.spans)})
        found = collector.sub_blocks
        self._attention = None if found is None or found.parallel else found

    def collect(self, batches: Sequence[Batch], tokens: int) -> None:
        """Take the gradients on whole sequences of these batches, until there are so many tokens.

        Raises:
            LinscoreError: as `loss_gradients`, and for batches that give positions, or a text without a token to
                predict.
        """
        for batch in batches:
            for ids, counting in self._sequences(batch):
                if self.tokens >= tokens:
                    return
                wanted = -(-(tokens - self.tokens) // max(1, int(counting[0].sum())))
                self._add(ids[:wanted], counting[:wanted])
        if not self.tokens:
            raise LinscoreError(
                "no token of the text has one before it: give longer sequences, or leave out `sensitivity`"
            )
        wrong = next((name for name, one in self.moments.items() if one.pilot is None), None)
        if wrong is not None:
            raise LinscoreError(f"not one row of {wrong} is finite (NaN or infinity): try another `dtype`")

    def _sequences(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """Token ids `[b, t]` without padding, as many as run at once, and which of them count and have a next one."""
        tokens, folds = self._reader.read(batch)
        if tokens.position_ids is not None:
            raise LinscoreError("`sensitivity` is of rows from their first token on: give batches without positions")
        counting = self._reader.part(tokens, folds).counting
        for rows in of_one_length(tokens.real):
            real = tokens.real[rows]
            ids, of_ids = (all_[rows][real].view(len(real), -1) for all_ in (tokens.input_ids, counting))
            if ids.shape[1] > 1:
                at_once = max(1, AT_ONCE // ids.shape[1])
                yield from zip(ids.split(at_once), of_ids[:, :-1].split(at_once), strict=True)

    def _add(self, ids: Tensor, counting: Tensor) -> None:
        """Take the gradients of sequences; each once, where there is memory for fewer of them at a time."""
        done: dict[str, int] = {}

        def run(first: int, stop: int) -> None:
            def receive(index: int, part: Part | None, gradient: Tensor) -> None:
                name = str(MomentsName.gradient(index, part))
                begin, done[name] = max(first, done.get(name, 0)), max(stop, done.get(name, 0))
                if begin < stop:
                    self._update(name, gradient[begin - first :], counting[begin:stop])

            loss_gradients(self._collector.decoder, ids[first:stop], receive, self._blocks, self._attention)

        list(self._fitting.run(len(ids), run))
        self.tokens += int(counting.sum())

    def _update(self, name: str, gradient: Tensor, counting: Tensor) -> None:
        states = gradient.flatten(0, 1)
        if name not in self.moments:
            self.moments[name] = self._collector.new_moments(states.shape[-1], 1, states.device, folds=1)
        rows = None if counting.all() else counting.flatten().nonzero()[:, 0].to(states.device)
        self.moments[name].update(states, delta=torch.zeros_like(states[:, :1]), rows=rows)
