"""What the terminal shows of `linscore lens`: a row for each depth."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from linscore.lens.result import Lens
from linscore.terminal import BAR, BARS, bar, number, warning


def lens_table(lens: Lens) -> RenderableType:
    """One row for each depth."""
    table = Table(title=f"{lens.model}: {lens.tokens:,} tokens of {lens.text}")
    for heading in ("depth", "loss", "no norm", "agrees"):
        table.add_column(heading, justify="right")
    table.add_column("0 " + "agrees".center(BAR - 4, "·") + " 1", style=BARS)
    for heading in ("dimension", "± ", "anisotropy", "CKA to last", "angle to last"):
        table.add_column(heading, justify="right")
    cka, angles = lens.similarity["cka_debiased"], lens.similarity["angular_distance"]
    for one in lens.depths:
        table.add_row(
            str(one.depth),
            number(one.loss),
            number(one.loss_without_norm, 2),
            number(one.agrees, 3),
            bar(one.agrees),
            number(one.dimension, 1),
            number(one.dimension_error, 1),
            number(one.anisotropy, 3),
            number(cka[one.depth][-1], 3),
            number(angles[one.depth][-1], 3),
        )
    meaning = (
        "loss: nats a token of the next one, read off at this depth; agrees: with the model's likeliest next token"
    )
    return Group(table, Text(meaning, style="dim"), *([] if lens.note is None else [warning(lens.note)]))
