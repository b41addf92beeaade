"""What the terminal shows of a search: a row for each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from linscore.terminal import number

__all__ = ["steps_table"]


def steps_table(steps: Sequence[Mapping[str, Any]], by: str | None = None) -> RenderableType:
    """What each step changed, the share that is saved with it, and the loss on the measuring text, or what chose."""
    table = Table()
    for name in ("step", "saved", by or "loss", "added"):
        table.add_column(name, justify="right")
    table.add_column("changed")
    before: Mapping[str, str] = {}
    for index, step in enumerate(steps):
        added = step["loss"] - steps[0]["loss"]
        figures = (f"{step['saved']:.1%}", number(step["loss"]), number(added))
        table.add_row(str(index), *figures, changed(before, step["choice"]) or "the whole decoder")
        before = step["choice"]
    return table


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """In which units two choices differ: "3.mlp rank 8, 2 back"."""
    new = [f"{unit} {form}" for unit, form in after.items() if before.get(unit) != form]
    return ", ".join([*new, *(f"{unit} back" for unit in before if unit not in after)])
