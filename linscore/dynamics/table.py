"""What the terminal shows of `linscore dynamics`: one row per checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from linscore.dynamics.series import Dynamics, ScoredCheckpoint
from linscore.scoring.block_figures import FIGURES
from linscore.terminal import BAR, BARS, bar, number, sparkline, warning


def dynamics_table(dynamics: Dynamics) -> RenderableType:
    """One row per checkpoint, means over the blocks; under them every doubt of the reports, once."""
    table = Table(title=f"{dynamics.text}: {dynamics.tokens:,} tokens, means over {dynamics.depth} blocks")
    table.add_column("step", justify="right")
    table.add_column("checkpoint", overflow="fold", min_width=12)
    for heading in ("linearity", "held-out", "w/o residual", "held-out"):
        table.add_column(heading, justify="right")
    table.add_column("0 " + "held-out".center(BAR - 4, "·") + " 1", style=BARS)
    table.add_column("cosine", justify="right")
    for one in dynamics.scored:
        *scores, cosine = (one.mean(figure) for figure in FIGURES)
        label = (f"{one.checkpoint.step:,}", str(one.checkpoint))
        table.add_row(*label, *map(number, scores), bar(scores[-1]), number(cosine))
    series = [one.mean("linearity_no_residual_heldout") for one in dynamics.scored]
    over = (
        f"over the steps, without residual, held out: {sparkline(series)} {number(series[0])} to {number(series[-1])}"
    )
    notes = [Text("bars: linearity without residual", style="dim"), Text(over, style="dim")]
    return Group(table, *notes, *_doubts(dynamics.scored))


def _doubts(scored: Sequence[ScoredCheckpoint]) -> list[Text]:
    steps: dict[str, list[str]] = {}
    for one in scored:
        for message in one.warnings:
            steps.setdefault(message, []).append(f"{one.checkpoint.step:,}")
    everywhere = len(scored)
    return [
        warning(message if len(where) == everywhere else f"step {', '.join(where)}: {message}")
        for message, where in steps.items()
    ]
