"""What the loss of every unit is expected to cost, from the moments of a score with a sensitivity.

See `linscore.statistics.sensitivity` for the formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from linscore.errors import LinscoreError
from linscore.scoring.names import MomentsName
from linscore.spans import Unit
from linscore.statistics import sensitivity
from linscore.statistics.affine import AffineMap
from linscore.statistics.moments import Moments

__all__ = ["expected_figures", "expected_loss", "expected_losses", "of_unit"]


def expected_losses(moments: Mapping[str, Moments]) -> dict[tuple[Unit, str], float]:
    """Nats a token that each unit is expected to cost in each form, by unit and form: "drop", "mean", "full" and so on.

    Args:
        moments: of a score with a sensitivity, by name.

    Raises:
        LinscoreError: where none of them was collected.
    """
    units = [unit for name in moments if (unit := _unit_of(name)) is not None]
    if not units:
        raise LinscoreError("these moments have no gradients: score the model with `sensitivity`")
    return {
        (unit, form): loss
        for unit in units
        for form, loss in sensitivity.expected_losses(*of_unit(moments, unit)).items()
    }


def expected_loss(moments: Mapping[str, Moments], unit: Unit, fitted: AffineMap) -> float:
    """The same of one unit with any map in its place, on all rows.

    Raises:
        LinscoreError: where what it takes was not collected.
    """
    if str(MomentsName.of(unit).added) not in moments:
        raise LinscoreError(f"the moments have no gradients for {unit}: score the model with `sensitivity`")
    return sensitivity.expected_loss(*of_unit(moments, unit), fitted)


def expected_figures(moments: Mapping[str, Moments], unit: Unit) -> dict[str, Any]:
    """What `BlockMetrics` has of it; nothing where it was not collected."""
    needed = (MomentsName.of(unit).added, MomentsName.gradient(unit.span.last))
    if not all(str(name) in moments for name in needed):
        return {}
    found = sensitivity.expected_losses(*of_unit(moments, unit))
    return {"expected_loss": found["drop"], "expected_losses": found}


def of_unit(moments: Mapping[str, Moments], unit: Unit) -> tuple[Tensor, Moments, Moments]:
    """E[ggᵀ] at the state after a unit, the moments of the unit, and of what it adds."""
    name = MomentsName.of(unit)
    after = MomentsName.gradient(unit.span.last, unit.part or None)
    if str(after) not in moments:  # the MLP's, and where attention and MLP read one state: that after the block
        after = MomentsName.gradient(unit.span.last)
    return sensitivity.second_moment(moments[str(after)]), moments[str(name)], moments[str(name.added)]


def _unit_of(name: str) -> Unit | None:
    """The unit whose "delta" this is."""
    kind, _, unit = name.partition(".")
    return Unit.parse(unit) if kind == "delta" else None
