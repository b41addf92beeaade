"""What the terminal shows of `linscore judge`: one row for each model."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table

from linscore.evaluation.judged import Grade, Judged
from linscore.terminal import number


def judged_table(found: Sequence[Judged], judge: str) -> RenderableType:
    """The mean of each grade, its standard error over texts beside it."""
    names = list(dict.fromkeys(name for one in found for name in one.grades))
    with_perplexity = any(one.perplexity is not None for one in found)
    table = Table(title=f"judged by {judge}: means ± standard errors over texts")
    table.add_column("model", overflow="fold", min_width=12)
    for heading in ("texts", *names, *(["perplexity"] if with_perplexity else [])):
        table.add_column(heading, justify="right")
    for one in found:
        last = [number(one.perplexity)] if with_perplexity else []
        table.add_row(one.model, str(one.judged), *(_shown(one.grades.get(name)) for name in names), *last)
    return table


def _shown(grade: Grade | None) -> str:
    if grade is None or grade.stderr is None:
        return number(None if grade is None else grade.mean)
    return f"{number(grade.mean)} ± {number(grade.stderr)}"
