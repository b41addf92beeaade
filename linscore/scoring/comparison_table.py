"""What the terminal shows of `linscore compare`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from linscore.scoring.comparison import Comparison, Difference
from linscore.terminal import number, ranges


def comparison_table(comparisons: Sequence[Comparison]) -> RenderableType:
    """A table for each comparison, with the blocks whose difference exceeds its error marked."""
    return Group(*(part for one in comparisons for part in (_table(one), Text(_verdict(one), style="dim"), Text(""))))


def _table(one: Comparison) -> Table:
    table = Table(title=f"{one.figure}: {', '.join(one.other)} − {', '.join(one.first)}")
    for heading in ("block", "first", "other", "difference", "± ", ""):
        table.add_column(heading, justify="right")
    for block in one.blocks:
        table.add_row(*_row(block), style="bold" if block.exceeds else None)
    return table


def _row(block: Difference) -> tuple[str, ...]:
    figures = (block.first, block.other)
    mark = "●" if block.exceeds else ""
    return (str(block.block), *map(number, figures), f"{block.difference:+.4f}", number(block.error), mark)


def _verdict(one: Comparison) -> str:
    if one.spread is None:
        return "no spread is known: give several seeds of each model, as A1,A2 B1,B2"
    where = f"at blocks {ranges(one.exceeding)}" if one.exceeding else "nowhere"
    return f"±: standard error over {one.spread}; more than twice that apart {where}"
