"""The job of `linscore compare`: reports of several models, each of one seed or several, against the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from linscore.errors import LinscoreError
from linscore.scoring.comparison import SCORES, Comparison, compare
from linscore.scoring.report import Report
from linscore.statistics.figures import BlockMetrics


def run_compare(models: Sequence[str], figure: str | None = None) -> list[Comparison]:
    """Compare the reports in folders, of one model each, or with commas of its seeds, with those of the first.

    Raises:
        LinscoreError: for a folder without a report, an unknown figure, and as `compare`.
    """
    known = [one.name for one in fields(BlockMetrics) if "float" in str(one.type)]
    if figure is not None and figure not in known:
        raise LinscoreError(f"`figure={figure}` is unknown: choose one of {', '.join(known)}")
    groups = [[Report.load(folder) for folder in seeds.split(",")] for seeds in models]
    return compare(groups, SCORES if figure is None else [figure])
