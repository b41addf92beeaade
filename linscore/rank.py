"""Order the blocks by any of their figures, the one that looks easiest to do without first."""

from __future__ import annotations

import math

from linscore.errors import LinscoreError
from linscore.report import BlockReport, Report

# Figures that are small where a block does little; of all others the largest comes first.
SMALLEST_FIRST = ("block_influence", "angular_distance", "delta_ratio", "relative_error", "norm_delta")


def rank(report: Report, by: str = "linearity_heldout") -> list[BlockReport]:
    """The blocks of `report` ordered by the figure `by`; blocks that lack it come last.

    Raises:
        LinscoreError: when `by` is no figure of a block, or no block has it.
    """
    names = metric_names(report)
    if by not in names:
        raise LinscoreError(f"unknown metric {by!r}: choose one of {', '.join(names)}")
    if all(getattr(block, by) is None for block in report.blocks):
        raise LinscoreError(f"no block has {by} (with --folds 1 there is nothing held out): choose another metric")
    sign = 1 if by in SMALLEST_FIRST else -1

    def key(block: BlockReport) -> float:
        value = getattr(block, by)
        return math.inf if value is None else sign * value

    return sorted(report.blocks, key=key)


def metric_names(report: Report) -> list[str]:
    """The figures a block can be ranked by."""
    return [name for name in vars(report.blocks[0]) if name not in ("index", "sub_blocks", "without_heavy")]
