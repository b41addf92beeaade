"""Some figures of every block, and what stands for all blocks."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from linscore.scoring.report import Report

# What a series of checkpoints and a comparison keep.
FIGURES = (
    "linearity",
    "linearity_heldout",
    "linearity_no_residual",
    "linearity_no_residual_heldout",
    "cosine",
)
BlockFigures = dict[str, list[float | None]]  # figure → its value for each block; None: not defined there


def block_figures(report: Report, figures: Iterable[str]) -> BlockFigures:
    """What a series or a comparison keeps of a report."""
    return {figure: [getattr(block, figure) for block in report.blocks] for figure in figures}


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean over those blocks for which a figure is defined; None where it is for none."""
    defined = [value for value in values if value is not None]
    return statistics.fmean(defined) if defined else None
