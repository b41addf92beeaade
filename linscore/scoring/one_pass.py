"""One pass over the batches of a text: what is counted beside the moments, and where it stops and is gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

from linscore.errors import LinscoreError
from linscore.machine.signals import held_back
from linscore.scoring.collect import Collector
from linscore.scoring.kept import Kept, Position
from linscore.scoring.looks import Looks
from linscore.statistics.moments import Moments
from linscore.text.batch import Batch, TokenDigest, read_batch

__all__ = ["OnePass"]


class OnePass:
    """Gives batches to a collector, in groups as its way of running them has it.

    A run that is gone on with reads again what it had read, to see that it is the same text, and does not run it.

    Args:
        collector: a new one; of a run that is gone on with it is given the moments.
        kept: where the run is kept while it lasts; None: nowhere.

    Attributes:
        digest: of the token ids.
        first_loss: on the first sequences; None without a head, or without a batch.
        looks: at the held-out scores along the way.
    """

    def __init__(self, collector: Collector, kept: Kept | None = None) -> None:
        self._collector, self._kept = collector, kept
        former = self._former = None if kept is None else kept.restore(collector)
        options = collector.options
        self.digest, self._read = TokenDigest(), TokenDigest()
        self.first_loss = former.first_loss if former else None
        self.looks = Looks(collector.indices, options.folds, options.until_stable, former.curve if former else ())
        self._batches, self._begun = 0, former.batches if former else 0
        self._saved, self._complete = self._begun, True
        self._started = time.perf_counter() - (former.seconds if former else 0.0)

    @property
    def seconds(self) -> float:
        """Spent on the pass, before it was interrupted too."""
        return time.perf_counter() - self._started

    def run(self, batches: Iterable[Batch], progress: Callable[[int], None] | None = None) -> None:
        """Take all batches, or as many as it takes to be stable.

        After Ctrl-C or SIGTERM a run that is kept finishes its batch and is saved.

        Raises:
            LinscoreError: for batches that cannot be used, or are not those that the run was begun with.
        """
        given = iter(batches)
        try:
            self._pass_over(given, progress)
            groups = iter(()) if self.looks.stable else self._collector.way.groups(given)
            for group in groups:
                tokens = self._take(group)
                if progress is not None:
                    progress(tokens)
                if self.looks.stable:
                    break
        except KeyboardInterrupt:
            if self._kept is not None and self._complete and self._batches > self._saved:
                self._save(self._kept.save)
            raise

    def _pass_over(self, batches: Iterator[Batch], progress: Callable[[int], None] | None) -> None:
        """Read again what was read before.

        Raises:
            LinscoreError: where it is not the same.
        """
        if self._kept is None or self._former is None:
            return
        while self._batches < self._begun and (batch := next(batches, None)) is not None:
            tokens = self._collector.pass_over(batch)
            self._count(batch)
            if progress is not None:
                progress(tokens)
        if str(self._read) != self._former.read:
            raise LinscoreError(
                f"the first {self._begun:,} batches are not those that {self._kept.folder} was begun with: the text "
                "has changed, or what cuts it; give the same, or another `out`"
            )

    def _take(self, group: list[Batch]) -> int:
        """Collect a group of batches and do what is due after it, as a whole; how many tokens counted."""
        collector = self._collector
        # Of many batches the end may be hours away: they are given up for what was saved.
        waits = self._kept is not None and len(group) == 1
        with held_back() if waits else nullcontext():
            self._complete = False
            tokens = collector.add_parts([part for batch in group for part in collector.parts(batch)])
            if not self._batches:
                self.first_loss = collector.way.first_loss(read_batch(group[0]))
            for batch in group:
                self._count(batch)
            self.looks.look(collector.tokens - collector.nonfinite_rows, collector.moments)
            if self._kept is not None and self._former is not None:
                self._kept.check_weights(self._former, collector)
                self._former = None
            if self._kept is not None and self._kept.is_due(collector.tokens):
                self._save(self._kept.try_to_save)
            self._complete = True
        return tokens

    def _count(self, batch: Batch) -> None:
        self.digest.add(read_batch(batch).input_ids)
        self._read.add_batch(batch)
        self._batches += 1

    def _save(self, how: Callable[[Position, dict[str, Moments]], None]) -> None:
        collector, first = self._collector, self.first_loss
        position = Position(
            batches=self._batches,
            read=str(self._read),
            tokens=collector.tokens,
            nonfinite_rows=collector.nonfinite_rows,
            seconds=self.seconds,
            device=collector.device.type,
            weight_sample=collector.way.weight_sample,
            loss=first and first.loss,
            guessing=first and first.guessing,
            curve=self.looks.curve,
            crowded=sorted(collector.crowded),
        )
        how(position, collector.moments)
        self._saved = self._batches
