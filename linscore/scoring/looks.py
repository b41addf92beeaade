"""Held-out scores along the way: how much text is enough, and when no more is needed.

A look solves for every block at token counts that double, the first at 16 (GPU 128) tokens per feature: all looks
together cost about what the last one does, times the doublings (decisions: Looks along the way).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from linscore.machine.processes import ALONE, Processes
from linscore.scoring.names import MomentsName
from linscore.statistics.figures import Heldout, Linearity, heldout
from linscore.statistics.moments import Moments

__all__ = ["Look", "Looks"]

FIRST = {"cpu": 16, "cuda": 128}  # tokens per feature; GPUs have few units for float64 solves
IN_A_ROW = 2


@dataclass(frozen=True)
class Look:
    """The held-out scores of every scored block after so many tokens; None where they are not defined.

    Attributes:
        tokens: rows that counted.
        linearity_heldout: of each block, in the order of the report.
        linearity_no_residual_heldout: the same without residual.
        spread: of all these scores over the folds, the largest.
    """

    tokens: int
    linearity_heldout: list[float | None]
    linearity_no_residual_heldout: list[float | None]
    spread: float | None

    @staticmethod
    def of(tokens: int, blocks: Sequence[Heldout | Linearity]) -> Look:
        """Of the scores of all blocks."""
        spreads = [(one.linearity_heldout_spread, one.linearity_no_residual_heldout_spread) for one in blocks]
        known = [spread for both in spreads for spread in map(_finite, both) if spread is not None]
        return Look(
            tokens,
            [_finite(one.linearity_heldout) for one in blocks],
            [_finite(one.linearity_no_residual_heldout) for one in blocks],
            max(known, default=None),
        )


class Looks:
    """Takes looks where they are due.

    Args:
        indices: of the scored blocks.
        folds: with one fold nothing is held out, and no look is taken.
        until_stable: the spread below which scores are stable; None: they never are.
        curve: the looks that were taken before, where a run is gone on with.
    """

    def __init__(
        self, indices: Sequence[int], folds: int, until_stable: float | None, curve: Sequence[Look] = ()
    ) -> None:
        self.curve = list(curve)
        self._names = [str(MomentsName.block(index)) for index in indices]
        self._folds, self._until = folds, until_stable

    @property
    def stable(self) -> bool:
        """Whether the last looks all had a spread below `until_stable`."""
        last = [one.spread for one in self.curve[-IN_A_ROW:]]
        return (
            self._until is not None and len(last) == IN_A_ROW and all(s is not None and s < self._until for s in last)
        )

    def is_due(self, tokens: int, moments: Mapping[str, Moments]) -> bool:
        """Whether it is time for a look after so many tokens; nothing else counts, such as when the run was begun."""
        if self._folds == 1:
            return False
        first = moments[self._names[0]]
        due = FIRST.get(first.device.type, FIRST["cuda"]) * first.d
        last = self.curve[-1].tokens if self.curve else 0
        while due <= last:
            due *= 2
        return tokens >= due

    def look(self, tokens: int, moments: Mapping[str, Moments], processes: Processes = ALONE) -> None:
        """Take a look after so many tokens; several processes, which hold the same sums, share the blocks.

        It waits until two folds have tokens: before, nothing is held out.

        Raises:
            LinscoreError: where the sums have overflowed.
        """
        first = moments[self._names[0]]
        if sum(first.rows(fold) > 0 for fold in range(self._folds)) < 2:
            return
        blocks = processes.each([partial(heldout, moments[name]) for name in self._names])
        self.curve.append(Look.of(tokens, blocks))

    def ending_with(self, tokens: int, blocks: Sequence[Heldout | Linearity]) -> list[Look]:
        """The curve up to the scores of the report; empty with one fold."""
        if self._folds == 1:
            return []
        return [*(one for one in self.curve if one.tokens < tokens), Look.of(tokens, blocks)]


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None
