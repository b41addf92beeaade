"""Which rows of a batch are added where, and what is settled after its last block, in one read from each device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from linscore_kernels import HEAVY, NONFINITE
from torch import Tensor

from linscore.statistics.update import Update

Marked = dict[str, Tensor]  # positions `[B, T]` bool, by the name of a pair of states


class Positions:
    """Positions in the flattened batch that are copied once to each device; None: all of them.

    Args:
        positions: in the batch.
        run: the same positions in those of its rows that are run at once; None: all of these.
    """

    def __init__(self, positions: Tensor | None, run: Tensor | None) -> None:
        self.positions, self._run = positions, run
        self._copies: dict[torch.device, Tensor] = {}
        self._within: dict[tuple[int, int], Positions] = {}

    def on(self, device: torch.device) -> Tensor | None:
        """The positions in what is run, on `device`; the copy does not wait for what the device is at."""
        if self._run is None or device.type == "cpu":
            return self._run
        if device not in self._copies:
            pinned = self._run.pin_memory() if device.type == "cuda" else self._run
            self._copies[device] = pinned.to(device, non_blocking=True)
        return self._copies[device]

    def within(self, first: int, stop: int) -> Positions:
        """Those from `first` up to `stop`, which are run by themselves."""
        if (first, stop) not in self._within:
            if self.positions is None:
                found = Positions(torch.arange(first, stop), None)
            else:
                inside = self.positions[(self.positions >= first) & (self.positions < stop)]
                found = Positions(inside, inside - first)
            self._within[first, stop] = found
        return self._within[first, stop]


Rows = dict[int, Positions]  # by fold


class Taken(NamedTuple):
    """An update that is not settled yet."""

    name: str
    positions: Positions
    update: Update


def rows_by_fold(counting: Tensor, folds: Tensor) -> Rows:
    """The flat positions of each fold, in order; None in place of all positions, which need not be gathered."""
    if counting.all() and (folds == folds[0]).all():
        return {int(folds[0]): Positions(None, None)}
    present = folds.unique().tolist()
    found = {fold: (counting & (folds == fold)[:, None]).flatten().nonzero()[:, 0] for fold in present}
    return {fold: Positions(positions, positions) for fold, positions in found.items()}


def settle(taken: Sequence[Taken], shape: torch.Size, lost: Marked) -> Marked:
    """Add the heavy rows of a batch of `shape` `[B, T]` and mark the non-finite ones in `lost`.

    Returns:
        The heavy rows of pairs that met more of them than are held, none of which was added.
    """
    left: Marked = {}
    for one, (heavy, nonfinite) in zip(taken, _counts(taken), strict=True):
        if nonfinite:
            _mark(lost, one, NONFINITE, shape)
        if not one.update.settle(heavy):
            _mark(left, one, HEAVY, shape)
    return left


def _counts(taken: Sequence[Taken]) -> Iterator[tuple[int, int]]:
    """How many rows of each update are heavy, and how many not finite: the one wait of a batch."""
    on: dict[torch.device, list[Tensor]] = {}
    for one in taken:
        on.setdefault(one.update.apart.device, []).append(one.update.apart)
    read = {device: iter(torch.stack(counts).tolist()) for device, counts in on.items()}
    for one in taken:
        heavy, nonfinite = next(read[one.update.apart.device])
        yield int(heavy), int(nonfinite)


def _mark(marked: Marked, one: Taken, kind: int, shape: torch.Size) -> None:
    where = (one.update.status == kind).nonzero()[:, 0].cpu()
    positions = one.positions.positions
    marked.setdefault(one.name, torch.zeros(shape, dtype=torch.bool)).view(-1)[
        where if positions is None else positions[where]
    ] = True
