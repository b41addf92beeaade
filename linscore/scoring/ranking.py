"""Order the blocks, or spans of them, by any of their figures, what looks easiest to do without first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, overload

from linscore.errors import LinscoreError
from linscore.options import BY
from linscore.scoring.report import BlockReport, Report, SpanReport
from linscore.spans import Span

# Figures that are small where a block does little; of all others the largest comes first.
SMALLEST_FIRST = ("block_influence", "angular_distance", "delta_ratio", "relative_error", "norm_delta")

# What tells blocks apart, or is no single figure.
NO_FIGURES = ("index", "first", "last", "sub_blocks", "without_heavy")
PERPLEXITY = "perplexity"  # with the span left out: the loss is measured, nothing is read off moments


@overload
def rank(report: Report, by: str = ..., span: Literal[1] = 1) -> list[BlockReport]: ...
@overload
def rank(report: Report, by: str = ..., span: int = 1) -> list[BlockReport] | list[SpanReport]: ...
def rank(report: Report, by: str = BY, span: int = 1) -> Sequence[BlockReport | SpanReport]:
    """The blocks of `report`, or its spans of `span` blocks, ordered by the figure `by`; those that lack it come last.

    Raises:
        LinscoreError: when `by` is no figure of a block, no block has it, or no span of that length was scored.
    """
    scored = _scored(report, span)
    names = metric_names(scored[0])
    if by not in names:
        raise LinscoreError(f"unknown metric {by!r}: choose one of {', '.join(names)}")
    if all(getattr(one, by) is None for one in scored):
        raise LinscoreError(f"no block has {by} (with `folds=1` there is nothing held out): choose another metric")
    sign = 1 if by in SMALLEST_FIRST else -1

    def key(one: BlockReport | SpanReport) -> float:
        value = getattr(one, by)
        return math.inf if value is None else sign * value

    return sorted(scored, key=key)


def ranked(report: Report, by: str, span: int) -> dict[Span, float]:
    """The figure `by` of every span of a report that has it, the best first.

    Raises:
        LinscoreError: as `rank`.
    """
    ranking = ((one.span, getattr(one, by)) for one in rank(report, by, span))
    return {span: figure for span, figure in ranking if figure is not None}


def metric_names(scored: BlockReport | SpanReport) -> list[str]:
    """The figures a block or span can be ranked by."""
    return [name for name in vars(scored) if name not in NO_FIGURES]


def _scored(report: Report, length: int) -> Sequence[BlockReport | SpanReport]:
    if length < 1:
        raise LinscoreError(f"spans of {length} blocks cannot be ranked: give a length of 1 (single blocks) or more")
    if length == 1:
        return report.blocks
    spans = [one for one in report.spans if len(one.span.blocks) == length]
    if not spans:
        raise LinscoreError(
            f"no spans of {length} blocks were scored: score with `linscore score --for spans --span-lengths {length}`"
        )
    return spans
