"""What the terminal shows of `linscore tokens`: a row for each block, and its worst token."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from linscore.terminal import number
from linscore.token_errors.result import TokenErrors, WorstToken

MEANING = (
    "shares of what the block adds that its map misses, held out: mean and quantiles over tokens; α: Hill's tail "
    "index; token: what its entry of the vocabulary explains; first, state: what an affine map of the first and of the "
    "entering state does"
)


def token_table(found: TokenErrors) -> RenderableType:
    """One row for each block."""
    table = Table(title=f"{found.model}: {found.tokens:,} tokens of {found.text}")
    for heading in ("block", "missed", "50 %", "99 %", "α", "token", "first", "state"):
        table.add_column(heading, justify="right")
    table.add_column("worst token in its context", overflow="ellipsis", no_wrap=True, max_width=44)  # 120 in all
    for block in found.blocks:
        figures = (block.unexplained, block.quantiles["0.5"], block.quantiles["0.99"])
        explained = (block.explained_by_token, block.tokenwise, block.linear)
        table.add_row(
            str(block.index),
            *map(number, figures),
            number(block.tail_index, 2),
            *map(number, explained),
            _context(block.worst[0]) if block.worst else "",
        )
    return Group(table, Text(MEANING, style="dim"))


def _context(worst: WorstToken) -> Text:
    """The token between what stands before and behind it, line breaks shown."""
    before, token, after = (part.replace("\n", "⏎") for part in (worst.before[-24:], worst.token, worst.after[:16]))
    return Text.assemble(f"{worst.share:.0f}× ", (before, "dim"), (token, "bold yellow"), (after, "dim"))
