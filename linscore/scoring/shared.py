"""One score by several processes: whose batch is whose, one pilot for all, one sum of what each has collected.

Every process reads the whole text, which costs little beside a model, and runs the batches that are its own, of many
that are run as one group its share. The first ones are the first process's until each pair of states has its pilot,
which then is every process's: the same rows are heavy as in one process, and the sums differ in nothing but their order
(decisions: One score by several processes).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import NamedTuple

import torch
from linscore_kernels import Pilot

from linscore.errors import LinscoreError
from linscore.machine.processes import Processes
from linscore.scoring.collect import Collector
from linscore.statistics.cell import Cell
from linscore.statistics.moments import Moments

__all__ = ["Shared"]


class Begun(NamedTuple):
    """Moments before their first row, as one process tells others of them: on the CPU."""

    d: int
    width_delta: int
    pilot: Pilot | None

    @staticmethod
    def of(moments: Moments) -> Begun:
        """What these were begun with."""
        return Begun(moments.d, moments.width_delta, moments.pilot and moments.pilot.to(torch.device("cpu")))


class Shared:
    """What several processes collect together.

    Args:
        collector: this process's; where a run is gone on with, the first's holds what was collected before.
        processes: which share the work.
    """

    def __init__(self, collector: Collector, processes: Processes) -> None:
        self._collector, self._processes = collector, processes
        self._batches, self._many = 0, False
        self.settled = processes.count == 1  # whether all know all pairs of states, and their pilots

    def takes(self, place: int) -> bool:
        """Whether this process runs the batch at this place of the next group."""
        return self._processes.takes(self._batches + place) if self.settled else self._processes.first

    @property
    def round_ends(self) -> bool:
        """Whether every process has run as many batches, but for the first ones, or its share of many."""
        return self._many or self._batches % self._processes.count == 0

    def count_group(self, batches: int) -> None:
        """The next group, of so many batches, was run by the processes whose they were."""
        self._batches, self._many = self._batches + batches, batches > 1
        if not self.settled:
            self.begin_with_first()

    def begin_with_first(self, *, all_there: bool = True) -> None:
        """Give every process the pairs of states that the first has, in its order, and their pilots.

        Unless they are `all_there`, as between two blocks, the next group is the first process's, too.
        """
        begun = self._processes.from_first({name: Begun.of(one) for name, one in self._collector.moments.items()})
        if not self._processes.first:
            _begin_with(self._collector, begun)
        self.settled = all_there and bool(begun) and all(one.pilot is not None for one in begun.values())

    def add_up(self) -> None:
        """Give every process the sums of all, in float64; their order depends only on how many processes there are."""
        if self._processes.count == 1:
            return
        if not self.settled:
            self.begin_with_first()
        collector, add_up = self._collector, self._processes.add_up
        held = collector.moments
        kept = torch.tensor([[cell is not None for cell in (*one.light, *one.heavy)] for one in held.values()]).long()
        add_up(kept)
        for (name, one), anywhere in zip(held.items(), kept.bool().tolist(), strict=True):
            for cell in _cells(one, anywhere):
                add_up(*(getattr(cell, field.name) for field in fields(Cell)))
            collector.way.put_by(name, one)
        collector.tokens, collector.nonfinite_rows = self._processes.sums(collector.tokens, collector.nonfinite_rows)

    def go_on(self) -> None:
        """After `add_up`: the first process keeps the sums, the others begin anew."""
        if self._processes.first:
            return
        self._collector.tokens = self._collector.nonfinite_rows = 0
        for one in self._collector.moments.values():
            one.light, one.heavy = [None] * one.folds, [None] * one.folds

    def check_same(self, read: str) -> None:
        """Machines may hold different copies of a text, whose digest is `read`, or of a model, where it has run.

        Raises:
            LinscoreError: where this process's are not the first's.
        """
        if self._processes.count == 1:
            return
        here = {"text": read, "model": self._collector.way.weight_sample}
        there = self._processes.from_first(here)
        other = next(
            (what for what in here if None not in (here[what], there[what]) and here[what] != there[what]), None
        )
        if other is not None:
            raise LinscoreError(f"this process has read another {other} than the first: give all of them the same")


def _begin_with(collector: Collector, begun: Mapping[str, Begun]) -> None:
    """Have these moments, in their order: those that are not there about the pilots of another process."""
    for name, one in begun.items():
        found = collector.moments.pop(name, None) or collector.new_moments(one.d, one.width_delta, collector.device)
        found.pilot = found.pilot or (one.pilot and one.pilot.to(found.device))
        collector.moments[name] = found
        collector.way.put_by(name, found)
    collector.begun = True


def _cells(moments: Moments, wanted: Sequence[bool]) -> Iterator[Cell]:
    """The cells that are wanted, light ones first, empty where this process has met none of their rows."""
    for number, place in enumerate(wanted):
        cells, fold = (moments.light, moments.heavy)[number // moments.folds], number % moments.folds
        if place:
            cells[fold] = cell = cells[fold] or Cell.zeros(moments.d, moments.width_delta, moments.device)
            yield cell
