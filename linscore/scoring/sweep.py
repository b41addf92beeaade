"""One run of parts of batches: which of their rows are added where, each once, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from linscore.decoder.states import BlockStates
from linscore.scoring.parts import Part
from linscore.scoring.settle import Marked, Positions, Rows, Taken, rows_by_fold, settle
from linscore.scoring.span_states import Pair
from linscore.statistics.update import Update

RowsOf = Callable[[str], Rows]  # by the name of a pair of states


class Begin(Protocol):
    """Adds rows of a pair of states."""

    def __call__(self, pair: Pair, positions: Positions, *, fold: int) -> Update:
        """Begin an update, which is settled later."""


class Sweep:
    """What is taken of a run, as a `Watcher` wants it.

    Args:
        parts: all of them.
        rows_of: of those that are run, by their number.
        lost: is marked with what pairs of a part lose, by its number.
        left: is marked with heavy rows that are not added.
        pairs: what is scored around a block.
        begin: adds rows.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        rows_of: Mapping[int, RowsOf],
        lost: Sequence[Marked],
        left: Sequence[Marked],
        pairs: Callable[[int, BlockStates], Iterator[Pair]],
        begin: Begin,
    ) -> None:
        self._parts, self._rows_of, self._lost, self._left = parts, rows_of, lost, left
        self._pairs, self._begin = pairs, begin
        self._taken: list[tuple[int, Taken]] = []
        self._done: dict[tuple[int, str, int], int] = {}  # up to which position the rows of a part were taken
        self._added: set[str] = set()

    def take(self, number: int, first: int, index: int, states: BlockStates) -> None:
        """Add rows of part `number`, of which those from the sequence `first` on have run through block `index`."""
        start, size = first * states.x.shape[1], states.x.shape[:2].numel()
        for pair in self._pairs(index, states):
            name = str(pair.name)
            for fold, positions in self._rows_of[number](name).items():
                if self._done.get((number, name, fold), 0) >= start + size:
                    continue
                self._done[number, name, fold] = start + size
                if size < self._parts[number].counting.numel():
                    positions = positions.within(start, start + size)
                self._taken.append((number, Taken(name, positions, self._begin(pair, positions, fold=fold))))
                self._added.add(name)

    def settle(self, but: int | None = None) -> None:
        """Settle what was taken, but for that of one part."""
        for number in dict.fromkeys(number for number, _ in self._taken if number != but):
            of_part = [one for n, one in self._taken if n == number]
            shape = self._parts[number].counting.shape
            left = self._left[number]
            for name, where in settle(of_part, shape, self._lost[number]).items():
                left[name] = left[name] | where if name in left else where  # a part may be settled bit by bit
        self._taken = [one for one in self._taken if one[0] == but]

    def added(self) -> set[str]:
        """The names of the pairs that were added to since the last call."""
        found, self._added = self._added, set()
        return found


def of_every(rows: Rows) -> RowsOf:
    """The same rows of every pair."""
    return lambda _name: rows


def of_some(marked: Marked, folds: Tensor) -> RowsOf:
    """The rows that are marked."""
    rows = {name: rows_by_fold(where, folds) for name, where in marked.items()}
    return lambda name: rows.get(name, {})
