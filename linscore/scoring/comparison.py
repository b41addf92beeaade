"""Two models or more, block by block: what differs by more than its own spread over folds or seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from linscore.errors import LinscoreError
from linscore.files.json_file import json_text
from linscore.scoring.report import Report

SCORES = ("linearity_heldout", "linearity_no_residual_heldout")
ERRORS = 2.0  # standard errors that a difference must exceed


@dataclass(frozen=True)
class Value:
    """A figure of one block of one model: its mean over seeds, and the standard error of that (None: not known)."""

    mean: float
    error: float | None


@dataclass(frozen=True)
class Difference:
    """What differs at one block of the first model.

    Attributes:
        block: of the first model.
        first: its figure there.
        other: that of the other model at the same normalized depth, between its blocks where depths differ.
        difference: other − first.
        error: standard error of the difference, from folds or seeds; None where neither gives one.
        exceeds: whether the difference is larger than twice that; None where it is not known.
    """

    block: int
    first: float
    other: float
    difference: float
    error: float | None
    exceeds: bool | None


@dataclass(frozen=True)
class Comparison:
    """One figure of two models.

    Attributes:
        figure: its name in report.json.
        first: names of the reports of the first model, one a seed.
        other: those of the other.
        spread: "seeds", "folds" or None, what the errors come from.
        blocks: block by block, those without the figure left out.
    """

    figure: str
    first: list[str]
    other: list[str]
    spread: str | None
    blocks: list[Difference]

    @property
    def exceeding(self) -> list[int]:
        """Blocks whose difference exceeds its error."""
        return [one.block for one in self.blocks if one.exceeds]


def compare(groups: Sequence[Sequence[Report]], figures: Sequence[str] = SCORES) -> list[Comparison]:
    """Compare each model with the first one.

    Args:
        groups: of each model its reports: one, whose error then comes from its folds, or one of each seed.
        figures: names of `BlockMetrics`; those without a spread over folds have an error from seeds only.

    Returns:
        For each other model each figure.

    Raises:
        LinscoreError: for less than two models, seeds of different depth, or a figure that no block has.
    """
    if len(groups) < 2:
        raise LinscoreError("there is one model: give two or more to compare")
    for reports in groups:
        if len({report.depth for report in reports}) != 1:
            raise LinscoreError(f"{', '.join(one.model for one in reports)} are no seeds of one model: depths differ")
    return [_compared(groups[0], other, figure) for other in groups[1:] for figure in figures]


def to_json(comparisons: Sequence[Comparison]) -> str:
    """The JSON form."""
    data: list[dict[str, Any]] = [asdict(one) | {"exceeding": one.exceeding} for one in comparisons]
    return json_text(data)


def _compared(first: Sequence[Report], other: Sequence[Report], figure: str) -> Comparison:
    own, there = _values(first, figure), _values(other, figure)
    blocks = []
    for place, value in own.items():
        twin = _at(there, place * (other[0].depth - 1) / max(first[0].depth - 1, 1))
        if twin is not None:
            blocks.append(_difference(place, value, twin))
    if not blocks:
        raise LinscoreError(f"the models have no block with {figure} in common: choose another figure")
    seeds = len(first) > 1 and len(other) > 1
    known = any(one.error is not None for one in blocks)
    spread = ("seeds" if seeds else "folds") if known else None
    return Comparison(figure, [one.model for one in first], [one.model for one in other], spread, blocks)


def _difference(block: int, first: Value, other: Value) -> Difference:
    apart = other.mean - first.mean
    error = None if first.error is None or other.error is None else math.hypot(first.error, other.error)
    return Difference(
        block, first.mean, other.mean, apart, error, None if error is None else abs(apart) > ERRORS * error
    )


def _values(reports: Sequence[Report], figure: str) -> dict[int, Value]:
    """The figure of each block that has it in every report."""
    found = {}
    for blocks in zip(*(report.blocks for report in reports), strict=False):
        values = [value for block in blocks if (value := getattr(block, figure)) is not None]
        if len(values) == len(blocks):
            found[blocks[0].index] = Value(statistics.fmean(values), _error(reports, blocks, values, figure))
    return found


def _error(reports: Sequence[Report], blocks: Sequence[Any], values: Sequence[float], figure: str) -> float | None:
    """The standard error over seeds, or of a single report over its folds."""
    if len(values) > 1:
        return statistics.stdev(values) / math.sqrt(len(values))
    spread, folds = getattr(blocks[0], f"{figure}_spread", None), reports[0].folds
    if spread is None:
        return None
    deviation = spread / math.sqrt(2) if folds == 2 else spread  # of two folds the spread is their difference
    return float(deviation / math.sqrt(folds))


def _at(values: dict[int, Value], place: float) -> Value | None:
    """The value at a depth, in blocks, between those of the blocks around it."""
    low, high = math.floor(place + 1e-9), math.ceil(place - 1e-9)
    if low not in values or high not in values:
        return None
    part = place - low if high > low else 0.0
    one, two = values[low], values[high]
    error = None if one.error is None or two.error is None else math.hypot((1 - part) * one.error, part * two.error)
    return Value((1 - part) * one.mean + part * two.mean, error)
