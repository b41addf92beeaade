"""What the pictures of results share: panels one above the other, and in which format they are saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from linscore.files.whole import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "drawn_as", "file_of", "picture", "ticks"]

WIDTH, DPI = 8, 120  # inches, and dots in one
FORMATS = ("png", "svg")
_FORMAT = ContextVar("format", default=FORMATS[0])


@contextmanager
def drawn_as(kind: str) -> Iterator[None]:
    """Pictures have this one of `FORMATS` for as long as the context lasts."""
    token = _FORMAT.set(kind)
    try:
        yield
    finally:
        _FORMAT.reset(token)


def file_of(name: str) -> str:
    """What the file of a picture is called."""
    return f"{name}.{_FORMAT.get()}"


@contextmanager
def picture(path: str | Path, panels: int, height: float) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of panels over one horizontal axis, saved at `path` when the context is left without an error.

    Args:
        path: of the file, whose name ends with its format.
        panels: how many.
        height: of them all, in inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = list(figure.subplots(panels, sharex=True, squeeze=False)[:, 0])
    for panel in axes:
        panel.grid(alpha=0.3)
    yield figure, axes
    with whole_file(path) as new:
        figure.savefig(new, dpi=DPI, format=Path(path).suffix[1:])


def ticks(count: int) -> list[int]:
    """At most 13 whole numbers of 0 to `count` − 1."""
    return list(range(0, count, -(-count // 13)))
