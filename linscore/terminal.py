"""How figures look in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from linscore.spans import runs

BAR = 16  # characters
BARS = "not bold cyan"  # the style of a column of them, by which it is told from others
_PLAIN = ContextVar("plain", default=False)


def bar(share: float | None) -> str:
    """A bar of `BAR` characters for 0 to 1, in steps of an eighth of a character."""
    if share is None:
        return ""
    eighths = round(max(0.0, min(1.0, share)) * BAR * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(BAR)


def number(value: float | None, digits: int = 4) -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def ranges(indices: Sequence[int]) -> str:
    """`[0, 1, 2, 5]` → "0-2, 5"."""
    return ", ".join(map(str, runs(indices)))


def warning(message: str) -> Text:
    """A doubt, as every table has it under it."""
    return Text.assemble(("warning: ", "yellow"), message)


def sparkline(values: Sequence[float | None]) -> str:
    """One character for each value, from the lowest ▁ to the highest █ of them; a space where there is none."""
    there = [value for value in values if value is not None]
    low, high = min(there, default=0.0), max(there, default=0.0)
    steps = (
        None if value is None else round(7 * (value - low) / (high - low)) if high > low else 0 for value in values
    )
    return "".join(" " if step is None else "▁▂▃▄▅▆▇█"[step] for step in steps)


@contextmanager
def plainly() -> Iterator[None]:
    """Tables as lines with tabs, without colours, boxes and bars, for as long as the context lasts."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def is_plain() -> bool:
    """Whether columns are to be parted by tabs."""
    return _PLAIN.get()


def show(renderable: RenderableType) -> None:
    """Print to standard output; a pipe has no width, so it gets one that the tables fit."""
    if _PLAIN.get():
        print("\n".join(_plain_lines(renderable)))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(renderable)


def _plain_lines(renderable: RenderableType) -> Iterator[str]:
    """A table's title, headings and rows, without its bars; a text as it is."""
    if isinstance(renderable, Group):
        for part in renderable.renderables:
            yield from _plain_lines(part)
    elif isinstance(renderable, Table):
        if renderable.title is not None:
            yield str(renderable.title)
        columns = [column for column in renderable.columns if column.style != BARS]
        yield "\t".join(_one_line(column.header) for column in columns)
        yield from ("\t".join(map(_one_line, row)) for row in zip(*(one.cells for one in columns), strict=True))
    else:
        yield str(renderable)


def _one_line(cell: RenderableType) -> str:
    return " ".join(str(cell).split())
