"""What the terminal shows of `linscore evaluate`: one row per model."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table

from linscore.evaluation.result import Evaluation
from linscore.evaluation.tasks import TaskResult
from linscore.terminal import number

__all__ = ["evaluation_table"]

# heading, attribute of `Evaluation`, how it is written
_COLUMNS = (
    ("parameters", "parameters", "{:,}"),
    ("weights\nMiB", "weights_mib", "{:,.1f}"),
    ("peak\nMiB", "peak_mib", "{:,.1f}"),
    ("tokens/s", "tokens_per_second", "{:,.0f}"),
    ("loss", "loss", "{:.4f}"),
    ("perplexity", "perplexity", "{:,.3f}"),
    ("bits/byte", "bits_per_byte", "{:.4f}"),
    ("average", "average", "{:.4f}"),
    ("retained\n%", "retained", "{:.2f}"),
)


def evaluation_table(evaluations: Sequence[Evaluation]) -> RenderableType:
    """All evaluations of a run; columns in which no model has a figure are left out."""
    shown = [column for column in _COLUMNS if any(getattr(one, column[1]) is not None for one in evaluations)]
    tasks = {name: result.metric for one in evaluations for name, result in one.tasks.items()}
    table = Table(title=_title(evaluations))
    table.add_column("model", overflow="fold", min_width=12)
    table.add_column("form")
    for heading in (*(heading for heading, *_ in shown), *(f"{name}\n{metric}" for name, metric in tasks.items())):
        table.add_column(heading, justify="right")
    for one in evaluations:
        figures = [_figure(getattr(one, name), style) for _, name, style in shown]
        table.add_row(one.model, one.form, *figures, *(_answer(one.tasks.get(name)) for name in tasks))
    return table


def _title(evaluations: Sequence[Evaluation]) -> str | None:
    """The text, and how much of it: models with different tokenizers make different numbers of tokens of it."""
    if not evaluations or evaluations[0].text is None:
        return None
    tokens = sorted({one.tokens for one in evaluations if one.tokens is not None})
    windows = sorted({one.window for one in evaluations if one.window is not None})
    return f"{evaluations[0].text}: {_counts(tokens)} tokens, windows of {_counts(windows)}"


def _counts(counts: Sequence[int]) -> str:
    return " or ".join(f"{count:,}" for count in counts)


def _figure(value: float | None, style: str) -> str:
    return number(None) if value is None else style.format(value)


def _answer(result: TaskResult | None) -> str:
    """A task's main figure, its standard error under it."""
    if result is None or result.stderr is None:
        return number(None if result is None else result.value)
    return f"{number(result.value)}\n± {number(result.stderr)}"
