"""What forms cost by a figure alone, where nothing is measured: units are taken to add up.

A figure says what a unit costs that is left out, or what an affine map of it misses; a form then costs in proportion to
what it misses of what the unit adds. An expected loss is of each form by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from linscore.compression.choices import Choice, Form
from linscore.compression.forms import Row
from linscore.errors import LinscoreError
from linscore.scoring.ranking import EXPECTED, HELD_OUT, lowest_first
from linscore.spans import Unit
from linscore.statistics.figures import block_metrics

OF_MAP = (  # figures that say what an affine map misses; the others say what is lost without the unit
    "relative_error",
    "linearity_heldout",
    "linearity",
    "linearity_no_residual_heldout",
    "linearity_no_residual",
)


class Figures:
    """Costs of forms and of choices.

    Args:
        rows: all units.
        by: a figure of `linscore.scoring.ranking`, in full.

    Raises:
        LinscoreError: where a unit lacks it.
    """

    def __init__(self, rows: Mapping[Unit, Row], by: str) -> None:
        self._rows, self._by = rows, by
        self.form = cache(self.form)  # type: ignore[method-assign]
        if by == EXPECTED:
            if not all(row.has_gradients for row in rows.values()):
                raise LinscoreError(
                    f"there is no {by} without gradients: score with `sensitivity`, or give another `by`"
                )
            return
        self._figures = {unit: self._figure(row) for unit, row in rows.items()}

    def form(self, unit: Unit, form: Form) -> float:
        """What a form of a unit costs, 0 or more."""
        row = self._rows[unit]
        if self._by == EXPECTED:
            return row.expected(form)
        whole = row.missed(Form("affine" if self._by in OF_MAP else "drop"))
        return self._figures[unit] * row.missed(form) / whole if whole else 0.0

    def choice(self, choice: Choice) -> float:
        """What a choice costs: the sum of its forms."""
        return sum(self.form(*one) for one in choice.items())

    def _figure(self, row: Row) -> float:
        found = getattr(block_metrics(row.moments, spectra=self._by == "procrustes"), self._by)
        if found is None:
            raise LinscoreError(f"{row.unit} has no {self._by} ({HELD_OUT}): give another `by`")
        return max(0.0, found if lowest_first(self._by) else 1 - found)
