"""Order the blocks, or spans of them, by any of their figures, what looks easiest to do without first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Literal, overload

from linscore.errors import LinscoreError
from linscore.options.cut import BY
from linscore.scoring.report import BlockReport, Report, SpanReport
from linscore.spans import Span

# Figures by which a block can be easier to do without than another: small where it does little, ...
LOWEST_FIRST = ("block_influence", "angular_distance", "delta_ratio", "norm_delta", "relative_error", "expected_loss")
# ... and large where a map can do it. What else a report has says nothing of that kind.
HIGHEST_FIRST = (
    "linearity_heldout",
    "linearity",
    "linearity_no_residual_heldout",
    "linearity_no_residual",
    "cosine",
    "procrustes",
    "cka",
)
EXPECTED = "expected_loss"
PERPLEXITY = "perplexity"  # with the span left out: the loss is measured, nothing is read off moments; lowest first
SHORT = {"bi": "block_influence"}
HELD_OUT = "with `folds=1` there is nothing held out"
_LACKING = {EXPECTED: "it takes a score with `sensitivity`"}
_IN_REPORTS = (*LOWEST_FIRST, *HIGHEST_FIRST)


@overload
def rank(report: Report, by: str | None = ..., span: Literal[1] = 1) -> list[BlockReport]: ...
@overload
def rank(report: Report, by: str | None = ..., span: int = 1) -> list[BlockReport] | list[SpanReport]: ...
def rank(report: Report, by: str | None = None, span: int = 1) -> Sequence[BlockReport | SpanReport]:
    """The blocks of `report`, or its spans of `span` blocks, ordered by the figure `by`; those that lack it come last.

    Without `by` it is the expected loss where the report has it, else block influence.

    Raises:
        LinscoreError: when `by` is no figure that ranks, no block has it, or no span of that length was scored.

    Examples:
        >>> [block.index for block in linscore.rank(report, by="linearity")]
        [..., ..., ..., ..., ..., ...]
    """
    scored, by = _scored(report, span), figure_of(by or default_by(report))
    if by == PERPLEXITY:
        raise LinscoreError(f"a report has no perplexity, which is measured: choose one of {', '.join(_IN_REPORTS)}")
    if all(getattr(one, by) is None for one in scored):
        raise LinscoreError(f"no block has {by} ({_LACKING.get(by, HELD_OUT)}): choose another metric")
    sign = 1 if lowest_first(by) else -1

    def key(one: BlockReport | SpanReport) -> float:
        value = getattr(one, by)
        return math.inf if value is None else sign * value

    return sorted(scored, key=key)


def default_by(report: Report) -> str:
    """What ranks the blocks of a report where nobody says."""
    return BY if all(block.expected_loss is None for block in report.blocks) else EXPECTED


def ranked(report: Report, by: str, span: int) -> dict[Span, float]:
    """The figure `by` of every span of a report that has it, the best first.

    Raises:
        LinscoreError: as `rank`.
    """
    ranking = ((one.span, getattr(one, figure_of(by))) for one in rank(report, by, span))
    return {span: figure for span, figure in ranking if figure is not None}


def figure_of(by: str) -> str:
    """The figure that `by` names, in full.

    Raises:
        LinscoreError: for a name that ranks nothing.
    """
    by = SHORT.get(by, by)
    if by in (*_IN_REPORTS, PERPLEXITY):
        return by
    known = by in {one.name for one in fields(BlockReport)}
    what = f"{by} does not say how well a block can be done without" if known else f"unknown metric {by!r}"
    raise LinscoreError(f"{what}: choose one of {', '.join(_IN_REPORTS)}, or {PERPLEXITY}")


def lowest_first(by: str) -> bool:
    """Whether the block with the smallest figure `by` is to go first."""
    return by == PERPLEXITY or by in LOWEST_FIRST


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
