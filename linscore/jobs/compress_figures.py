"""A budget met by figures alone: from the moments of a score, or of the text that is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from linscore.compression.budget import Budget
from linscore.compression.rows import rows_of, unit_rows
from linscore.errors import LinscoreError
from linscore.jobs.compress_search import Table, split
from linscore.jobs.compress_texts import FIT, Texts
from linscore.models.load import Pretrained
from linscore.options.cut import CutOptions
from linscore.scoring.belongs import check_belongs
from linscore.scoring.names import MomentsName
from linscore.scoring.ranking import EXPECTED, PERPLEXITY, default_by, figure_of
from linscore.scoring.report import MOMENTS, Report
from linscore.spans import Span
from linscore.statistics.moments import Moments
from linscore.statistics.moments_file import load_moments, stored_names


def named_figure(cut: CutOptions, budget: Budget, measured: str | None) -> str | None:
    """The figure that is to choose, in full; None where losses are measured.

    Raises:
        LinscoreError: for a figure that cannot be had, or does not go with the other options.
    """
    by = None if cut.by is None else figure_of(cut.by)
    if cut.moments is not None:
        if by == PERPLEXITY:
            raise LinscoreError(f"`by={by}` is measured on a text: leave out `moments`, or give a figure")
        by = by or default_by(Report.load(cut.moments))
    if by in (None, PERPLEXITY):
        return None
    if measured is not None:
        raise LinscoreError(f"`measured` holds losses, and {by} chooses without any: leave one of both out")
    if budget.kind == "loss" and by != EXPECTED:
        raise LinscoreError(f"{by} says nothing of nats: give `by={EXPECTED}`, or another budget than `loss`")
    return by


def figures_table(
    loaded: Pretrained, texts: Texts | None, moments: str | None, by: str, say: Callable[[str], None]
) -> Table:
    """What is chosen from by a figure.

    Args:
        loaded: the whole decoder.
        texts: on which moments are collected where there are none.
        moments: the folder of a score.
        by: the figure, in full.
        say: takes a line for what cannot be.

    Raises:
        LinscoreError: for moments of another decoder or without what it takes.
    """
    sub_blocks = split(loaded.decoder, say)
    if moments is None:
        assert texts is not None
        rows = unit_rows(loaded.decoder, texts.fit, sub_blocks, len(FIT), say, gradients=by == EXPECTED)
        return Table.by_figure(rows, sub_blocks, by)
    held, origin = _stored(loaded, moments)
    if sub_blocks is not None and str(MomentsName.block(0, "mlp")) not in held:
        say(f"only whole blocks can go: {moments} was scored without --sub-blocks")
        sub_blocks = None
    return Table.by_figure(rows_of(loaded.decoder, sub_blocks, held), sub_blocks, by, origin)


def _stored(loaded: Pretrained, folder: str) -> tuple[dict[str, Moments], dict[str, Any]]:
    """All moments of a score of this decoder, and of what they are."""
    report, path = Report.load(folder), Path(folder) / MOMENTS
    check_belongs(report, loaded.decoder, loaded.name)
    kinds = ("block", "delta", "gradient")
    held, facts = load_moments(path, [name for name in stored_names(path) if name.partition(".")[0] in kinds])
    if facts.get("run") != report.run:
        raise LinscoreError(f"{folder} is being replaced by another run: score {loaded.name} again")
    every = [str(MomentsName.across(Span(i, i))) for i in range(report.depth)]
    missing = next((name for name in every if name not in held), None)
    if missing is not None:
        raise LinscoreError(f"{folder} has no moments of {missing}: score all blocks of {loaded.name}")
    return held, {"model": report.model, "text": report.text, "tokens": report.tokens}
