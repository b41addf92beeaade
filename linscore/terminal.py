"""How figures look in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from linscore.spans import runs

BAR = 16  # characters


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


def show(renderable: RenderableType) -> None:
    """Print to standard output; a pipe has no width, so it gets one that the tables fit."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(renderable)
