"""What the terminal shows: one table with a small bar per block and span, the warnings under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from linscore.scoring.ranking import lowest_first
from linscore.scoring.report import Report, ScoreWarning
from linscore.spans import Span
from linscore.statistics.figures import BlockMetrics
from linscore.terminal import BAR, BARS, bar, number, ranges, warning

EXPECTED = ("drop", "full")  # forms whose expected loss is shown, where it was collected


def score_table(report: Report) -> RenderableType:
    """All blocks of a report, then its spans."""
    heldout = report.folds > 1
    table = Table(title=f"{report.model}: {report.tokens:,} tokens, {report.backend} backend, {report.precision}")
    table.add_column("block", justify="right")
    table.add_column("linearity", justify="right")
    table.add_column("held-out", justify="right")
    table.add_column("± " if report.folds > 2 else "diff", justify="right", style="dim")
    table.add_column("w/o residual", justify="right")
    table.add_column("held-out", justify="right")
    table.add_column("0 " + ("held-out" if heldout else "in-sample").center(BAR - 4, "·") + " 1", style=BARS)
    table.add_column("1 − cos", justify="right")
    table.add_column("‖δ‖/‖x‖", justify="right")
    table.add_column("eff. rank", justify="right")
    for form in EXPECTED if report.sensitivity_tokens else ():
        table.add_column(f"exp. loss, {form}", justify="right")
    for block in report.blocks:
        table.add_row(*_row(str(block.span), block, heldout))
        for name, part in (block.sub_blocks or {}).items():
            table.add_row(*_row(name, part, heldout), style="dim")
    table.add_section()
    for span in report.spans:
        table.add_row(*_row(str(span.span), span, heldout))
    doubts = [warning(concerning(doubt)) for doubt in report.warnings]
    return Group(table, Text("bars: linearity without residual", style="dim"), *doubts)


def _row(label: str, block: BlockMetrics, heldout: bool) -> Sequence[str]:
    shown = block.linearity_no_residual_heldout if heldout else block.linearity_no_residual
    return (
        label,
        number(block.linearity),
        number(block.linearity_heldout),
        number(block.linearity_heldout_spread),
        number(block.linearity_no_residual),
        number(block.linearity_no_residual_heldout),
        bar(shown),
        number(block.block_influence),
        number(block.delta_ratio, 3),
        number(block.effective_rank, 1),
        *(number(block.expected_losses.get(form)) for form in EXPECTED if block.expected_losses is not None),
    )


def concerning(doubt: ScoreWarning) -> str:
    """A doubt, behind the blocks and spans that it concerns."""
    blocks, spans = doubt.blocks or [], doubt.spans or []
    where = [f"block{'s' * (len(blocks) > 1)} {ranges(blocks)}"] if blocks else []
    where += [f"span{'s' * (len(spans) > 1)} {', '.join(spans)}"] if spans else []
    return " and ".join(where) + ": " * bool(where) + doubt.message


def rank_table(figures: Mapping[Span, float | None], by: str, whole: float | None = None) -> RenderableType:
    """Blocks or spans in the order of one figure, with its bar scaled to the largest, and that of the whole model."""
    largest = max((abs(value) for value in figures.values() if value is not None), default=0) or 1.0
    order = "lowest" if lowest_first(by) else "highest"
    table = Table(title=f"by {by}, {order} first")
    table.add_column("rank", justify="right", style="dim")
    table.add_column("block", justify="right")
    table.add_column(by, justify="right")
    table.add_column("", style=BARS)
    for place, (span, value) in enumerate(figures.items(), 1):
        table.add_row(str(place), str(span), number(value, 6), bar(None if value is None else value / largest))
    note = [] if whole is None else [Text(f"{by} of the whole model: {number(whole, 6)}", style="dim")]
    return Group(table, *note)
