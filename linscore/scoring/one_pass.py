"""One pass over the batches of a text: what is counted beside the moments, and where it stops and is gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial

from linscore.errors import LinscoreError
from linscore.machine.processes import ALONE, Processes
from linscore.machine.signals import held_back
from linscore.scoring.collect import Collector
from linscore.scoring.kept import Kept, Position
from linscore.scoring.looks import Looks
from linscore.scoring.midway import Midway
from linscore.scoring.shared import Shared
from linscore.statistics.moments import Moments
from linscore.text.batch import Batch, TokenDigest, read_batch

__all__ = ["OnePass"]


class OnePass:
    """Gives batches to a collector, in groups as its way of running them has it.

    A run that is gone on with reads again what it had read, to see that it is the same text, and does not run it.

    Several processes share the groups; after each round they are of one mind whether to look, to save, or to end.

    Args:
        collector: a new one; of a run that is gone on with it is given the moments.
        kept: where the run is kept while it lasts, by the first process; None: nowhere.
        processes: each has the sums of all at the end.

    Attributes:
        digest: of the token ids.
        first_loss: on the first sequences; None without a head, or without a batch.
        looks: at the held-out scores along the way.
    """

    def __init__(self, collector: Collector, kept: Kept | None = None, processes: Processes = ALONE) -> None:
        self._collector, self._kept, self._processes = collector, kept, processes
        self._shared = Shared(collector, processes)
        former = self._former = processes.from_first(None if kept is None else kept.restore(collector))
        if former is not None:
            collector.crowded = set(former.crowded)
            self._shared.begin_with_first(all_there=former.block is None)
        options = collector.options
        self.digest, self._read = TokenDigest(), TokenDigest()
        self.first_loss = former.first_loss if former else None
        self.looks = Looks(collector.indices, options.folds, options.until_stable, former.curve if former else ())
        self._batches, self._begun = 0, former.batches if former else 0
        self._counted = former.tokens if former else 0  # over all processes
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
        self._pass_over(given, progress)
        first = self._former.group if self._former is not None else int(not self._shared.settled)
        groups = iter(()) if self.looks.stable else self._collector.way.groups(given, first)
        if self._processes.count == 1:
            self._run_alone(groups, progress)
        else:
            self._run_shared(groups, progress)

    def _run_alone(self, groups: Iterator[list[Batch]], progress: Callable[[int], None] | None) -> None:
        tells = self._collector.way.tells
        try:
            for group in groups:
                # Of many batches the end may be hours away: they are given up for what was saved.
                waits = self._kept is not None and len(group) == 1
                with held_back() if waits else nullcontext():
                    self._complete = False
                    tokens = self._take(group, progress if tells else None)
                    self._do_what_is_due(ends=False)
                    self._complete = True
                if progress is not None and not tells:
                    progress(tokens)
                if self.looks.stable:
                    break
        except KeyboardInterrupt:
            if self._kept is not None and self._complete and self._batches > self._saved:
                self._save(self._kept.save)
            raise

    def _run_shared(self, groups: Iterator[list[Batch]], progress: Callable[[int], None] | None) -> None:
        ended = False
        way = self._collector.way
        waits = self._processes.from_first(self._kept is not None) and not way.tells
        with ExitStack() as held:
            came = held.enter_context(held_back(patient=True)) if waits else []
            for group in groups:
                tokens = self._take(group, progress if way.tells else None)
                ended = self._do_what_is_due(ends=bool(came))
                if progress is not None and not way.tells:
                    progress(tokens)
                if ended or self.looks.stable:
                    break
        if ended:  # by a signal to another process
            raise KeyboardInterrupt
        if not self.looks.stable:
            self._agree(over=True)
        self._shared.check_same(str(self._read))
        self._shared.add_up()
        self.first_loss = self._processes.from_first(self.first_loss)

    def _pass_over(self, batches: Iterator[Batch], progress: Callable[[int], None] | None) -> None:
        """Read again what was read before.

        Raises:
            LinscoreError: where it is not the same.
        """
        if self._former is None:
            return
        while self._batches < self._begun and (batch := next(batches, None)) is not None:
            tokens = self._collector.pass_over(batch)
            self._count(batch)
            if progress is not None:
                progress(tokens)
        self._check_text(str(self._read), self._former.read)

    def _check_text(self, found: str, expected: str) -> None:
        if found != expected:
            begun = "the run" if self._kept is None else self._kept.folder
            raise LinscoreError(
                f"the first {self._begun:,} batches are not those that {begun} was begun with: the text has changed, "
                "or what cuts it; give the same, or another `out`"
            )

    def _take(self, group: list[Batch], progress: Callable[[int], None] | None = None) -> int:
        """Collect a group of batches, or of several processes one's own of them; how many tokens counted."""
        collector, parts, others = self._collector, [], 0
        for place, batch in enumerate(group):
            if self._shared.takes(place):
                parts += collector.parts(batch)
            else:
                others += collector.pass_over(batch)
        tokens = others
        if parts:
            begun = self._begun_midway(group)
            alone = self._kept is not None and self._processes.count == 1  # of several, none has the states of all
            tokens += collector.add_parts(parts, progress, partial(self._save_midway, group) if alone else None, begun)
        if progress is not None and others:
            progress(others)
        if not self._batches and self._processes.first and not collector.options.encoder:
            self.first_loss = collector.way.first_loss(read_batch(group[0]))
        for batch in group:
            self._count(batch)
        self._shared.count_group(len(group))
        self._counted += tokens
        if self._kept is not None and self._former is not None:
            self._kept.check_weights(self._former, collector)
            self._former = None
        return tokens

    def _begun_midway(self, group: list[Batch]) -> Midway | None:
        """Where the run before has come with these batches.

        Raises:
            LinscoreError: where it had others.
        """
        former = self._former
        if self._kept is None or former is None or former.block is None:
            return None
        self._check_text(_digest(group), former.group_read)
        return self._kept.midway(former)

    def _save_midway(self, group: list[Batch], midway: Midway) -> None:
        if self._kept is not None and self._kept.is_due(self._counted):
            self._save(self._kept.try_to_save, group, midway)

    def _do_what_is_due(self, *, ends: bool) -> bool:
        """Look and save, where it is time; whether a signal has ended this process, which `ends` says, or another."""
        collector, shared, kept = self._collector, self._shared, self._kept
        if not shared.settled or not (shared.round_ends or self.looks.is_due(self._counted, collector.moments)):
            return False
        tokens, nonfinite, saving, ended = self._agree(saves=kept is not None and kept.is_due(self._counted), ends=ends)
        looks = self.looks.is_due(tokens - nonfinite, collector.moments)
        if looks or saving or ended:
            shared.add_up()
            if looks:
                self.looks.look(tokens - nonfinite, collector.moments, self._processes)
            if kept is not None and (saving or ended):
                self._save(kept.save if ended else kept.try_to_save)
            shared.go_on()
        return ended

    def _agree(self, *, saves: bool = False, ends: bool = False, over: bool = False) -> tuple[int, int, bool, bool]:
        """Over all: the tokens, those not finite, and whether one is to save or ends; `over`: it has no batch left.

        Raises:
            LinscoreError: where the text is over for some.
        """
        collector = self._collector
        figures = (collector.tokens, collector.nonfinite_rows, int(saves), int(ends), int(over))
        tokens, nonfinite, saving, ended, finished = self._processes.sums(*figures)
        if finished not in (0, self._processes.count):
            raise LinscoreError("the processes have read texts of different lengths: give all of them the same text")
        return tokens, nonfinite, bool(saving), bool(ended)

    def _count(self, batch: Batch) -> None:
        self.digest.add(read_batch(batch).input_ids)
        self._read.add_batch(batch)
        self._batches += 1

    def _save(
        self,
        how: Callable[[Position, dict[str, Moments], Midway | None], None],
        group: Sequence[Batch] = (),
        midway: Midway | None = None,
    ) -> None:
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
            block=None if midway is None else midway.block,
            group=len(group),
            group_parts=0 if midway is None else len(midway.lost),
            group_read=_digest(group),
        )
        how(position, collector.moments, midway)
        self._saved = self._batches


def _digest(group: Sequence[Batch]) -> str:
    digest = TokenDigest()
    for batch in group:
        digest.add_batch(batch)
    return str(digest)
