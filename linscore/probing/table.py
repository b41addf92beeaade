"""What the terminal shows of `linscore probe`: one row per layer."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from linscore.probing.features import POOLED
from linscore.probing.probe import Probing
from linscore.terminal import BARS, bar, number, ranges, warning

__all__ = ["probe_table"]


def probe_table(probing: Probing) -> RenderableType:
    """Accuracy and macro F1 of every layer's probe, under them what to hold them against and what to doubt."""
    table = Table(title=f"{probing.model}: {probing.texts:,} texts, {POOLED[probing.pool]}")
    table.add_column("layer", justify="right")
    table.add_column("accuracy", justify="right")
    table.add_column("±", justify="right", style="dim")
    table.add_column("macro F1", justify="right")
    table.add_column("±", justify="right", style="dim")
    table.add_column("0 " + "accuracy".center(12, "·") + " 1", style=BARS)
    for one in probing.layers:
        figures = (one.accuracy, one.accuracy_std, one.macro_f1, one.macro_f1_std)
        table.add_row(str(one.layer), *map(number, figures), bar(one.accuracy))
    spread = f"±: standard deviation over {probing.folds} folds"
    notes = f"{probing.data}; always the most frequent class: {number(probing.majority)}; {spread}"
    return Group(table, Text(notes, style="dim"), *map(warning, _doubts(probing)))


def _doubts(probing: Probing) -> list[str]:
    doubts = []
    if probing.truncated:
        doubts.append(
            f"{probing.truncated:,} of the texts lost their end: a text is read up to {probing.longest:,} tokens"
        )
    unfinished = [one.layer for one in probing.layers if not one.converged]
    if unfinished:
        doubts.append(f"layers {ranges(unfinished)}: the probe's fit did not converge")
    return doubts
